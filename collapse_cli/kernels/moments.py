"""Saved moments of an optimizer: the second moment against ε, and the update that the moments would make next."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.spectrum import entropy_rank, gram_of

__all__ = ["AdamSettings", "SecondMoment", "adam_update", "second_moment", "update_rank"]

#: Entries upcast to float64 at a time: 32 MiB.
_BLOCK_ENTRIES = 1 << 22
#: Most rows named in evidence.
_NAMED_ROWS = 8


@final
@dataclass(frozen=True, slots=True)
class AdamSettings:
    """β₁, β₂, ε and the number of steps taken; 0 steps: unknown, so that no bias is corrected."""

    betas: tuple[float, float]
    epsilon: float
    step: int

    @property
    def corrections(self) -> tuple[float, float]:
        """1 − βᵗ of the first and the second moment (Kingma & Ba 2014, algorithm 1)."""
        first, second = ((1.0 - beta**self.step) if self.step > 0 else 1.0 for beta in self.betas)
        return first or 1.0, second or 1.0


@final
@dataclass(frozen=True, slots=True)
class SecondMoment:
    """What the second moment of one parameter says.

    `dominated` and `dead` are shares of entries: √v̂ ≤ ε, and v = 0 exactly. `median_root` is the median √v̂.
    `top_share` is the share of Σv in the largest hundredth of the entries, None if the sum is 0.
    """

    dominated: float
    dead: float
    dead_rows: int
    first_dead_rows: tuple[int, ...]
    median_root: float
    top_share: float | None


def second_moment(moment: Float[Tensor, "..."], settings: AdamSettings) -> SecondMoment:
    """The statistics of a second moment without negative entries, at least one entry."""
    entries = moment.reshape(-1)
    correction = settings.corrections[1]
    # √v̂ ≤ ε is v ≤ ε²·(1 − β₂ᵗ); in float64, where 1e-8² is a number with all its digits
    bound, dominated, total = settings.epsilon**2 * correction, 0, 0.0
    for block in torch.split(entries, _BLOCK_ENTRIES):
        values = block.double()
        dominated += int((values <= bound).sum())
        total += float(values.sum())
    rows = moment.reshape(moment.shape[0], -1) if moment.dim() > 1 else moment.reshape(-1, 1)
    dead_rows = (rows == 0).all(1).nonzero().flatten()
    top = torch.topk(entries, math.ceil(entries.numel() / 100), sorted=False).values.double()
    return SecondMoment(
        dominated=dominated / entries.numel(),
        dead=int((entries == 0).sum()) / entries.numel(),
        dead_rows=dead_rows.numel(),
        first_dead_rows=tuple(dead_rows[:_NAMED_ROWS].tolist()),
        median_root=math.sqrt(float(entries.median()) / correction),
        top_share=float(top.sum()) / total if total > 0.0 else None,
    )


def adam_update(
    first: Float[Tensor, "..."], second: Float[Tensor, "..."], settings: AdamSettings
) -> tuple[float, Float[Tensor, "out in"]]:
    """Root mean square of m̂/(√v̂+ε), and that update as a matrix divided by its largest entry, float32.

    0 where the denominator is 0: an entry that never had a gradient does not move.
    """
    largest, squares = 0.0, 0.0
    for update in _updates(first, second, settings):
        largest = max(largest, float(update.abs().max()))
        squares += float(update.square().sum())
    scale = largest or 1.0
    parts = [(update / scale).float() for update in _updates(first, second, settings)]
    matrix = torch.cat(parts).reshape(first.shape[0] if first.dim() > 1 else 1, -1)
    return math.sqrt(squares / first.numel()), matrix


def _updates(
    first: Float[Tensor, "..."], second: Float[Tensor, "..."], settings: AdamSettings
) -> Iterator[Float[Tensor, " entries"]]:
    of_first, of_second = settings.corrections
    parts = (torch.split(moment.reshape(-1), _BLOCK_ENTRIES) for moment in (first, second))
    for m, v in zip(*parts, strict=True):
        root = (v.double() / of_second).sqrt_().add_(settings.epsilon)
        yield (m.double() / of_first).div_(root).masked_fill_(root == 0.0, 0.0)


def update_rank(update: Float[Tensor, "out in"]) -> float:
    """Entropy rank of the energies of an update; 0 if it does not move.

    Raises:
        NotConverged: LAPACK gave up.
    """
    try:
        energies: Tensor = torch.linalg.eigvalsh(gram_of(update))
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", where="update", got=str(error)) from error
    return entropy_rank(energies.clamp_min(0.0))
