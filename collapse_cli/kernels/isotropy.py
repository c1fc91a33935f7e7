"""How evenly a cloud of rows or of directions fills its space, from second moments."""

from jaxtyping import Float
from torch import Tensor

__all__ = ["debiased_participation_ratio", "isoscore", "mean_cosine", "second_moment_ratio", "self_clustering"]


def second_moment_ratio(moment: Float[Tensor, "features features"]) -> float:
    """Participation ratio (tr A)²/tr A² of a symmetric moment, no eigenvalues needed; 0 for a zero matrix."""
    energy = float(moment.square().sum())
    return float(moment.trace()) ** 2 / energy if energy > 0.0 else 0.0


def debiased_participation_ratio(centred_scatter: Float[Tensor, "features features"], count: int) -> float | None:
    """Participation ratio of the covariance of Gaussian rows from unbiased estimates of (tr Σ)² … over tr Σ².

    (tr S)²(n−1)(n+2)/(n²(tr S² − (tr S)²/n)), S = G_c/n, n = N − 1; D for isotropic rows however few. None below 3 rows
    or where the estimate of tr Σ² is not positive.

    References: Srivastava, Some tests concerning the covariance matrix in high dimensional data (2005).
    """
    n = count - 1
    if n < 2:
        return None
    covariance = centred_scatter / n
    squared_trace = float(covariance.trace()) ** 2
    energy = float(covariance.square().sum()) - squared_trace / n
    # one direction only: what is left of the difference is rounding
    if energy <= squared_trace * 1e-14:
        return None
    return squared_trace * (n - 1) * (n + 2) / (n * n * energy)


def isoscore(centred_scatter: Float[Tensor, "features features"]) -> float | None:
    """IsoScore = (PR − 1)/(D − 1) of the covariance: 1 isotropic, 0 a line; None if D < 2 or PR 0.

    References: Rudman, Gillman, Rayne & Eickhoff, IsoScore (2022).
    """
    width, ratio = centred_scatter.shape[0], second_moment_ratio(centred_scatter)
    return (ratio - 1.0) / (width - 1) if width > 1 and ratio > 0.0 else None


def mean_cosine(unit_sum: Float[Tensor, " features"], count: int) -> float | None:
    """Mean cosine of two different rows, (‖t‖² − N)/(N(N − 1)), over the rows that are not zero; None below two."""
    return (float(unit_sum @ unit_sum) - count) / (count * (count - 1)) if count > 1 else None


def self_clustering(unit_gram: Float[Tensor, "features features"], count: int) -> float | None:
    """(Σ_ij cos² − E)/(N² − E), E = N + N(N−1)/D: 0 for random directions, 1 for one line (Tsitsulin et al. 2023).

    Σ_ij cos² = ‖U‖_F². None below two rows or in one dimension.
    """
    width = unit_gram.shape[0]
    if count < 2 or width < 2:
        return None
    expected = count + count * (count - 1) / width
    return (float(unit_gram.square().sum()) - expected) / (count * count - expected)
