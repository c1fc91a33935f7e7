"""A linear predictor against the second moment F = E[zzᵀ] of what it is fed (Tian, Chen & Ganguli 2021)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.random_matrix import marchenko_pastur_cdf

__all__ = ["correlation", "eigen_cosines", "eigenspace", "small_eigenvalue_null"]


def eigenspace(
    moment: Float[Tensor, "features features"],
) -> tuple[Float[Tensor, " features"], Float[Tensor, "features features"]]:
    """Eigenvalues of a second moment, descending and never negative, and eigenvectors as columns.

    Raises:
        NotConverged: LAPACK gave up.
    """
    try:
        values, vectors = torch.linalg.eigh(moment)
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", where="features", got=str(error)) from error
    return values.flip(0).clamp_min(0.0), vectors.flip(1)


def eigen_cosines(
    predictor: Float[Tensor, "features features"], vectors: Float[Tensor, "features features"]
) -> tuple[Float[Tensor, " features"], Float[Tensor, " features"]]:
    """v_jᵀWv_j, and |cos(v_j, Wv_j)|, which is 0 where W sends v_j to zero."""
    images = predictor @ vectors
    along = (vectors * images).sum(0)
    norms: Tensor = torch.linalg.vector_norm(images, dim=0)
    cosines = along.abs() / torch.where(norms > 0.0, norms, 1.0)
    return along, cosines.clamp_max(1.0)


def correlation(first: Float[Tensor, " some"], second: Float[Tensor, " some"]) -> float | None:
    """Pearson's correlation; None where one of them is constant to rounding."""
    centred = first - first.mean(), second - second.mean()
    norms = [float(part.norm()) for part in centred]
    floors = [1e-12 * float(part.norm()) for part in (first, second)]
    if any(norm <= floor for norm, floor in zip(norms, floors, strict=True)):
        return None
    return max(-1.0, min(1.0, float(centred[0] @ centred[1]) / (norms[0] * norms[1])))


def small_eigenvalue_null(count: int, width: int, share: float) -> float:
    """Share of the eigenvalues of isotropic rows below `share` of the largest, by the law of Marchenko and Pastur.

    With fewer rows than features the 1 − N/D that are zero are among them.
    """
    short, long = min(count, width), max(count, width)
    if short == 0:
        return 1.0
    edge = share * (1.0 + math.sqrt(short / long)) ** 2
    below = float(marchenko_pastur_cdf(torch.tensor([edge], dtype=torch.float64).numpy(), short / long)[0])
    return 1.0 - short / width * (1.0 - below)
