"""How the predictions of a run of classifiers are spread over the classes, and how that moves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = [
    "Interval",
    "divergence",
    "divergence_null",
    "effective",
    "intervals",
    "newest_classes",
    "share_of",
    "unused_null",
]

#: Resamples of a bootstrap interval, and its share.
_RESAMPLES: Final = 200
_SHARE: Final = 0.95
#: Entries of one block of resamples: 32 MiB in float64.
_BLOCK_ENTRIES: Final = 1 << 22


@final
@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % bootstrap interval."""

    low: float
    high: float


def divergence(left: Int[Tensor, " classes"], right: Int[Tensor, " classes"]) -> float:
    """Jensen–Shannon divergence of two histograms, nats, 0…ln 2 (Lin 1991)."""
    p, q = (counts.double() / counts.sum() for counts in (left, right))
    middle = (p + q) / 2.0
    terms = sum(torch.special.xlogy(share, share / torch.where(middle > 0.0, middle, 1.0)).sum() for share in (p, q))
    return min(math.log(2.0), max(0.0, float(terms) / 2.0))


def divergence_null(left: Int[Tensor, " classes"], right: Int[Tensor, " classes"]) -> float:
    """Expectation of two draws from one distribution: (K_used − 1)/8·(1/N₁ + 1/N₂), a quarter of χ²/2N to first order.

    K_used counts the classes that occur in either.
    """
    used = int(((left + right) > 0).sum())
    return (used - 1) / 8.0 * (1.0 / int(left.sum()) + 1.0 / int(right.sum()))


def effective(counts: Float[Tensor, "... classes"]) -> Float[Tensor, "..."]:
    """The exponential of the entropy of the shares over the number of classes."""
    shares = counts.double() / counts.sum(-1, keepdim=True)
    result: Tensor = -torch.special.xlogy(shares, shares).sum(-1)
    return result.exp() / counts.shape[-1]


def unused_null(classes: int, rows: int) -> float:
    """Expected share of classes that are never drawn in so many uniform draws."""
    return math.exp(rows * math.log1p(-1.0 / classes)) if classes > 1 else 0.0


def intervals(counts: Int[Tensor, " classes"], generator: torch.Generator) -> dict[str, Interval]:
    """Bootstrap intervals of the share of effective classes and of the largest share.

    Every count is drawn again from a Poisson distribution: rows drawn again, but that their number varies by 1/√N.
    """
    rates = counts[counts > 0].double()
    block = max(1, _BLOCK_ENTRIES // rates.numel())
    found: dict[str, list[Tensor]] = {"effective_classes": [], "majority_share": []}
    for start in range(0, _RESAMPLES, block):
        drawn = torch.poisson(rates.expand(min(block, _RESAMPLES - start), -1), generator=generator)
        # a resample in which nothing was drawn is the original
        drawn = torch.where(drawn.sum(1, keepdim=True) > 0.0, drawn, rates)
        found["effective_classes"].append(effective(drawn) * (rates.numel() / counts.numel()))
        found["majority_share"].append(drawn.amax(1) / drawn.sum(1))
    edges = torch.tensor([(1.0 - _SHARE) / 2.0, (1.0 + _SHARE) / 2.0], dtype=torch.float64)
    return {name: Interval(*torch.quantile(torch.cat(parts), edges).tolist()) for name, parts in found.items()}


def newest_classes(by_group: Int[Tensor, "groups classes"]) -> tuple[int, ...]:
    """The classes that are labels in the last group and in none before; none where there is one group."""
    if by_group.shape[0] < 2:
        return ()
    is_new = (by_group[-1] > 0) & (by_group[:-1].sum(0) == 0)
    return tuple(is_new.nonzero().flatten().tolist())


def share_of(counts: Int[Tensor, " classes"], classes: Sequence[int]) -> float:
    """Share of a histogram in some classes."""
    chosen = [one for one in classes if one < counts.numel()]
    return float(counts[chosen].sum()) / max(1, int(counts.sum()))
