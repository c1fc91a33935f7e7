"""Spectra of the rows of a hook point, shared by all who count directions, and what chance gives beside them.

X is N×D, n = N − 1, λ the eigenvalues of the covariance G_c/n, σ the singular values of the uncentred X. Both come from
the float64 moments, so that the smallest σ that is told from rounding is 1e-8·√D of the largest.
"""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.random_matrix import effective_rank_sigma_null, marchenko_pastur_cdf
from collapse_cli.kernels.spectrum import entropy_rank
from collapse_cli.kernels.views import Activations

__all__ = [
    "FEW_ROWS_PER_WIDTH",
    "covariance_eigenvalues",
    "covariance_eigenvalues_of",
    "curve",
    "facts",
    "marchenko_pastur_quantiles",
    "participation_ratio_null",
    "rank_one_over_rounding",
    "rankme",
    "rankme_null",
    "uncentred_singular_values",
    "unit_eigenvalues",
]

#: Fewer rows per feature, and what limits a rank is the sample (RankMe 2023 counts on more than 10 rows a feature).
FEW_ROWS_PER_WIDTH = 10
#: RankMe's ε (Garrido et al. 2023, equation 1).
_RANKME_EPSILON = 1e-7
#: Rows whose scatter is a smaller share of Σ‖x‖² are equal: float64 has 2.2e-16 for every entry.
_EQUAL_ROWS = 1e-28
#: Share of ‖X‖² below which what a float64 Gram leaves of it after σ₁² is not known to a per mille.
_GRAM_RESOLUTION = 1e-11
#: Squared relative error of a projection in float64, (4·2⁻⁵²)².
_PROJECTION_ERROR = (4.0 * 2.0**-52) ** 2
#: Points of a curve in evidence.
_CURVE_POINTS = 128


def facts(point: Activations, role: str = "features") -> dict[str, Any]:
    """Rows that were read, width, stored dtype, and the finite rows where some were kept out: evidence of a dump."""
    shape = point.shapes.get(role, ())
    width = 1
    for side in shape[1:]:
        width *= side
    found: dict[str, Any] = {"rows": point.finite_rows, "width": width, "dtype": point.dtypes.get(role, "")}
    if point.finite_rows != point.rows:
        found |= {"rows": point.rows, "finite_rows": point.finite_rows}
    return found


def curve(values: Float[Tensor, " some"]) -> list[float]:
    """At most 128 of the values, evenly spaced in the logarithm of their place, first and last included."""
    count = values.numel()
    if count <= _CURVE_POINTS:
        return [float(value) for value in values]
    places = sorted({round(float(place)) for place in np.geomspace(1, count, _CURVE_POINTS)})
    return [float(values[place - 1]) for place in places]


def _eigenvalues(gram: Float[Tensor, "side side"], kept: int) -> Float[Tensor, " kept"]:
    """The `kept` largest eigenvalues, descending; what a float64 Gram cannot tell from 0 is 0.

    Raises:
        NotConverged: LAPACK gave up.
    """
    try:
        values: Tensor = torch.linalg.eigvalsh(gram)
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", where="features", got=str(error)) from error
    values = values.flip(0)[:kept].clamp_min(0.0)
    if values.numel():
        values = torch.where(values > gram.shape[0] * torch.finfo(torch.float64).eps * values[0], values, 0.0)
    return values


def uncentred_singular_values(point: Activations) -> Float[Tensor, " rank"]:
    """σ of X as it is, descending, all min(N, D) of them (`moments` of the features)."""
    moments = point.read("moments")
    return _eigenvalues(moments.uncentred_gram, min(moments.count, moments.shift.numel())).sqrt()


def covariance_eigenvalues(point: Activations) -> Float[Tensor, " rank"]:
    """λ of G_c/n, descending, all min(n, D) of them; all 0 where the rows are equal (`moments` of the features)."""
    return covariance_eigenvalues_of(point.read("moments"))


def covariance_eigenvalues_of(moments: Any) -> Float[Tensor, " rank"]:
    """The same of any `Moments`: of a view, a modality, a layer."""
    degrees = max(moments.count - 1, 0)
    kept = min(degrees, moments.shift.numel())
    scatter = moments.centred_scatter
    if kept == 0 or float(scatter.trace()) <= _EQUAL_ROWS * moments.squared_norm_sum:
        return torch.zeros(kept, dtype=torch.float64)
    return _eigenvalues(scatter / degrees, kept)


