"""Two clouds of directions in one space: how far apart, how evenly spread between them, how well told apart."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.batches import row_hash
from collapse_cli.kernels.cross_moments import CrossMoments
from collapse_cli.kernels.feature_moments import Moments
from collapse_cli.kernels.isotropy import mean_cosine

__all__ = [
    "CentroidGap",
    "CrossDistances",
    "centroid_gap",
    "cross_distances",
    "relative_modality_gap",
    "ridge_separability",
]

#: Entries of one tile of cosines: 32 MiB in float64.
_TILE_ENTRIES = 1 << 22
#: Below it a mean distance between unit rows is rounding: sums of N products of relative error 2⁻⁵³.
_ROUNDING = 1e-12
#: Ridge penalty over the mean eigenvalue of the scatter: small enough not to hide a direction with 1 % of the mean.
_PENALTY = 1e-3


@final
@dataclass(frozen=True, slots=True)
class CentroidGap:
    """‖Δ‖ between the mean directions, and the spread 1 − ‖z̄‖² about each mean."""

    distance: float
    left_spread: float
    right_spread: float

    @property
    def variance_share(self) -> float | None:
        """¼‖Δ‖² over itself plus the mean spread: the share of the pooled variance between the two; None for 0/0."""
        between = self.distance**2 / 4.0
        total = between + (self.left_spread + self.right_spread) / 2.0
        return between / total if total > _ROUNDING else None


def centroid_gap(left: Moments, right: Moments) -> CentroidGap:
    """The gap between two modalities, from their unit moments; neither may consist of zero rows alone."""
    one, other = left.unit_sum / left.unit_count, right.unit_sum / right.unit_count
    spreads = (max(0.0, 1.0 - float(centre @ centre)) for centre in (one, other))
    return CentroidGap(float((one - other).norm()), *spreads)


def relative_modality_gap(left: Moments, right: Moments, pairs: CrossMoments) -> float | None:
    """d(m)/(d(m) + ½(d(aa) + d(bb))), d(c) = ½ − c/2 of mean cosines; pairs of a row with itself left out.

    None for 0/0 (all rows in one direction) and below two rows. References: Schrodi et al., Two effects, one trigger
    (2024).
    """
    within = mean_cosine(left.unit_sum, left.unit_count), mean_cosine(right.unit_sum, right.unit_count)
    if within[0] is None or within[1] is None or pairs.cosine_count == 0:
        return None
    across = max(0.0, (1.0 - pairs.cosine_sum / pairs.cosine_count) / 2.0)
    inside = max(0.0, (2.0 - within[0] - within[1]) / 4.0)
    return across / (across + inside) if across + inside > _ROUNDING else None


@final
@dataclass(frozen=True, slots=True)
class CrossDistances:
    """ln mean_{i≠j} exp(−2‖a_i−b_j‖²), mean of ‖a_i−b_i‖² − min_{j≠i}‖a_i−b_j‖², and how often that is negative."""

    potential: float
    relative_alignment: float
    nearest_share: float


def cross_distances(left: Float[Tensor, "rows features"], right: Float[Tensor, "rows features"]) -> CrossDistances:
    """Squared distances between all rows of two clouds of as many (two or more) unit rows, in float64 tiles."""
    count = left.shape[0]
    total = alignment = 0.0
    nearest = 0
    step = max(1, _TILE_ENTRIES // count)
    squares, others = left.square().sum(1), right.square().sum(1)
    for start in range(0, count, step):
        chosen = slice(start, start + step)
        own = (left[chosen] - right[chosen]).square().sum(1)
        distances = (squares[chosen, None] + others - 2.0 * left[chosen] @ right.T).clamp_min_(0.0)
        # a row and its own partner are left out of both
        distances.diagonal(start).fill_(torch.inf)
        margins = own - distances.amin(1)
        alignment += float(margins.sum())
        nearest += int((margins < 0.0).sum())
        total += float(distances.mul_(-2.0).exp_().sum())
    # distances of unit rows are at most 4, so the mean is at least e⁻⁸
    return CrossDistances(math.log(total / (count * (count - 1))), alignment / count, nearest / count)


def ridge_separability(
    left: Float[Tensor, "rows features"],
    right: Float[Tensor, "rows features"],
    indices: Int[Tensor, " rows"],
    *,
    seed: int,
) -> float | None:
    """Accuracy with which a ridge classifier tells the two clouds apart on rows that it has not seen.

    Two halves by a hash of the row's index, both partners in one half; each half is told apart by the classifier of the
    other, with its threshold in the middle. None if a half has fewer than two rows.
    """
    # a stream of its own: the smallest hashes of the sample's stream share their bits
    is_first = (row_hash(indices, seed ^ 0x0DD5) & 1).bool()
    right_count = 0
    for fitted in (is_first, ~is_first):
        if int(fitted.sum()) < 2:
            return None
        readout, threshold = _readout(left[fitted], right[fitted])
        held_out = ~fitted
        right_count += int((left[held_out] @ readout > threshold).sum())
        right_count += int((right[held_out] @ readout <= threshold).sum())
    return right_count / (2 * left.shape[0])


def _readout(left: Float[Tensor, "rows features"], right: Float[Tensor, "rows features"]) -> tuple[Tensor, float]:
    """(G_c + αI)⁻¹Δ of the pooled rows, which is ridge regression on ±1, and the score of the middle."""
    one, other = left.mean(0), right.mean(0)
    middle = (one + other) / 2.0
    pooled = torch.cat((left, right)) - middle
    scatter = pooled.T @ pooled
    penalty = _PENALTY * float(scatter.trace()) / scatter.shape[0]
    if penalty <= 0.0:
        return torch.zeros_like(one), 0.0
    scatter.diagonal().add_(penalty)
    readout = torch.cholesky_solve((one - other)[:, None], torch.linalg.cholesky(scatter))[:, 0]
    return readout, float(middle @ readout)
