"""Decay of a covariance spectrum as a power of the rank of its directions, and of what a target has in each."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.class_geometry import one_hot_cross
from collapse_cli.kernels.views import Activations

__all__ = ["FIRST", "LAST", "PowerFit", "effective_dimension", "power_fit", "target_cross", "target_energies"]

#: Ranks i over which the law is fitted (Stringer et al. 2019: head and tail follow no law; α-ReQ 2022 fits the same).
FIRST, LAST = 11, 100

Vector = npt.NDArray[np.float64]


class PowerFit(NamedTuple):
    """Value ≈ i^−exponent over the window, and the share of the weighted variance of its logarithm explained."""

    exponent: float
    r2: float


def power_fit(values: Vector) -> PowerFit | None:
    """Least squares of ln value on ln i, i = 11 … 100, weights 1/i; None without 100 values, all above 0 in there."""
    window = values[FIRST - 1 : LAST]
    if window.size < LAST - FIRST + 1 or not bool((window > 0.0).all()):
        return None
    ranks = np.arange(FIRST, LAST + 1, dtype=np.float64)
    weights = 1.0 / ranks / (1.0 / ranks).sum()
    x, y = np.log(ranks), np.log(window)
    x, y = x - weights @ x, y - weights @ y
    spread, energy, along = float(weights @ x**2), float(weights @ y**2), float(weights @ (x * y))
    # equal values follow i⁰ exactly
    r2 = along**2 / (spread * energy) if energy > 1e-24 else 1.0
    return PowerFit(-along / spread, min(r2, 1.0))


def target_energies(
    centred_scatter: Float[Tensor, "features features"], cross: Float[Tensor, "features targets"]
) -> Float[Tensor, " features"]:
    """v_i² = ‖u_iᵀC‖²/λ_i of every eigenvector u_i of G_c, λ descending, C = Σ(x − x̄)(y − ȳ)ᵀ; 0 where λ_i is 0.

    Up to a factor the squared coefficient of the targets on the i-th normalised principal component.

    Raises:
        NotConverged: LAPACK gave up.
    """
    try:
        values, vectors = torch.linalg.eigh(centred_scatter)
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", where="features", got=str(error)) from error
    values, vectors = values.flip(0), vectors.flip(1)
    is_kept = values > values.numel() * torch.finfo(torch.float64).eps * values[0]
    energies: Tensor = (vectors.T @ cross).square().sum(1) / torch.where(is_kept, values, 1.0)
    return torch.where(is_kept, energies, 0.0)


def effective_dimension(eigenvalues: Float[Tensor, " rank"], ridge: float) -> float:
    """Σλ/(λ + δ): the degrees of freedom of ridge regression with penalty δ on the covariance; 0 for a zero spectrum.

    References: Zhang, Learning bounds for kernel regression using effective data dimensionality (2005).
    """
    return float((eigenvalues / (eigenvalues + ridge)).sum()) if ridge > 0.0 else 0.0


def target_cross(point: Activations) -> tuple[Float[Tensor, "features targets"], str] | None:
    """C of the features with `targets`, or with one-hot `labels`, and which of them; None where there is neither."""
    if point.has("cross_moments(features,targets)"):
        return point.read("cross_moments(features,targets)").centred_cross, "targets"
    if point.has("class_moments") and point.read("class_moments").count:
        classes = point.read("class_moments")
        return one_hot_cross(classes.sums, classes.counts), "labels"
    return None
