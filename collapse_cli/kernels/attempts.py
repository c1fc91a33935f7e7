"""Repeated attempts at the same problems: how many succeed, and what more attempts would give."""

import math
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

from collapse_cli.kernels.batches import Batch

__all__ = ["Attempts", "pass_at"]


@final
class Attempts:
    """How many problems were solved by 0, 1, …, S of S attempts; `problems` in all, `attempts` is S.

    Every outcome but 0 counts as a success; `impossible` counts those that are neither 0 nor 1.
    """

    def __init__(self, role: str = "correct") -> None:
        self.role, self.impossible = role, 0
        self._counts = torch.zeros(0, dtype=torch.int64)

    def update(self, batch: Batch) -> None:
        """Adds the problems of a batch."""
        outcomes = batch.selected(self.role).long()
        self.impossible += int(((outcomes != 0) & (outcomes != 1)).sum())
        self._add(torch.bincount((outcomes != 0).sum(1), minlength=outcomes.shape[1] + 1).cpu())

    def merge(self, other: "Attempts") -> None:
        """Adds all problems of another accumulator of the same role."""
        if other.role != self.role:
            raise ValueError(f"attempts of {self.role!r} and of {other.role!r} do not merge")
        self.impossible += other.impossible
        self._add(other._counts)

    def _add(self, counts: Int[Tensor, " successes"]) -> None:
        if counts.numel():
            self._counts = self._counts + counts if self._counts.numel() else counts.clone()

    @property
    def counts(self) -> Int[Tensor, " successes"]:
        """Problems by the number of attempts that succeed, from 0 to S."""
        return self._counts

    @property
    def problems(self) -> int:
        """Problems."""
        return int(self._counts.sum())

    @property
    def attempts(self) -> int:
        """S, attempts at each problem."""
        return max(self._counts.numel() - 1, 0)


def pass_at(counts: Int[Tensor, " successes"], draws: int) -> float:
    """pass@n: the chance that one of n attempts drawn from the S of a problem succeeds, averaged over the problems.

    1 − C(S − c, n)/C(S, n) for c successes, without bias (Chen et al. 2021, section 2.1). `counts` are the problems
    with 0, 1, …, S successes, at least one in all; n ≤ S.
    """
    attempts = counts.numel() - 1
    missed = torch.tensor([_missed(attempts, c, draws) for c in range(attempts + 1)], dtype=torch.float64)
    return 1.0 - float((counts.double() * missed).sum() / counts.sum())


def _missed(attempts: int, successes: int, draws: int) -> float:
    """C(S − c, n)/C(S, n), by logarithms: the binomials themselves leave float64 at S = 1030."""
    failures = attempts - successes
    if failures < draws:
        return 0.0
    return math.exp(_log_binomial(failures, draws) - _log_binomial(attempts, draws))


def _log_binomial(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
