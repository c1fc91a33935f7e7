"""Whether samples lie nearer to training rows than training rows to one another, from the two sets of distances.

Distances between training rows may come from n of N rows, which lie farther apart. With r = N/n, a fresh row is
farther than t from N rows with at least S(t)^r, S the share of distances beyond t among n: the nearest of r sets of n,
and E S_x^r ≥ (E S_x)^r over the places x (Jensen). So what is read against S^r never blames fresh rows, and is exact
for r = 1.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["copying_auc", "copying_error", "quantile"]


def copying_auc(found: Float[Tensor, " samples"], among: Float[Tensor, " rows"], *, ratio: float = 1.0) -> float:
    """P(d < D) + ½P(d = D) for d from `found` and D among training rows: the Mann–Whitney U over M·N for ratio 1."""
    ordered, count = among.sort().values, among.numel()
    beyond = (count - torch.searchsorted(ordered, found, right=True)).double() / count
    at_least = (count - torch.searchsorted(ordered, found)).double() / count
    return float((beyond.pow(ratio) + at_least.pow(ratio)).mean()) / 2.0


def copying_error(samples: int, rows: int) -> float:
    """Standard deviation of the statistic for draws of one distribution, √((M+N+1)/(12MN)) (Mann & Whitney 1947)."""
    return math.sqrt((samples + rows + 1) / (12.0 * samples * rows))


def quantile(among: Float[Tensor, " rows"], share: float, *, ratio: float = 1.0) -> float:
    """The distance below which so large a share of fresh rows lies: where 1 − S^ratio is `share`."""
    return float(torch.quantile(among, 1.0 - (1.0 - share) ** (1.0 / ratio)))
