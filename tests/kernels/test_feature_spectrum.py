import math

import numpy as np
import pytest
import torch

from collapse_cli.kernels.batches import Batch
from collapse_cli.kernels.feature_moments import Moments
from collapse_cli.kernels.feature_spectrum import (
    covariance_eigenvalues_of,
    curve,
    marchenko_pastur_quantiles,
    participation_ratio_null,
    rankme,
    rankme_null,
)


def moments(rows: torch.Tensor) -> Moments:
    accumulator = Moments()
    for part in rows.split(64):
        accumulator.update(Batch({"features": part}))
    return accumulator


@pytest.mark.parametrize(
    ("ratio", "share"),
    [(0.01, 0.99875), (0.1, 0.98712), (0.25, 0.96622), (0.5, 0.92605), (0.75, 0.87602), (1, 0.80504)],
)
def test_rankme_of_random_rows_as_a_share_of_the_smaller_side(ratio: float, share: float) -> None:
    # integral of the Marchenko-Pastur law, five digits
    assert rankme_null(10_000, round(10_000 * ratio)) / (10_000 * ratio) == pytest.approx(share, abs=1e-5)


def test_rankme_is_an_exponential_of_entropy_with_a_small_constant() -> None:
    values = torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64)
    assert rankme(values, epsilon=0.0) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    shares = np.array([0.75, 0.25, 0.0]) + 1e-5
    assert rankme(values, epsilon=1e-5) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-12)
    assert rankme(torch.zeros(4, dtype=torch.float64)) == 0.0
    assert rankme(torch.zeros(0, dtype=torch.float64)) == 0.0


@pytest.mark.parametrize("shape", [(30, 8), (8, 30), (5, 3)])
def test_participation_ratio_of_random_rows_by_drawing(shape: tuple[int, int]) -> None:
    generator = np.random.default_rng(0)
    first = second = 0.0
    for _ in range(2000):
        covariance = np.cov(generator.standard_normal(shape).T)
        first += np.trace(covariance) ** 2
        second += (covariance**2).sum()
    assert participation_ratio_null(*shape) == pytest.approx(first / second, rel=0.01)


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (2, 3)])
@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_eigenvalues_of_the_covariance_whatever_the_offset(shape: tuple[int, int], offset: float) -> None:
    rows = torch.tensor(np.random.default_rng(0).standard_normal(shape)) + offset
    expected = np.linalg.svd((rows - rows.mean(0)).numpy(), compute_uv=False) ** 2 / (shape[0] - 1)
    found = covariance_eigenvalues_of(moments(rows))
    assert found.numel() == min(shape[0] - 1, shape[1])
    assert found.numpy() == pytest.approx(expected[: found.numel()], rel=1e-8)


def test_equal_rows_have_no_covariance_and_no_rows_no_eigenvalues() -> None:
    assert float(covariance_eigenvalues_of(moments(torch.full((200, 5), 0.1))).sum()) == 0.0
    assert covariance_eigenvalues_of(moments(torch.ones(1, 5))).numel() == 0
    assert covariance_eigenvalues_of(moments(torch.zeros(0, 5))).numel() == 0


@pytest.mark.parametrize("shape", [(400, 100), (100, 400), (300, 300)])
def test_quantiles_have_the_moments_of_the_law(shape: tuple[int, int]) -> None:
    values, aspect = marchenko_pastur_quantiles(*shape), min(shape) / max(shape)
    assert values.mean() == pytest.approx(1.0, abs=1e-3)
    assert (values**2).mean() == pytest.approx(1 + aspect, abs=5e-3)


def test_a_curve_keeps_both_ends_and_at_most_128_points() -> None:
    values = torch.arange(5000, 0, -1, dtype=torch.float64)
    points = curve(values)
    assert len(points) <= 128
    assert (points[0], points[-1]) == (5000.0, 1.0)
    assert curve(values[:5]) == [5000.0, 4999.0, 4998.0, 4997.0, 4996.0]
