"""The rotation that takes one representation of the same rows to another, and how much of it a rotation explains."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.cross_moments import CrossMoments
from collapse_cli.kernels.feature_moments import Moments
from collapse_cli.kernels.random_matrix import nuclear_frobenius_null

__all__ = ["procrustes_similarity", "procrustes_similarity_null", "rotation", "uncentred_cross"]


def uncentred_cross(left: Moments, right: Moments, pairs: CrossMoments) -> Float[Tensor, "left right"]:
    """XᵀY about the origin."""
    return pairs.centred_cross + pairs.count * torch.outer(left.mean, right.mean)


def rotation(left: Moments, right: Moments, pairs: CrossMoments) -> Float[Tensor, "right left"]:
    """R = UVᵀ of YᵀX = USVᵀ: the rotation or reflection about the origin with the least ‖YR − X‖_F, of equal widths.

    About the origin, so that a shift of all rows stays one. Directions that the rows do not reach are turned somehow.
    References: Schönemann, A generalized solution of the orthogonal Procrustes problem (1966).

    Raises:
        NotConverged: LAPACK gave up.
    """
    try:
        u, _, vh = torch.linalg.svd(uncentred_cross(left, right, pairs).T)
    except LinAlgError as error:
        raise NotConverged("the cross moments have no singular values", got=str(error)) from error
    result: Tensor = u @ vh
    return result


def procrustes_similarity(left: Moments, right: Moments, pairs: CrossMoments) -> float | None:
    """‖XᵀY‖_* of centred rows of Frobenius norm 1: 1 up to rotation, shift and scale; None if one side is constant.

    Raises:
        NotConverged: LAPACK gave up.
    """
    scale = math.sqrt(float(left.centred_scatter.trace())) * math.sqrt(float(right.centred_scatter.trace()))
    if scale <= 0.0:
        return None
    try:
        values = torch.linalg.svdvals(pairs.centred_cross)
    except LinAlgError as error:
        raise NotConverged("the cross moments have no singular values", got=str(error)) from error
    return min(float(values.sum()) / scale, 1.0)


def procrustes_similarity_null(count: int, left: int, right: int) -> float:
    """√m·E√x/√(N−1), x of the law of Marchenko and Pastur: independent isotropic rows, widths far below N; at most 1.

    For equal widths 8/(3π)·√(D/(N−1)).
    """
    return min(1.0, math.sqrt(nuclear_frobenius_null(left, right) / max(count - 1, 1)))
