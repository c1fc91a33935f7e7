"""The statistic of Mann and Whitney, and what is known of distances to a part of the training rows."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.stats import mannwhitneyu

from collapse_cli.kernels.copying import copying_auc, copying_error, quantile


def draws(count: int, seed: int) -> torch.Tensor:
    # one decimal, so that there are ties
    return torch.from_numpy(np.random.default_rng(seed).gamma(3.0, size=count).round(1))


@pytest.mark.parametrize("seed", range(3))
def test_is_mann_whitney(seed: int) -> None:
    found, among = draws(80, seed), draws(120, seed + 9)
    expected = mannwhitneyu(among.numpy(), found.numpy()).statistic / (80 * 120)
    assert copying_auc(found, among) == pytest.approx(expected, rel=1e-10)


def test_error_is_that_of_the_null() -> None:
    assert copying_error(80, 120) == pytest.approx(np.sqrt(80 * 120 * 201 / 12) / (80 * 120))


def test_copies_and_far_rows_are_the_ends() -> None:
    among = draws(100, 0) + 1.0
    for ratio in (1.0, 20.0):
        assert copying_auc(torch.zeros(9, dtype=torch.float64), among, ratio=ratio) == 1.0
        assert copying_auc(torch.full((9,), 1e9, dtype=torch.float64), among, ratio=ratio) == 0.0


def test_quantile_of_fewer_distances() -> None:
    among = torch.linspace(0.0, 1.0, 1001, dtype=torch.float64)
    assert quantile(among, 0.01) == pytest.approx(0.01)
    # the least of five uniform draws is below t with 1 − (1−t)⁵
    assert 1.0 - (1.0 - quantile(among, 0.5, ratio=5.0)) ** 5 == pytest.approx(0.5)


@pytest.mark.parametrize("width", [2, 16])
def test_fresh_rows_are_not_blamed_when_only_a_part_is_compared_among_itself(width: int) -> None:
    generator = np.random.default_rng(0)
    train, fresh = generator.standard_normal((8000, width)), generator.standard_normal((1000, width))
    found = torch.from_numpy(cKDTree(train).query(fresh)[0])
    part = torch.from_numpy(cKDTree(train[:2000]).query(train[:2000], k=2)[0][:, 1])
    assert copying_auc(found, part) > 0.56  # without the ratio they would be
    assert copying_auc(found, part, ratio=4.0) < 0.5 + 3 * copying_error(1000, 2000)
    assert float((found < quantile(part, 0.01, ratio=4.0)).double().mean()) < 0.024  # .01, of five distances
    assert float(found.median()) / quantile(part, 0.5, ratio=4.0) > 0.95
