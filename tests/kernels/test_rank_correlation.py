"""Spearman's ρ against scipy."""

import pytest
import torch
from scipy.stats import spearmanr

from collapse_cli.kernels.rank_correlation import spearman


def test_agrees_with_scipy_with_and_without_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(50, generator=generator, dtype=torch.float64)
    right = (left + torch.randn(50, generator=generator)).round()
    assert spearman(left, right) == pytest.approx(spearmanr(left.numpy(), right.numpy()).statistic, abs=1e-12)


def test_monotone_is_one_and_constant_is_undefined() -> None:
    values = torch.arange(6.0)
    assert spearman(values, values.exp()) == pytest.approx(1.0)
    assert spearman(values, -values.exp()) == pytest.approx(-1.0)
    assert spearman(values, torch.ones(6)) is None
    assert spearman(torch.zeros(0), torch.zeros(0)) is None
