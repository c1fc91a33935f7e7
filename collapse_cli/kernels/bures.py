"""Distances between two sets of rows as distributions: Gaussian Wasserstein (Fréchet) and kernel distance."""

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["SUBSET_ROWS", "Gaussian", "frechet_null", "gaussian_of_rows", "kernel_distance", "squared_distance"]

#: Subsets and their rows: those of Bińkowski et al. 2018, section 4.
SUBSETS, SUBSET_ROWS = 100, 1000


@final
@dataclass(frozen=True, slots=True)
class Gaussian:
    """Number of rows, their mean, and their covariance with ddof 1, float64 on the CPU."""

    count: int
    mean: Float[Tensor, " features"]
    covariance: Float[Tensor, "features features"]

    @classmethod
    def of(cls, moments: Any) -> "Gaussian":
        """What the moments of a role say; a covariance of 0 for fewer than two rows."""
        return cls(moments.count, moments.mean, moments.centred_scatter / max(moments.count - 1, 1))

    @property
    def trace(self) -> float:
        """Sum of the variances, never negative."""
        return max(0.0, float(self.covariance.trace()))


def gaussian_of_rows(rows: Float[Tensor, "rows features"]) -> Gaussian:
    """The same of rows at hand; at least one."""
    exact = rows.double()
    centred = exact - exact.mean(0)
    covariance = centred.T @ centred / max(exact.shape[0] - 1, 1)
    return Gaussian(exact.shape[0], exact.mean(0).cpu(), covariance.cpu())


def squared_distance(left: Gaussian, right: Gaussian) -> tuple[float, float]:
    """‖Δμ‖² and ‖Δμ‖² + tr Σ₁ + tr Σ₂ − 2·tr(Σ₁^½Σ₂Σ₁^½)^½, the squared 2-Wasserstein distance of two Gaussians.

    By eigenvalues of symmetric products, those below 0 clipped, which stays real where the covariances are singular.
    References: Dowson & Landau (1982); Heusel et al. (2017).
    """
    shift = float((left.mean - right.mean).square().sum())
    values, vectors = torch.linalg.eigh(left.covariance)
    root = vectors * values.clamp_min(0.0).sqrt()
    # (VD)ᵀΣ₂(VD) has the eigenvalues of Σ₁^½Σ₂Σ₁^½ = V·DVᵀΣ₂VD·Vᵀ
    common = torch.linalg.eigvalsh(root.T @ right.covariance @ root).clamp_min(0.0).sqrt()
    return shift, shift + max(0.0, left.trace + right.trace - 2.0 * float(common.sum()))


def frechet_null(reference: Gaussian, count: int) -> tuple[float, float]:
    """What the mean and the whole distance of so many rows from as many as the reference has are expected to be.

    To first order for Gaussian rows, c = 1/N + 1/M, λ the eigenvalues of Σ_ref: c·Σλ for the means, and besides
    c/2·Σ_ij λ_iλ_j(1+δ_ij)/(λ_i+λ_j), the second-order term of the Bures distance about Σ_ref with the variances
    Cov(Σ̂_ij) = λ_iλ_j(1+δ_ij) of a Wishart matrix.
    """
    values = torch.linalg.eigvalsh(reference.covariance).clamp_min(0.0)
    sums = values[:, None] + values
    products = values[:, None] * values
    ratios = torch.where(sums > 0.0, products / torch.where(sums > 0.0, sums, 1.0), 0.0)
    bures = float(ratios.sum() + ratios.diagonal().sum()) / 2.0
    share = 1.0 / count + 1.0 / reference.count
    return share * float(values.sum()), share * (float(values.sum()) + bures)


def kernel_distance(
    left: Float[Tensor, "left features"], right: Float[Tensor, "right features"], generator: torch.Generator
) -> tuple[float, float, int] | None:
    """Mean and standard deviation over seeded subsets of the unbiased MMD² with k = (xᵀy/D + 1)³, and their number.

    100 subsets of at most 1,000 rows of each; one, of all rows, where neither has more than that. At least two rows of
    each. None where the kernel overflows. Reference: Bińkowski et al., Demystifying MMD GANs (2018).
    """
    size = min(SUBSET_ROWS, left.shape[0], right.shape[0])
    is_whole = left.shape[0] == right.shape[0] == size
    values = []
    for _ in range(1 if is_whole else SUBSETS):
        sides = [
            rows[torch.randperm(rows.shape[0], generator=generator)[:size].to(rows.device)].double()
            for rows in (left, right)
        ]
        values.append(_squared_discrepancy(*sides))
    found = torch.tensor(values, dtype=torch.float64)
    if not bool(found.isfinite().all()):
        return None
    return float(found.mean()), float(found.std(correction=0)), len(values)


def _squared_discrepancy(left: Tensor, right: Tensor) -> float:
    """Mean kernel within each set, without a row and itself, less twice the mean between them."""
    size = left.shape[0]
    within = math.fsum(_kernel_sum(rows, rows) - float(_kernel(rows.square().sum(1), rows)) for rows in (left, right))
    return within / (size * (size - 1)) - 2.0 * _kernel_sum(left, right) / size**2


def _kernel(products: Tensor, rows: Tensor) -> Tensor:
    return (products / rows.shape[1] + 1.0).pow(3).sum()


def _kernel_sum(left: Tensor, right: Tensor) -> float:
    return float(_kernel(left @ right.T, left))
