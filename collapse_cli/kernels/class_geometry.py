"""Geometry of classes from their means and pooled scatter: variability, simplex, separation, ridge readout.

M_c (K×D) are class means about their unweighted mean m_G; Σ_W = W/N; Σ_B = M_cᵀM_c/K.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged

__all__ = [
    "centred_means",
    "class_mean_rank",
    "class_separation",
    "leave_one_out_factor",
    "one_hot_cross",
    "ridge_readout",
    "self_duality_error",
    "simplex_error",
    "within_class_cosine",
    "within_class_variability",
]


def centred_means(means: Float[Tensor, "classes features"]) -> Float[Tensor, "classes features"]:
    """M_c: class means about their unweighted mean."""
    return means - means.mean(0)


def within_class_variability(
    means: Float[Tensor, "classes features"], within_covariance: Float[Tensor, "features features"]
) -> float | None:
    """NC1 = tr(Σ_B⁺Σ_W)/K in the space of the class means; None if the means span fewer directions than min(K−1, D).

    M_c = U diag(s) Vᵀ: NC1 = Σ vᵢᵀΣ_Wvᵢ/sᵢ² over exactly min(K−1, D) directions, so no cut-off decides (Papyan, Han &
    Donoho 2020).

    Raises:
        NotConverged: LAPACK gave up.
    """
    centred = centred_means(means)
    kept = min(centred.shape[0] - 1, centred.shape[1])
    if kept < 1:
        return None
    try:
        _, lengths, directions = torch.linalg.svd(centred, full_matrices=False)
    except LinAlgError as error:
        raise NotConverged("the class means have no spectrum", where="class means", got=str(error)) from error
    lengths, directions = lengths[:kept], directions[:kept]
    # a direction at the rounding of the largest is no direction: two means are equal
    if float(lengths[-1]) <= float(means.abs().max()) * max(means.shape) * torch.finfo(torch.float64).eps:
        return None
    spread = ((directions @ within_covariance) * directions).sum(1).clamp_min(0.0)
    return float((spread / lengths.square()).sum())


def class_mean_rank(means: Float[Tensor, "classes features"]) -> float:
    """Participation ratio (tr Q)²/tr Q² of Q = M_cM_cᵀ; 0 if all means are equal."""
    centred = centred_means(means)
    small = centred @ centred.T if centred.shape[0] <= centred.shape[1] else centred.T @ centred
    energy = float(small.square().sum())
    return float(small.trace()) ** 2 / energy if energy > 0.0 else 0.0


def simplex_error(means: Float[Tensor, "classes features"]) -> float:
    """‖Q/‖Q‖_F − (I − 11ᵀ/K)/√(K−1)‖_F = √(2 − 2√(PR/(K−1))): 0 for a simplex, up to √2 (Papyan et al. 2020, NC2)."""
    return math.sqrt(max(2.0 - 2.0 * math.sqrt(class_mean_rank(means) / max(means.shape[0] - 1, 1)), 0.0))


def self_duality_error(means: Float[Tensor, "classes features"], head: Float[Tensor, "classes features"]) -> float:
    """‖WM_cᵀ/‖WM_cᵀ‖_F − (I − 11ᵀ/K)/√(K−1)‖_F by traces, O(KD²); √2 where the product is 0 (NC3)."""
    centred = centred_means(means)
    squared = float(((head.T @ head) * (centred.T @ centred)).sum())
    if squared <= 0.0:
        return math.sqrt(2.0)
    aligned = float((head * centred).sum()) / math.sqrt(squared * max(means.shape[0] - 1, 1))
    return math.sqrt(max(2.0 - 2.0 * aligned, 0.0))


def class_separation(unit_sums: Float[Tensor, "classes features"], counts: Int[Tensor, " classes"]) -> float | None:
    """R² = 1 − (mean cosine distance within classes)/(over all pairs), classes equally weighted; None if all agree.

    1 − (1 − mean_k‖z̄_k‖²)/(1 − ‖mean_k z̄_k‖²), pairs of a row with itself included (Kornblith et al. 2021).
    """
    centres = unit_sums / counts[:, None]
    spread = 1.0 - float(centres.mean(0).square().sum())
    if spread <= 0.0:
        return None
    return 1.0 - (1.0 - float(centres.square().sum(1).mean())) / spread


def within_class_cosine(unit_sums: Float[Tensor, "classes features"], counts: Int[Tensor, " classes"]) -> float | None:
    """Mean cosine over the pairs of different rows of one class ("tolerance", Wang & Liu 2021); None without a pair."""
    pairs = float((counts * (counts - 1)).sum())
    return (float(unit_sums.square().sum()) - float(counts.sum())) / pairs if pairs else None


def leave_one_out_factor(counts: Int[Tensor, " classes"]) -> Float[Tensor, " classes"]:
    """(n/(n−1))²: squared distance of a row to the mean of the other rows of its class, over that to its own mean."""
    exact = counts.double()
    return (exact / (exact - 1.0)).square()


def one_hot_cross(
    sums: Float[Tensor, "classes features"], counts: Int[Tensor, " classes"]
) -> Float[Tensor, "features classes"]:
    """Σ(x − x̄)(y − ȳ)ᵀ with y the one-hot label: S_k − (n_k/N)ΣS_k, whatever the shift of the class sums."""
    share = counts.double() / counts.sum()
    return (sums - torch.outer(share, sums.sum(0))).T


def ridge_readout(
    centred_scatter: Float[Tensor, "features features"],
    cross: Float[Tensor, "features targets"],
    *,
    alpha: float,
) -> Float[Tensor, "features targets"]:
    """(G_c + αI)⁻¹C: coefficients of ridge regression with an intercept, from centred moments (Hoerl & Kennard 1970).

    Raises:
        NotConverged: G_c + αI is not positive definite: α is too small for a singular scatter.
    """
    shifted = centred_scatter + alpha * torch.eye(centred_scatter.shape[0], dtype=torch.float64)
    try:
        readout: Tensor = torch.cholesky_solve(cross, torch.linalg.cholesky(shifted))
    except LinAlgError as error:
        raise NotConverged("the ridge system is singular", got=str(error), hint="use a larger alpha") from error
    return readout
