"""Two hook points of one dump on the rows that both samples kept: how alike they are, and their lengths."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.accumulators import Batch, CrossMoments, Moments
from collapse_cli.kernels.reservoir import Sample
from collapse_cli.kernels.similarity import debiased_kernel_alignment
from collapse_cli.kernels.views import Activations

__all__ = ["Neighbours", "common_rows", "median_length_ratio", "neighbours"]

#: Rows that are upcast at a time.
_ROWS = 1024
#: Σ‖x − x̄‖² over Σ‖x‖² below which the rows are equal but for the rounding of the mean.
_EQUAL_ROWS = 1e-24


@final
@dataclass(frozen=True, slots=True)
class Neighbours:
    """Debiased CKA (None where one side is constant), mean cosine (None where widths differ), and the rows of both."""

    alignment: float | None
    cosine: float | None
    rows: int


def common_rows(first: Activations, second: Activations) -> tuple[Tensor, Tensor]:
    """The uniform sample rows that both hook points kept, as stored; row for row the same samples."""
    sides = [_uniform(point.read("sample")) for point in (first, second)]
    is_common = [torch.isin(sides[place][0], sides[1 - place][0]) for place in (0, 1)]
    left, right = (side[1][kept] for side, kept in zip(sides, is_common, strict=True))
    return left, right


def _uniform(sample: Sample) -> tuple[Tensor, Tensor]:
    is_uniform = sample.is_uniform
    if not is_uniform.numel():
        return sample.indices, torch.zeros(0, 1)
    return sample.indices[is_uniform], sample.rows("features")[is_uniform].flatten(1)


def neighbours(first: Activations, second: Activations) -> Neighbours:
    """How alike two hook points are, by moments of their common rows."""
    left, right = common_rows(first, second)
    moments = Moments("left"), Moments("right")
    pairs = CrossMoments("left", "right")
    for start in range(0, left.shape[0], _ROWS):
        batch = Batch({"left": left[start : start + _ROWS], "right": right[start : start + _ROWS]}, start=start)
        for accumulator in (*moments, pairs):
            accumulator.update(batch)
    cosine = pairs.cosine_sum / pairs.cosine_count if pairs.cosine_count else None
    is_constant = any(float(side.centred_scatter.trace()) <= _EQUAL_ROWS * side.squared_norm_sum for side in moments)
    alignment = None if is_constant else debiased_kernel_alignment(*moments, pairs)
    return Neighbours(alignment, cosine if left.shape[1] == right.shape[1] else None, pairs.count)


def median_length_ratio(numerator: Activations, denominator: Activations) -> tuple[float, int] | None:
    """Median of ‖x‖/‖y‖ over the common rows with y ≠ 0, and their number; None if there is none."""
    left, right = (_lengths(side) for side in common_rows(numerator, denominator))
    kept = right > 0.0
    if not bool(kept.any()):
        return None
    return float((left[kept] / right[kept]).median()), int(kept.sum())


def _lengths(rows: Tensor) -> Float[Tensor, " rows"]:
    parts = [part.double().norm(dim=1) for part in torch.split(rows, _ROWS)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)
