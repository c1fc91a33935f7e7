"""Against WeightWatcher 0.7.7 (published figures, and a transcription of its definition in numpy) and exact laws."""

import math

import numpy as np
import pytest
import torch

from collapse_cli.kernels.power_law import (
    hill_alpha,
    log_alpha_norm,
    power_law_fit,
    sliced_singular_values,
    tail_eigenvalues,
)
from collapse_cli.kernels.spectrum import singular_values
from tests.views import weight


def by_definition(x: np.ndarray) -> tuple[float, float, float, int]:
    """One cut after the other, as the papers write it."""
    best = (math.inf, 0.0, 0.0, 0)
    for i in range(len(x) - 1):
        tail = x[i:]
        n = len(tail)
        alpha = 1 + n / np.log(tail / x[i]).sum()
        distance = np.abs(1 - (tail / x[i]) ** (1 - alpha) - np.arange(n) / n).max()
        if distance < best[0]:
            best = (distance, alpha, x[i], n)
    return best


@pytest.mark.parametrize(("count", "seed"), [(20, 0), (57, 1), (384, 2), (1500, 3)])
def test_fit_is_the_definition(count: int, seed: int) -> None:
    x = np.sort(np.random.default_rng(seed).lognormal(0.0, 1.0, count))
    distance, alpha, xmin, tail = by_definition(x)
    fit = power_law_fit(torch.tensor(x))
    assert fit is not None
    assert fit.alpha == pytest.approx(alpha, rel=1e-9)
    assert fit.ks_distance == pytest.approx(distance, rel=1e-9)
    assert (fit.xmin, fit.tail_count) == (xmin, tail)


@pytest.mark.parametrize("seed", range(6))
def test_small_sample_fit_is_the_definition(seed: int) -> None:
    x = np.sort(np.random.default_rng(seed).lognormal(0.0, 1.0, 19))
    best = (math.inf, 0.0, 0)
    for i in range(19 - 8 + 1):
        tail = x[i:]
        n = len(tail)
        alpha = 1 + (n - 1) / np.log(tail / x[i]).sum()
        distance = np.abs(1 - (tail / x[i]) ** (1 - alpha) - np.arange(n) / n).max()
        best = min(best, (distance - 0.868 / math.sqrt(n), alpha, n))
    fit = power_law_fit(torch.tensor(x))
    assert fit is not None
    assert (fit.alpha, fit.tail_count) == (pytest.approx(best[1], rel=1e-9), best[2])


def test_published_figures_of_a_gaussian_matrix() -> None:
    matrix = (0.05 * np.random.default_rng(0).standard_normal((256, 512))).astype(np.float32)
    sigma = singular_values(weight(torch.tensor(matrix)))
    fit = power_law_fit(tail_eigenvalues(sigma))
    assert fit is not None
    assert fit.alpha == pytest.approx(5.214132, abs=1e-6)
    assert fit.ks_distance == pytest.approx(0.128721, abs=1e-6)
    assert fit.xmin == pytest.approx(2.112570, abs=1e-6)
    assert fit.alpha_sigma == pytest.approx(0.573471, abs=1e-6)
    assert fit.tail_count == 54
    assert log_alpha_norm(sigma, fit.alpha) == pytest.approx(4.138849, abs=1e-6)


def test_published_figures_of_a_small_matrix_and_of_a_convolution() -> None:
    generator = np.random.default_rng(3)
    small = torch.tensor(generator.standard_normal((16, 40)).astype(np.float32))
    fit = power_law_fit(tail_eigenvalues(singular_values(weight(small))))
    assert fit is not None
    assert fit.alpha == pytest.approx(2.745088, abs=1e-6)
    kernel = torch.tensor((0.1 * generator.standard_normal((64, 32, 3, 3))).astype(np.float32))
    pooled = sliced_singular_values(weight(kernel))
    assert pooled.numel() == 9 * 32
    fit = power_law_fit(tail_eigenvalues(pooled))
    assert fit is not None
    assert fit.alpha == pytest.approx(8.543733, abs=1e-6)
    assert fit.tail_count == 33
    # halved: the pooled energy is half of that of the kernel
    assert float(pooled.square().sum()) == pytest.approx(float(kernel.double().square().sum()) / 2, rel=1e-12)


@pytest.mark.parametrize(("alpha", "fitted"), [(3.0, 3.0017), (1.5, 1.5004)])
def test_quantiles_of_an_exact_law_give_its_exponent(alpha: float, fitted: float) -> None:
    u = (np.arange(1000) + 0.5) / 1000
    x = torch.tensor((1 - u) ** (-1 / (alpha - 1)))
    fit = power_law_fit(x)
    assert fit is not None
    assert fit.alpha == pytest.approx(fitted, abs=5e-5)
    assert fit.ks_distance == pytest.approx(6.7e-4, abs=1e-5)
    assert fit.tail_count == 1000
    hill = hill_alpha(x.flip(0).sqrt())
    assert hill == pytest.approx(alpha, abs=2e-3)


def test_hill_is_its_formula() -> None:
    sigma = torch.tensor([4.0, 3.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    assert hill_alpha(sigma) == pytest.approx(1 + 2 / (2 * math.log(4 / 2) + 2 * math.log(3 / 2)), rel=1e-12)


def test_no_spread_has_no_exponent() -> None:
    assert power_law_fit(torch.ones(30, dtype=torch.float64)) is None
    assert power_law_fit(torch.ones(10, dtype=torch.float64)) is None
    assert power_law_fit(torch.ones(1, dtype=torch.float64)) is None
    assert hill_alpha(torch.ones(30, dtype=torch.float64)) is None
    assert hill_alpha(torch.tensor([1.0, 0.0, 0.0])) is None
    assert hill_alpha(torch.zeros(0)) is None


def test_the_cut_at_1e_5_is_absolute() -> None:
    sigma = torch.tensor([1.0, 0.1, 0.0032, 0.0031], dtype=torch.float64)
    assert tail_eigenvalues(sigma).tolist() == pytest.approx([0.0032**2, 0.01, 1.0])


def test_exponents_of_any_size_stay_finite() -> None:
    x = torch.logspace(-4, 300, 200, dtype=torch.float64)
    fit = power_law_fit(x)
    assert fit is not None
    assert math.isfinite(fit.alpha)
    assert math.isfinite(log_alpha_norm(x.flip(0).sqrt(), 500.0))
