"""How alike two representations of the same rows are, from their moments: no N × N matrix."""

import math

from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.cross_moments import CrossMoments
from collapse_cli.kernels.feature_moments import Moments

__all__ = ["centred_kernel_alignment", "debiased_kernel_alignment", "debiased_self_dependence", "unbiased_dependence"]


def centred_kernel_alignment(left: Moments, right: Moments, pairs: CrossMoments) -> float | None:
    """Linear CKA ‖C_c‖_F²/(‖G_x‖_F‖G_y‖_F), biased upward by √(D₁D₂/((N+D₁)(N+D₂))) on noise; None if one is constant.

    References: Kornblith, Norouzi, Lee & Hinton, Similarity of neural network representations revisited (2019).
    """
    _same_rows(left, right, pairs)
    scale = float(left.centred_scatter.norm()) * float(right.centred_scatter.norm())
    return float(pairs.centred_cross.square().sum()) / scale if scale > 0.0 else None


def debiased_kernel_alignment(left: Moments, right: Moments, pairs: CrossMoments) -> float | None:
    """Linear CKA of unbiased HSIC, about 0 on noise at any width; None below 4 rows or where one side has no variance.

    References: Song, Smola, Gretton, Bedo & Borgwardt (2012), eq. 5; Nguyen, Raghu & Kornblith (2021).
    """
    _same_rows(left, right, pairs)
    if pairs.count < 4:
        return None
    own = debiased_self_dependence(left) * debiased_self_dependence(right)
    return unbiased_dependence(pairs) / math.sqrt(own) if own > 0.0 else None


def unbiased_dependence(pairs: CrossMoments) -> float:
    """HSIC₁ of two linear kernels on m ≥ 4 rows: unbiased, may be negative (Song et al. 2012, eq. 5)."""
    return _dependence(
        pairs.count,
        cross=pairs.cross,
        sums=(pairs.left_sum, pairs.right_sum),
        weighted=(pairs.left_weighted, pairs.right_weighted),
        squares=(pairs.left_squares, pairs.right_squares, pairs.product),
    )


def debiased_self_dependence(moments: Moments) -> float:
    """HSIC₁ of a linear kernel with itself, on m ≥ 4 rows."""
    scatter, total, weighted = moments.scatter, moments.sum, moments.weighted_sum
    squares = float(scatter.trace())
    return _dependence(
        moments.count,
        cross=scatter,
        sums=(total, total),
        weighted=(weighted, weighted),
        squares=(squares, squares, moments.fourth),
    )


def _dependence(
    count: int,
    *,
    cross: Float[Tensor, "left right"],
    sums: tuple[Tensor, Tensor],
    weighted: tuple[Tensor, Tensor],
    squares: tuple[float, float, float],
) -> float:
    """(T + kl/((m−1)(m−2)) − 2q/(m−2))/(m(m−3)), with the diagonals of both kernels taken out of T, k, l and q."""
    (s, t), (a, b, product), m = sums, squares, count
    if m < 4:
        raise ValueError(f"unbiased dependence needs 4 rows, got {m}")
    trace = float(cross.square().sum()) - product
    k, el = float(s @ s) - a, float(t @ t) - b
    q = float(s @ cross @ t) - float(s @ weighted[0]) - float(t @ weighted[1]) + product
    return (trace + k * el / ((m - 1) * (m - 2)) - 2.0 * q / (m - 2)) / (m * (m - 3))


def _same_rows(left: Moments, right: Moments, pairs: CrossMoments) -> None:
    if not left.count == right.count == pairs.count:
        raise ValueError(f"moments of {left.count} and {right.count} rows, cross moments of {pairs.count}")
