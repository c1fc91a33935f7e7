"""The Gaussian fit of entries, against scipy."""

import numpy as np
import pytest
import torch
from scipy import stats

from collapse_cli.kernels.normality import gaussian_likeness
from tests.views import weight


@pytest.mark.parametrize("shape", [(8, 40), (16, 256)])
@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_is_the_test_of_kolmogorov_and_smirnov(shape: tuple[int, int], kind: str) -> None:
    generator = np.random.default_rng(2)
    entries = generator.standard_normal(shape) if kind == "gaussian" else generator.uniform(-1, 1, shape)
    distance, p_value = gaussian_likeness(weight(torch.tensor(entries)))
    reference = stats.kstest(entries.ravel() / np.sqrt((entries**2).mean()), "norm")
    assert distance == pytest.approx(reference.statistic, abs=1e-12)
    assert p_value == pytest.approx(reference.pvalue, abs=0.01)
    assert (p_value > 0.1) == (kind == "gaussian")


def test_zeros_fit_nothing() -> None:
    assert gaussian_likeness(weight(torch.zeros(4, 4))) == (1.0, 0.0)
