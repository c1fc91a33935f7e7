"""What chance gives: spectra of Gaussian matrices of a shape, and what of a given matrix could not be noise.

m ≤ n are the sides, c = m/n. With unit entries the eigenvalues of W·Wᵀ/n follow the law of Marchenko & Pastur (1967) on
[(1−√c)², (1+√c)²]. The nulls are pure functions of a shape, computed once per shape.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.spectrum import gram_of
from collapse_cli.kernels.views import Weight

__all__ = [
    "MAX_SHUFFLED_ENTRIES",
    "bulk_distance",
    "bulk_distance_null",
    "bulk_edge",
    "bulk_scale",
    "condition_null",
    "effective_rank_lambda_null",
    "effective_rank_sigma_null",
    "energy_rank_null",
    "marchenko_pastur_cdf",
    "marchenko_pastur_median",
    "nuclear_frobenius_null",
    "nuclear_rank_null",
    "participation_ratio_null",
    "planted_overlap",
    "shuffled_singular_values",
    "spectrum_distance",
    "spectrum_distance_null",
    "spike_count",
    "stable_rank_null",
]

Vector = npt.NDArray[np.float64]

#: More entries are not shuffled: permuting at random costs as much as the spectrum itself (0.7 s for 12 million).
MAX_SHUFFLED_ENTRIES = 1 << 22
#: Up to this side three shuffles, beyond it one: the spectrum of a larger shuffled matrix averages itself.
_SIDE_OF_THREE_SHUFFLES = 256
#: 99 % quantile of the Tracy-Widom law of order 1 (Johnstone 2001, table 1): one Gaussian matrix in a hundred exceeds.
_TRACY_WIDOM_99 = 2.02


def _sides(rows: int, columns: int) -> tuple[int, int, float]:
    short, long = min(rows, columns), max(rows, columns)
    return short, long, short / long if long else 1.0


def marchenko_pastur_cdf(eigenvalues: Vector, aspect: float) -> Vector:
    """Share of the eigenvalues of W·Wᵀ/n up to each value, unit entries, c = `aspect` ≤ 1, in closed form."""
    root = math.sqrt(aspect)
    # at c = 1 the support begins at 0, where the last term vanishes
    x = np.clip(eigenvalues, max((1 - root) ** 2, 1e-300), (1 + root) ** 2)
    semicircle = np.sqrt(np.maximum(4 * aspect - (x - 1 - aspect) ** 2, 0.0))
    first = np.arcsin(np.clip((x - 1 - aspect) / (2 * root), -1, 1))
    second = np.arcsin(np.clip(((1 + aspect) * x - (1 - aspect) ** 2) / (2 * root * x), -1, 1))
    total: Vector = (semicircle + (1 + aspect) * first - (1 - aspect) * second) / (2 * math.pi * aspect) + 0.5
    return np.clip(total, 0.0, 1.0)


def _root(increasing: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that rises from below to above zero crosses it, by bisection to the last digit."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if increasing(middle) < 0 else (low, middle)
    return (low + high) / 2


@cache
def marchenko_pastur_median(rows: int, columns: int) -> float:
    """Median eigenvalue of W·Wᵀ/n, unit entries: 0.8304 at c = ½."""
    *_, aspect = _sides(rows, columns)

    def excess(eigenvalue: float) -> float:
        return float(marchenko_pastur_cdf(np.array([eigenvalue]), aspect)[0]) - 0.5

    return _root(excess, (1 - math.sqrt(aspect)) ** 2, (1 + math.sqrt(aspect)) ** 2)


@cache
def _root_moments(rows: int, columns: int) -> tuple[float, float]:
    """E√x and E[√x ln √x] under the law of Marchenko and Pastur.

    With x = 1 + c + 2√c·cos θ the density is 2 sin²θ/(πx) dθ; the midpoint rule on it errs by 1e-8 at c = 1.
    """
    *_, aspect = _sides(rows, columns)
    angles = (np.arange(1 << 15) + 0.5) * (math.pi / (1 << 15))
    x = 1 + aspect + 2 * math.sqrt(aspect) * np.cos(angles)
    root = np.sqrt(np.maximum(x, 1e-30))
    density = 2 * np.sin(angles) ** 2 / root**2
    return float((density * root).mean()), float((density * root * np.log(root)).mean())


def effective_rank_lambda_null(rows: int, columns: int) -> float:
    """Entropy rank of the eigenvalues, m·e^{−m/(2n)} (Page 1993)."""
    short, _, aspect = _sides(rows, columns)
    return short * math.exp(-aspect / 2)


def effective_rank_sigma_null(rows: int, columns: int) -> float:
    """Entropy rank of the singular values, m·E√x·exp(−E[√x ln √x]/E√x)."""
    if min(rows, columns) == 0:
        return 0.0
    mean_root, mean_root_log = _root_moments(rows, columns)
    return min(rows, columns) * mean_root * math.exp(-mean_root_log / mean_root)


def participation_ratio_null(rows: int, columns: int) -> float:
    """Participation ratio of the eigenvalues, mn/(m+n+1): the moments of a Wishart matrix."""
    return rows * columns / (rows + columns + 1)


def stable_rank_null(rows: int, columns: int) -> float:
    """Stable rank, m/(1+√c)²; the fluctuation of the edge lifts it by 1 to 5 % at finite size."""
    short, _, aspect = _sides(rows, columns)
    return short / (1 + math.sqrt(aspect)) ** 2


def nuclear_rank_null(rows: int, columns: int) -> float:
    """‖W‖_*/σ₁, m·E√x/(1+√c)."""
    if min(rows, columns) == 0:
        return 0.0
    short, _, aspect = _sides(rows, columns)
    return short * _root_moments(rows, columns)[0] / (1 + math.sqrt(aspect))


def nuclear_frobenius_null(rows: int, columns: int) -> float:
    """‖W‖_*²/‖W‖_F², m·(E√x)²."""
    if min(rows, columns) == 0:
        return 0.0
    return min(rows, columns) * _root_moments(rows, columns)[0] ** 2


@cache
def energy_rank_null(rows: int, columns: int, share: float) -> float:
    """Number of leading directions that hold `share` of the energy.

    Weighted by itself the Marchenko-Pastur density is a semicircle about 1 + c of radius 2√c, so that the cut of the
    energy is a quantile of the semicircle, whatever c is.
    """
    short, _, aspect = _sides(rows, columns)
    if short == 0:
        return 0.0

    def excess(cut: float) -> float:
        return 0.5 + (cut * math.sqrt(1 - cut * cut) + math.asin(cut)) / math.pi - (1 - share)

    cut = 1 + aspect + 2 * math.sqrt(aspect) * _root(excess, -1.0, 1.0)
    return short * (1.0 - float(marchenko_pastur_cdf(np.array([cut]), aspect)[0]))


def condition_null(rows: int, columns: int) -> float:
    """σ₁/σ_m, (√n+√m)/(√n−√m+δ): the edges of the Marchenko-Pastur law, and for a square matrix Edelman's 1988 mean.

    δ = 2e^{−1.537}/√m gives exp(ln m + 1.537) at n = m, where the edge law has no lower edge; for nearly square shapes
    it interpolates (64×65 to 64×80: 0.1 to 0.3 above the mean of ln κ), and at c = ¼ it no longer matters.
    """
    short, long, _ = _sides(rows, columns)
    if short == 0:
        return 1.0
    gap = math.sqrt(long) - math.sqrt(short) + 2 * math.exp(-1.537) / math.sqrt(short)
    return (math.sqrt(long) + math.sqrt(short)) / gap


@cache
def _gaussian_spectra(rows: int, columns: int) -> tuple[Vector, ...]:
    """Eigenvalues of W·Wᵀ, descending, of seeded Gaussian matrices of the shape: four draws, two beyond a side of 1024.

    Drawn as bidiagonal matrices of χ variables, which have the same law (Dumitriu & Edelman 2002): m² and not m²n.
    """
    # a third of a second to import, and needed here only
    from scipy.linalg import eigvalsh_tridiagonal

    short, long, _ = _sides(rows, columns)
    generator = np.random.default_rng(0)
    spectra: list[Vector] = []
    for _ in range(4 if short <= 1024 else 2):
        diagonal = np.sqrt(generator.chisquare(long - np.arange(short)))
        below = np.sqrt(generator.chisquare(np.arange(short - 1, 0, -1)))
        squares = diagonal**2
        squares[1:] += below**2
        eigenvalues = eigvalsh_tridiagonal(squares, diagonal[:-1] * below).astype(np.float64)
        spectra.append(np.clip(eigenvalues[::-1], 0.0, None))
    return tuple(spectra)


def bulk_scale(values: Float[Tensor, " rank"], rows: int, columns: int) -> float:
    """Standard deviation of the entries of the noise: med(σ)/√(n·μ), μ the Marchenko-Pastur median.

    The median stays right while less than half of the spectrum is signal (Gavish & Donoho 2013).
    """
    if values.numel() == 0:
        return 0.0
    median = float(np.median(values.numpy()))
    return median / math.sqrt(max(rows, columns) * marchenko_pastur_median(rows, columns))


def bulk_edge(scale: float, rows: int, columns: int) -> tuple[float, float]:
    """Upper edge of the noise eigenvalues, scale²(√n+√m)², and the value that one Gaussian matrix in 100 exceeds.

    Johnstone 2001: the largest eigenvalue fluctuates by τ = scale²(√n+√m)(1/√n+1/√m)^{1/3}.
    """
    short, long, _ = _sides(rows, columns)
    roots = math.sqrt(long) + math.sqrt(short)
    edge = scale**2 * roots**2
    width = scale**2 * roots * (1 / math.sqrt(long) + 1 / math.sqrt(short)) ** (1 / 3)
    return edge, edge + _TRACY_WIDOM_99 * width


def spike_count(values: Float[Tensor, " rank"], rows: int, columns: int) -> int:
    """Number of eigenvalues σ² that noise of the bulk's scale does not reach."""
    _, threshold = bulk_edge(bulk_scale(values, rows, columns), rows, columns)
    return int((values.square() > threshold).sum())


