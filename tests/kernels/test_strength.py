"""Dead units and the Gini coefficient against closed forms."""

import math

import numpy as np
import pytest
import torch

from collapse_cli.kernels import strength
from tests.views import weight


def test_gini_of_known_distributions():
    assert strength.gini(torch.ones(50, dtype=torch.float64)) == pytest.approx(0.0, abs=1e-15)
    assert strength.gini(torch.eye(10, dtype=torch.float64)[3]) == pytest.approx(0.9)  # 1 − 1/n: all in one
    assert strength.gini(torch.arange(1, 101, dtype=torch.float64)) == pytest.approx(0.33)  # (n − 1)/3n·… = 33/100
    assert strength.gini(torch.zeros(4, dtype=torch.float64)) == 0.0


def test_gini_is_half_the_mean_relative_difference():
    values = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = np.abs(values.numpy()[:, None] - values.numpy()).mean() / 2 / values.numpy().mean()
    assert strength.gini(values) == pytest.approx(exact, rel=1e-12)


def test_gini_null_is_met_by_a_gaussian_matrix():
    norms = torch.randn(4096, 1024, generator=torch.Generator().manual_seed(0)).double().norm(dim=1)
    assert strength.gini_null(1024) == pytest.approx(0.01247, abs=5e-6)
    assert strength.gini(norms) == pytest.approx(strength.gini_null(1024), rel=0.02)


@pytest.mark.parametrize(
    ("dead", "size"), [(count, size) for count in (0, 1, 26, 128, 250, 255) for size in (0.0, 1e-6)] + [(100, 9e-4)]
)
def test_planted_dead_units_are_counted_however_many(dead, size):
    strengths = torch.ones(256, dtype=torch.float64)
    strengths[:dead] = size
    assert int(strength.is_dead(strengths).sum()) == dead
    assert strength.alive_median(strengths) == 1.0


def test_a_giant_does_not_make_the_others_dead():
    strengths = torch.ones(1024, dtype=torch.float64)
    strengths[7] = 5e3
    assert int(strength.is_dead(strengths).sum()) == 0


def test_edges():
    assert bool(strength.is_dead(torch.zeros(5, dtype=torch.float64)).all())
    assert strength.is_dead(torch.zeros(0, dtype=torch.float64)).numel() == 0
    assert strength.alive_median(torch.full((3,), 1e-300, dtype=torch.float64)) == pytest.approx(1e-300)


def test_channel_norms_gather_the_taps_of_a_channel():
    kernel = torch.randn(8, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = np.sqrt((kernel.double().numpy() ** 2).sum(axis=(0, 2, 3)))
    np.testing.assert_allclose(strength.channel_norms(weight(kernel), 5).numpy(), expected, rtol=1e-12)
    with pytest.raises(ValueError, match="45 columns for 7 channels"):
        strength.channel_norms(weight(kernel), 7)


def test_gini_null_formula():
    assert strength.gini_null(1) == pytest.approx(1 / math.sqrt(2 * math.pi))
