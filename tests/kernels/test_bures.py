"""The published formulas by another route (matrix square roots, dense kernels), closed forms, and draws of the null."""

import numpy as np
import pytest
import scipy.linalg
import torch

from collapse_cli.kernels.accumulators import Batch, Moments
from collapse_cli.kernels.bures import Gaussian, frechet_null, gaussian_of_rows, kernel_distance, squared_distance


def draws(count: int, width: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((count, width)) @ generator.standard_normal((width, width))


def of(rows: np.ndarray) -> Gaussian:
    return gaussian_of_rows(torch.from_numpy(rows))


def frechet(left: np.ndarray, right: np.ndarray) -> float:
    """Heusel et al. 2017, equation 6 (arXiv:1706.08500), with scipy's square root of the matrix Σ₁Σ₂."""
    one, two = np.cov(left, rowvar=False), np.cov(right, rowvar=False)
    root = scipy.linalg.sqrtm(one @ two)
    return float(((left.mean(0) - right.mean(0)) ** 2).sum() + np.trace(one + two - 2 * np.real(root)))


def mmd(left: np.ndarray, right: np.ndarray) -> float:
    """Bińkowski et al. 2018, equation 4 (arXiv:1801.01401), pair by pair."""
    kernel = lambda x, y: (x @ y.T / x.shape[1] + 1.0) ** 3  # noqa: E731
    off = ~np.eye(len(left), dtype=bool)
    return kernel(left, left)[off].mean() + kernel(right, right)[off].mean() - 2 * kernel(left, right).mean()


@pytest.mark.parametrize("seed", range(3))
def test_distance_is_that_of_the_matrix_square_root(seed: int) -> None:
    left, right = draws(300, 12, seed), draws(200, 12, seed + 10) + 0.5
    shift, whole = squared_distance(of(left), of(right))
    assert whole == pytest.approx(frechet(left, right), rel=1e-9)
    assert shift == pytest.approx(((left.mean(0) - right.mean(0)) ** 2).sum(), rel=1e-12)
    assert squared_distance(of(right), of(left))[1] == pytest.approx(whole, rel=1e-9)


def test_moments_give_the_same_as_rows() -> None:
    rows = draws(300, 6, 0) + 1e4
    moments = Moments("samples")
    for start in range(0, 300, 70):
        part = torch.from_numpy(rows[start : start + 70])
        moments.update(Batch({"samples": part}, start=start))
    found, expected = Gaussian.of(moments), of(rows)
    assert found.count == 300
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=1e-8, atol=1e-9)
    assert found.trace == pytest.approx(np.cov(rows, rowvar=False).trace(), rel=1e-9)


def test_closed_forms_in_eight_dimensions() -> None:
    unit = Gaussian(100, torch.zeros(8, dtype=torch.float64), torch.eye(8, dtype=torch.float64))
    shifted = Gaussian(100, torch.ones(8, dtype=torch.float64), torch.eye(8, dtype=torch.float64))
    half = Gaussian(100, torch.zeros(8, dtype=torch.float64), torch.eye(8, dtype=torch.float64) / 4)
    point = Gaussian(100, torch.ones(8, dtype=torch.float64), torch.zeros(8, 8, dtype=torch.float64))
    assert squared_distance(unit, shifted) == pytest.approx((8.0, 8.0))
    assert squared_distance(unit, half) == pytest.approx((0.0, 2.0))
    assert squared_distance(point, unit) == squared_distance(unit, point) == pytest.approx((8.0, 16.0))
    assert squared_distance(unit, unit) == pytest.approx((0.0, 0.0), abs=1e-12)


def test_null_of_a_power_law_and_of_isotropic_rows() -> None:
    zero = torch.zeros(256, dtype=torch.float64)
    power = Gaussian(10_000, zero, torch.diag(1.0 / torch.arange(1, 257, dtype=torch.float64)))
    assert frechet_null(power, 10_000)[1] == pytest.approx(0.03643, abs=5e-6)
    even = Gaussian(2000, zero[:64], torch.eye(64, dtype=torch.float64))
    assert frechet_null(even, 2000)[1] == pytest.approx(1.104, abs=5e-4)
    assert frechet_null(even, 2000)[0] == pytest.approx(0.064, rel=1e-12)
    singular = Gaussian(50, zero[:2], torch.zeros(2, 2, dtype=torch.float64))
    assert frechet_null(singular, 50) == (0.0, 0.0)


def test_null_against_draws() -> None:
    found = []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        scale = 1.0 / np.arange(1, 11)
        left, right = (of(generator.standard_normal((500, 10)) * scale) for _ in range(2))
        found.append(squared_distance(left, right)[1])
    exact = Gaussian(500, torch.zeros(10, dtype=torch.float64), torch.diag(torch.from_numpy(scale**2)))
    assert np.mean(found) == pytest.approx(frechet_null(exact, 500)[1], rel=0.15)  # three standard errors


def test_kernel_distance_is_the_dense_one() -> None:
    left, right = draws(60, 5, 0), draws(60, 5, 1)
    found = kernel_distance(torch.from_numpy(left), torch.from_numpy(right), torch.Generator().manual_seed(0))
    assert found is not None
    assert found == pytest.approx((mmd(left, right), 0.0, 1), rel=1e-9)


def test_kernel_distance_of_subsets_is_their_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collapse_cli.kernels.bures.SUBSET_ROWS", 20)
    left, right = draws(60, 5, 0), draws(80, 5, 1)
    value, deviation, subsets = kernel_distance(
        torch.from_numpy(left), torch.from_numpy(right), torch.Generator().manual_seed(0)
    )
    generator = torch.Generator().manual_seed(0)
    expected = [
        mmd(left[torch.randperm(60, generator=generator)[:20]], right[torch.randperm(80, generator=generator)[:20]])
        for _ in range(100)
    ]
    assert (value, deviation, subsets) == pytest.approx((np.mean(expected), np.std(expected), 100), rel=1e-9)


def test_kernel_distance_of_the_origin_from_a_gaussian() -> None:
    gaussian = torch.from_numpy(np.random.default_rng(0).standard_normal((1000, 16)))
    found = kernel_distance(torch.zeros(1000, 16), gaussian, torch.Generator())
    assert found is not None
    assert found[0] == pytest.approx(3 / 16, abs=0.02)  # 3/D to leading order; .191 simulated


def test_a_kernel_that_overflows_is_none() -> None:
    huge = torch.full((4, 2), 1e60, dtype=torch.float64)
    assert kernel_distance(huge, huge, torch.Generator()) is None
