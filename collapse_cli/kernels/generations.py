"""Generated rows of one generation after the other beside real ones: spread, distance, tails, recall, and a law."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels import bures
from collapse_cli.kernels.generated_sets import at_most, distinct
from collapse_cli.kernels.manifold_coverage import NEIGHBOURS
from collapse_cli.kernels.set_distances import ball_hits, nearest

__all__ = ["Generation", "Origin", "law_advantage", "origin", "shrunk_covariance"]

#: Share of real rows within the radius whose outside is the tail.
_WITHIN: Final = 0.99
#: A residual below this share of the largest magnitude is rounding.
_ROUNDING: Final = 1e-12


@final
@dataclass(frozen=True, slots=True)
class Generation:
    """One generation beside the origin: total variance, squared Fréchet distance, share of the tail, and recall."""

    variance: float
    distance: float | None
    tail: float
    recall: float


@final
class Origin:
    """Half of the real rows, to which all are compared, and the other half, which says what chance gives."""

    def __init__(self, real: Float[Tensor, "rows features"], size: int) -> None:
        order = torch.randperm(real.shape[0], generator=torch.Generator().manual_seed(0)).to(real.device)
        self.rows, other = (real[order[part * size : (part + 1) * size]].double() for part in range(2))
        self.size, self._mean = size, self.rows.mean(0)
        self._gaussian = bures.gaussian_of_rows(self.rows)
        covariance = shrunk_covariance(self.rows)
        values, vectors = torch.linalg.eigh(covariance)
        # directions in which real rows do not vary at all have no radius
        is_used = values > _ROUNDING * values[-1].clamp_min(0.0)
        self._whitening = vectors[:, is_used] * values[is_used].rsqrt()
        self._radius = float(self._lengths(other).quantile(_WITHIN))
        self.chance = self.compared(other)

    def _lengths(self, rows: Float[Tensor, "rows features"]) -> Float[Tensor, " rows"]:
        lengths: Tensor = ((rows - self._mean) @ self._whitening).square().sum(1)
        return lengths

    def compared(self, rows: Float[Tensor, "rows features"]) -> Generation:
        """That many rows of a generation, cut to the size of the origin by a fixed seed; the distance needs N > D."""
        chosen = at_most(rows, self.size).double()
        made = bures.gaussian_of_rows(chosen)
        distance = bures.squared_distance(made, self._gaussian)[1] if self.size > chosen.shape[1] else None
        tail = float((self._lengths(chosen) > self._radius).double().mean())
        return Generation(made.trace, distance, tail, self._recall(chosen))

    def _recall(self, rows: Float[Tensor, "rows features"]) -> float:
        """Share of the origin in the ball of a generated row that reaches to its fifth other one; copies have none."""
        different = distinct(rows)
        if different.shape[0] <= NEIGHBOURS:
            return 0.0
        radii = nearest(different, count=NEIGHBOURS).distances[:, -1]
        return float((ball_hits(self.rows, different, radii).balls > 0).double().mean())

    @property
    def variance(self) -> float:
        """Total variance of the real rows."""
        return self._gaussian.trace


def origin(real: Float[Tensor, "rows features"], generations: Sequence[Float[Tensor, "rows features"]]) -> Origin:
    """What generations are compared with, at a size that all of them and both halves have."""
    return Origin(real, min(real.shape[0] // 2, *(rows.shape[0] for rows in generations)))


def shrunk_covariance(rows: Float[Tensor, "rows features"]) -> Float[Tensor, "features features"]:
    """The covariance (ddof 0) shrunk towards a multiple of the identity as Ledoit & Wolf (2004) say; float64."""
    centred = rows.double() - rows.double().mean(0)
    count, width = centred.shape
    covariance = centred.T @ centred / count
    level = float(covariance.trace()) / width
    target = level * torch.eye(width, dtype=torch.float64, device=rows.device)
    dispersion = float((covariance - target).square().sum())
    error = (float(centred.square().sum(1).square().mean()) - float(covariance.square().sum())) / count
    share = min(1.0, max(0.0, error) / dispersion) if dispersion > 0.0 else 0.0
    return (1.0 - share) * covariance + share * target


def law_advantage(generations: Sequence[int], distances: Sequence[float]) -> tuple[float, dict[str, float]]:
    """AICc of a + b·g less that of a + b·Σ_{i≤g} 1/i², and both slopes; at least five generations from 1 on.

    The first is the error of training on the last generation alone, the second that of training on all so far
    (Gerstgrasser et al. 2024). Small-sample AICc: Hurvich & Tsai (1989), three parameters.
    """
    linear = [float(g) for g in generations]
    bounded = [sum(1.0 / i**2 for i in range(1, g + 1)) for g in generations]
    left, right = _fit(linear, distances), _fit(bounded, distances)
    # both fits have as many parameters, so that the corrections cancel
    return len(distances) * math.log(left[0] / right[0]), {"linear_slope": left[1], "bounded_slope": right[1]}


def _fit(at: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Residual sum of squares of a straight line, not below rounding, and its slope."""
    x, y = torch.tensor(at, dtype=torch.float64), torch.tensor(values, dtype=torch.float64)
    x, centred = x - x.mean(), y - y.mean()
    slope = float((x * centred).sum() / x.square().sum())
    floor = max(float(y.abs().max()) * _ROUNDING, 1e-150) ** 2 * len(values)
    return max(float((centred - slope * x).square().sum()), floor), slope
