"""How unevenly strength is spread over rows, columns or channels, and which of them have none."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from collapse_cli.kernels.spectrum import column_norms, row_norms
from collapse_cli.kernels.views import Weight

__all__ = ["DEAD_SHARE", "alive_median", "channel_norms", "dead_rows", "gini", "gini_null", "is_dead"]

#: Share of the median below which a strength is none: relative, because decay leaves small norms and never zeros.
DEAD_SHARE = 1e-3


def alive_median(strengths: Float[Tensor, " units"]) -> float:
    """Median of the strengths that are not negligible beside their root mean square; 0 if all are zero.

    That is the median of the non-zero ones, and stays the scale of the living where most are dead.
    """
    if strengths.numel() == 0 or float(strengths.max()) == 0.0:
        return 0.0
    top = float(strengths.max())
    level = top * math.sqrt(float((strengths / top).square().mean()))
    return float(strengths[strengths >= DEAD_SHARE * level].median())


def is_dead(strengths: Float[Tensor, " units"]) -> Bool[Tensor, " units"]:
    """Where a strength is below a thousandth of `alive_median`; everywhere if all are zero."""
    scale = alive_median(strengths)
    return strengths < DEAD_SHARE * scale if scale > 0.0 else torch.ones_like(strengths, dtype=torch.bool)


def dead_rows(weight: Weight) -> Bool[Tensor, " out"]:
    """Rows without strength."""
    return is_dead(weight.get(row_norms))


def channel_norms(weight: Weight, channels: int) -> Float[Tensor, " channels"]:
    """Norm of the columns that read each of `channels` inputs, which lie next to one another; float64.

    Raises:
        ValueError: the columns cannot be divided among them.
    """
    columns = weight.get(column_norms)
    if channels < 1 or columns.numel() % channels:
        raise ValueError(f"{weight.site.name}: {columns.numel()} columns for {channels} channels")
    grouped: Tensor = torch.linalg.vector_norm(columns.view(channels, -1), dim=1)
    return grouped


def gini(strengths: Float[Tensor, " units"]) -> float:
    """Gini coefficient of non-negative strengths: 0 all equal, towards 1 all in one. 0 if all are zero. Gini 1912."""
    total = float(strengths.sum())
    if total <= 0.0:
        return 0.0
    count = strengths.numel()
    position = torch.arange(1 - count, count, 2, dtype=torch.float64)
    return max(0.0, float((position * (strengths.sort().values / total)).sum()) / count)


def gini_null(columns: int) -> float:
    """Gini coefficient of the row norms of a Gaussian matrix: 1/√(2πN), since the norms vary by 1/√(2N)."""
    return 1.0 / math.sqrt(2.0 * math.pi * columns)
