"""Largest singular values by products alone, against the dense decomposition."""

import numpy as np
import pytest
import torch

from collapse_cli.core.site import Site
from collapse_cli.kernels import lanczos
from collapse_cli.kernels.comparisons import Comparison
from collapse_cli.kernels.views import Weight


def pair(a: np.ndarray, b: np.ndarray) -> Comparison:
    site = Site("w", a.shape, "F64")
    return Comparison(site, (Weight(site, torch.from_numpy(a)), Weight(site, torch.from_numpy(b))), labels=("a", "b"))


@pytest.mark.parametrize("shape", [(200, 90), (90, 200), (7, 5), (1, 9)])
def test_norms_are_those_of_the_decomposition(shape: tuple[int, int]) -> None:
    a, b = np.random.default_rng(0).normal(size=(2, *shape))
    assert lanczos.norm_before(pair(a, b)) == pytest.approx(np.linalg.norm(a, 2), rel=2e-3)
    assert lanczos.change_norm(pair(a, b)) == pytest.approx(np.linalg.norm(b - a, 2), rel=2e-3)


def test_a_direction_that_stands_out_is_met_to_the_last_digits() -> None:
    rng = np.random.default_rng(1)
    a = rng.normal(size=(80, 60))
    b = a + 50 * np.outer(rng.normal(size=80), rng.normal(size=60)) / 60
    assert lanczos.change_norm(pair(a, b)) == pytest.approx(np.linalg.norm(b - a, 2), rel=1e-12)


def test_zero_and_equal_weights_have_norm_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    a = np.random.default_rng(2).normal(size=(30, 20))
    assert lanczos.change_norm(pair(a, a.copy())) == 0
    assert lanczos.norm_before(pair(np.zeros((30, 20)), a)) == 0
    assert lanczos.norm_before(pair(np.zeros((0, 20)), np.zeros((0, 20)))) == 0
    whole = lanczos.norm_before(pair(a, a))
    monkeypatch.setattr(lanczos, "_BLOCK_ENTRIES", 64)
    assert lanczos.norm_before(pair(a, a)) == pytest.approx(whole, rel=1e-12)
