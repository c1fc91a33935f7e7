import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzer import Role
from collapse_cli.analyzers.spectrum.conditioning import conditioning
from collapse_cli.core.site import Site
from collapse_cli.kernels import spectrum
from tests.views import at, reasons, values, weight


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("shape", [(64, 64), (48, 96), (200, 30)])
def test_is_numpys_condition(shape: tuple[int, int]) -> None:
    matrix = gaussian(*shape)
    found = values(conditioning.run(weight(matrix)))
    assert 10 ** found["log10_condition"] == pytest.approx(np.linalg.cond(matrix.numpy()), rel=1e-6)
    assert found["below_floor_share"] == 0.0


def test_orthogonal_is_zero_and_a_long_gaussian_is_at_its_null() -> None:
    rotation = torch.linalg.qr(gaussian(64, 64)).Q
    assert values(conditioning.run(weight(rotation)))["log10_condition"] == pytest.approx(0.0, abs=1e-9)
    measured = at(conditioning.run(weight(gaussian(256, 1024))))["log10_condition", "w"]
    assert measured.value == pytest.approx(0.458, abs=0.02)
    assert measured.null == pytest.approx(math.log10(3.0), abs=0.003)


def test_graded_matrix_needs_the_refined_values() -> None:
    matrix = torch.diag(10.0 ** (-torch.arange(64, dtype=torch.float64) / 8))
    left = torch.linalg.qr(gaussian(64, 64)).Q
    found = at(conditioning.run(weight(left @ matrix)))
    assert found["log10_condition", "w"].value == pytest.approx(7.875, abs=1e-6)
    assert found["log10_condition", "w"].evidence["relation"] == "="
    assert found["below_floor_share", "w"].value == 0.0


def test_lost_directions_are_counted_and_judged() -> None:
    metric = conditioning.manual.metric("below_floor_share")
    assert metric.warn is not None
    for dtype in (torch.float32, torch.bfloat16):
        product = (gaussian(64, 4) @ gaussian(4, 96, seed=1)).to(dtype)
        found = at(conditioning.run(weight(product)))
        share = found["below_floor_share", "w"]
        assert share.value == 60 / 64
        assert (share.evidence["below"], share.evidence["side"]) == (60, 64)
        assert metric.warn.is_crossed(share.value, share.null)
        condition = found["log10_condition", "w"]
        assert condition.evidence["relation"] == "≥"
        largest = np.linalg.norm(product.double().numpy(), 2)
        assert 10**condition.value == pytest.approx(largest / condition.evidence["floor"], rel=1e-6)
    assert not metric.warn.is_crossed(
        values(conditioning.run(weight(gaussian(64, 64).bfloat16())))["below_floor_share"], 0
    )


def test_zeros_have_no_condition() -> None:
    results = list(conditioning.run(weight(torch.zeros(9, 8))))
    assert values(results) == {"below_floor_share": 1.0}
    assert reasons(results) == ["log10_condition: all zero"]


def test_embeddings_are_not_asked_and_wide_matrices_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not conditioning.acceptance.is_accepted(Site("e", (64, 64), "F32", None, Role.EMBEDDING))
    assert conditioning.acceptance.is_accepted(Site("q", (64, 64), "F32", 0, Role.ATTENTION_Q))
    monkeypatch.setattr(spectrum, "MAX_EXACT_SIDE", 64)
    results = list(conditioning.run(weight(gaussian(80, 120))))
    assert values(results) == {}
    assert "no exact spectrum" in reasons(results)[0]