def bulk_distance(values: Float[Tensor, " rank"], rows: int, columns: int) -> float:
    """Kolmogorov-Smirnov distance of the eigenvalues that are no spikes from the law of Marchenko and Pastur."""
    scale = bulk_scale(values, rows, columns)
    count = values.numel() - spike_count(values, rows, columns)
    if scale == 0.0 or count == 0:
        return 1.0
    *_, aspect = _sides(rows, columns)
    bulk = np.sort(values.numpy()[-count:]) ** 2 / (max(rows, columns) * scale**2)
    expected = marchenko_pastur_cdf(bulk, aspect)
    steps = np.arange(count + 1) / count
    return float(max(np.abs(expected - steps[1:]).max(), np.abs(expected - steps[:-1]).max()))


def spectrum_distance(values: Float[Tensor, " rank"], others: Float[Tensor, " rank"]) -> float:
    """√ of the Jensen-Shannon divergence, natural log, of two sorted spectra λ/Σλ: 0 to √ln 2 = 0.83."""
    first, second = values.square() / values.square().sum(), others.square() / others.square().sum()
    mean = (first + second) / 2
    divergence = torch.special.xlogy(first, first / mean) + torch.special.xlogy(second, second / mean)
    # 0·ln(0/0) where both are zero
    return math.sqrt(max(float(divergence.nan_to_num(0.0).sum()) / 2, 0.0))


