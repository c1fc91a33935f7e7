"""What chance gives: spectra of Gaussian matrices of a shape, and what of a given matrix could not be noise.

m ≤ n are the sides, c = m/n. With unit entries the eigenvalues of W·Wᵀ/n follow the law of Marchenko & Pastur (1967) on
[(1−√c)², (1+√c)²]. The nulls are pure functions of a shape, computed once per shape.
"""

import math
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from scipy import integrate, optimize
from scipy.linalg import eigvalsh_tridiagonal
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
    """Share of the eigenvalues of W·Wᵀ/n below each value, unit entries, c = `aspect` ≤ 1: the integral in closed form."""
    root = math.sqrt(aspect)
    # at c = 1 the support begins at 0, where the last term vanishes
    x = np.clip(eigenvalues, max((1 - root) ** 2, 1e-300), (1 + root) ** 2)
    semicircle = np.sqrt(np.maximum(4 * aspect - (x - 1 - aspect) ** 2, 0.0))
    first = np.arcsin(np.clip((x - 1 - aspect) / (2 * root), -1, 1))
    second = np.arcsin(np.clip(((1 + aspect) * x - (1 - aspect) ** 2) / (2 * root * x), -1, 1))
    total: Vector = (semicircle + (1 + aspect) * first - (1 - aspect) * second) / (2 * math.pi * aspect) + 0.5
    return np.clip(total, 0.0, 1.0)


@cache
def marchenko_pastur_median(rows: int, columns: int) -> float:
    """Median eigenvalue of W·Wᵀ/n, unit entries: 0.8304 at c = ½."""
    *_, aspect = _sides(rows, columns)
    low, high = (1 - math.sqrt(aspect)) ** 2, (1 + math.sqrt(aspect)) ** 2
    return _root(lambda x: float(marchenko_pastur_cdf(np.array([x]), aspect)[0]) - 0.5, low, high)


def _root(function: "optimize._zeros_py._FloatFunction | object", low: float, high: float) -> float:
    return float(optimize.brentq(function, low, high, xtol=1e-14))  # type: ignore[arg-type]
