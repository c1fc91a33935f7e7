"""How well views of one object are told from views of others: between and within scatter of N objects × V views."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.views import Activations

__all__ = [
    "BetweenWithin",
    "between_and_within",
    "discriminant_eigenvalues",
    "lidar",
    "signal",
    "signal_null",
]

#: LiDAR's δ, added to Σ_w, and its ε, added to every eigenvalue (Thilak et al. 2023, section 4).
_DELTA, _EPSILON = 1e-4, 1e-8
#: Objects whose views are upcast at once.
_BLOCK_OBJECTS = 256


class BetweenWithin(NamedTuple):
    """Σ_b = Σ(m_i − m)(m_i − m)ᵀ/(N − 1) of object means, Σ_w = ΣΣ(x − m_i)(x − m_i)ᵀ/(N(V − 1)), and N and V."""

    between: Tensor
    within: Tensor
    objects: int
    views: int


def between_and_within(point: Activations) -> BetweenWithin:
    """Both covariances of the objects in the uniform sample of `views`."""
    sample = point.read("sample(views)")
    stacks = sample.rows("views")[sample.is_uniform]
    objects, views, width = stacks.shape
    means = torch.cat([block.double().mean(1) for block in stacks.split(_BLOCK_OBJECTS)])
    centred = means - means.mean(0)
    within = torch.zeros(width, width, dtype=torch.float64)
    for first, block in enumerate(stacks.split(_BLOCK_OBJECTS)):
        own = means[first * _BLOCK_OBJECTS : (first + 1) * _BLOCK_OBJECTS]
        rows = (block.double() - own[:, None]).flatten(0, 1)
        within.addmm_(rows.T, rows)
    return BetweenWithin(centred.T @ centred / max(objects - 1, 1), within / (objects * (views - 1)), objects, views)


def discriminant_eigenvalues(
    between: Float[Tensor, "features features"], within: Float[Tensor, "features features"]
) -> Float[Tensor, " features"] | None:
    """λ of Σ_w^{−½}Σ_bΣ_w^{−½}, descending; None where Σ_w is not positive definite.

    Raises:
        NotConverged: LAPACK gave up.
    """
    factor, failed = torch.linalg.cholesky_ex(within)
    if int(failed) or float(factor.diagonal().min()) <= 1e-7 * float(factor.diagonal().max()):
        return None
    half = torch.linalg.solve_triangular(factor, between, upper=False)
    whitened: Tensor = torch.linalg.solve_triangular(factor, half.T, upper=False)
    try:
        values: Tensor = torch.linalg.eigvalsh((whitened + whitened.T) / 2)
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", where="views", got=str(error)) from error
    return values.flip(0).clamp_min(0.0)


def lidar(scatter: BetweenWithin) -> tuple[float, Float[Tensor, " features"]]:
    """LiDAR, exp(−Σp ln p) with p = (λ + 1e-8)/Σ(λ + 1e-8), λ from Σ_b and Σ_w + 1e-4·I; and the λ."""
    width = scatter.within.shape[0]
    values = discriminant_eigenvalues(scatter.between, scatter.within + _DELTA * torch.eye(width, dtype=torch.float64))
    if values is None:
        # Σ_w spans more than float64 does beside δ: its square roots are exact, so nothing is inverted blindly
        spectrum, vectors = torch.linalg.eigh(scatter.within)
        half = vectors / (spectrum.clamp_min(0.0) + _DELTA).sqrt()
        whitened = half.T @ scatter.between @ half
        values = torch.linalg.eigvalsh((whitened + whitened.T) / 2).flip(0).clamp_min(0.0)
    shares = values + _EPSILON
    shares = shares / shares.sum()
    return math.exp(-float((shares * shares.log()).sum())), values


def signal(scatter: BetweenWithin) -> float | None:
    """tr(Σ_w⁻¹Σ_b)/D; None where Σ_w cannot be inverted."""
    values = discriminant_eigenvalues(scatter.between, scatter.within)
    return None if values is None else float(values.mean())


def signal_null(objects: int, views: int, width: int) -> tuple[float, float] | None:
    """Mean and standard error of `signal` for Gaussian rows that do not know their object; None if it has none.

    With m = N(V − 1) and h = N − 1, tr(W⁻¹B) of Wishart matrices is Lawley and Hotelling's trace: mean hD/(m − D − 1),
    variance 2Dh(m − 1)(h + m − D − 1)/((m − D)(m − D − 1)²(m − D − 3)) (Seber, Multivariate Observations, 1984).
    """
    within, between = objects * (views - 1), objects - 1
    left = within - width
    if left <= 3 or between < 1:
        return None
    scale = within / (views * between * width)
    mean = between * width / (left - 1)
    variance = 2 * width * between * (within - 1) * (between + left - 1) / (left * (left - 1) ** 2 * (left - 3))
    return scale * mean, scale * math.sqrt(variance)