@cache
def bulk_distance_null(rows: int, columns: int) -> float:
    """Mean `bulk_distance` of seeded Gaussian matrices of the shape: .017 at 128×256."""
    spectra = _gaussian_spectra(rows, columns)
    return sum(bulk_distance(torch.tensor(np.sqrt(s)), rows, columns) for s in spectra) / len(spectra)


@cache
def spectrum_distance_null(rows: int, columns: int) -> float:
    """Mean `spectrum_distance` of two seeded Gaussian matrices of the shape: .0037 at 256×512."""
    roots = [torch.tensor(np.sqrt(spectrum)) for spectrum in _gaussian_spectra(rows, columns)]
    pairs = [(a, b) for i, a in enumerate(roots) for b in roots[i + 1 :]]
    return sum(spectrum_distance(a, b) for a, b in pairs) / len(pairs)


def planted_overlap(eigenvalue: float, scale: float, rows: int, columns: int) -> float:
    """Squared cosine of a spike's singular vector (of the smaller side) with the direction that was planted in noise.

    λ = (θ²+m)(θ²+n)/θ² solved for θ, then 1 − c(1+t)/(t(t+c)) with t = θ²/n (Benaych-Georges & Nadakuditi 2011); 0
    where the spike could not have been told from noise.
    """
    short, long, aspect = _sides(rows, columns)
    if scale <= 0.0:
        return 1.0
    excess = eigenvalue / scale**2 - short - long
    if excess <= 2 * math.sqrt(short * long):
        return 0.0
    strength = (excess + math.sqrt(excess**2 - 4 * short * long)) / 2 / long
    return max(0.0, 1 - aspect * (1 + strength) / (strength * (strength + aspect)))


def shuffled_singular_values(weight: Weight) -> tuple[Float[Tensor, " rank"], ...]:
    """Singular values of the weight with its elements permuted at random: three times, once beyond a side of 256.

    Raises:
        NotConverged: LAPACK gave up.
    """
    matrix, generator = weight.matrix, weight.generator()
    entries, spectra = matrix.reshape(-1), []
    for _ in range(3 if min(matrix.shape) <= _SIDE_OF_THREE_SHUFFLES else 1):
        order = torch.randperm(entries.numel(), generator=generator).to(entries.device)
        try:
            eigenvalues: Tensor = torch.linalg.eigvalsh(gram_of(entries[order].reshape(matrix.shape)))
        except LinAlgError as error:
            where = weight.site.name
            raise NotConverged("the eigenvalue solver did not converge", where=where, got=str(error)) from error
        spectra.append(eigenvalues.clamp_min(0.0).sqrt().flip(0).cpu())
    return tuple(spectra)