def unit_eigenvalues(point: Activations) -> Float[Tensor, " rank"]:
    """Eigenvalues of Σzzᵀ, descending, all min(N_z, D) of them (`moments` of the features)."""
    moments = point.read("moments")
    return _eigenvalues(moments.unit_gram, min(moments.unit_count, moments.shift.numel()))


def rankme(values: Float[Tensor, " rank"], *, epsilon: float = _RANKME_EPSILON) -> float:
    """exp(−Σp ln p), p = σ/Σσ + ε: RankMe (Garrido et al. 2023), exceeding the number of values by their ε only.

    0 where all are zero.
    """
    if epsilon == 0.0 or values.numel() == 0 or float(values[0]) == 0.0:
        return entropy_rank(values)
    shares = values / values.sum() + epsilon
    return float(torch.exp(-(shares * shares.log()).sum()))


def rankme_null(count: int, width: int) -> float:
    """RankMe of isotropic Gaussian rows: the entropy rank of singular values under Marchenko and Pastur's law."""
    return effective_rank_sigma_null(count, width)


def participation_ratio_null(count: int, width: int) -> float:
    """Participation ratio of the covariance of `count` isotropic Gaussian rows, (nD + 2)/(n + D + 1).

    From E(tr S)² = D² + 2D/n and E tr S² = D + D(D + 1)/n of a Wishart matrix.
    """
    degrees = max(count - 1, 1)
    return (degrees * width + 2) / (degrees + width + 1)


@cache
def marchenko_pastur_quantiles(degrees: int, width: int) -> npt.NDArray[np.float64]:
    """λ that isotropic rows are expected to give: quantiles (i − ½)/r of the law of Marchenko and Pastur, descending.

    Of the longer side's mean square: the scale is that of eigenvalues of W·Wᵀ/R.
    """
    short, long = sorted((degrees, width))
    if short == 0:
        return np.zeros(0)
    aspect = short / long
    low = np.full(short, (1 - aspect**0.5) ** 2)
    high = np.full(short, (1 + aspect**0.5) ** 2)
    wanted = 1.0 - (np.arange(short) + 0.5) / short
    for _ in range(60):
        middle = (low + high) / 2
        is_below = marchenko_pastur_cdf(middle, aspect) < wanted
        low, high = np.where(is_below, middle, low), np.where(is_below, high, middle)
    result: npt.NDArray[np.float64] = (low + high) / 2
    return result


def rank_one_over_rounding(point: Activations) -> tuple[float, str]:
    """(‖X‖² − σ₁²) over what rounding to the stored precision adds, Σulp²/12, and where it was taken.

    The best rank-one matrix leaves ‖X‖² − σ₁² (Eckart & Young 1936); rounding is within half an ulp and uniform, so
    rank one plus rounding stays near 1. Where the Gram has no digits left for the difference, rows of the sample are
    projected on its first direction instead. Needs `moments`, `extremes` and `sample`.
    """
    moments, extremes = point.read("moments"), point.read("extremes")
    energy = float(moments.squared_norm_sum)
    rounding = float(extremes.squared_rounding.sum())
    if energy == 0.0 or rounding == 0.0:
        return 0.0, "all rows"
    left = float(point.get(uncentred_singular_values)[1:].square().sum())
    if left > _GRAM_RESOLUTION * energy or rounding > _GRAM_RESOLUTION * energy:
        return left / rounding, "all rows"
    sample = point.read("sample")
    rows = sample.rows("features").to(torch.float64).flatten(1)[sample.is_uniform]
    own = float(rows.square().sum())
    direction = rows[int(rows.square().sum(1).argmax())]
    for _ in range(3):  # the other directions are below 1e-5 of the first: each step gains ten digits
        direction = direction / direction.norm()
        direction = rows.T @ (rows @ direction)
    direction = direction / direction.norm()
    left = float((rows - torch.outer(rows @ direction, direction)).square().sum())
    return left / max(rounding * own / energy, _PROJECTION_ERROR * own), "sampled rows"
