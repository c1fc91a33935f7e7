"""Attention logits of Gaussian, enlarged, flattened and normalised heads."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.attention_weights.qk_spectrum import qk_spectrum
from collapse_cli.core.site import Role
from collapse_cli.kernels.views import Block
from tests.views import at, block, reasons

SITE = "model.layers.0"


def layer(query: torch.Tensor | None = None, **extra: Any) -> Block:
    """Two Gaussian heads of 64 in 512 dimensions, entries of variance 1/d."""
    generator = torch.Generator().manual_seed(0)
    first, key = torch.randn(2, 128, 512, generator=generator) / math.sqrt(512)
    weights = {Role.ATTENTION_Q: first if query is None else query, Role.ATTENTION_K: key, **extra.pop("weights", {})}
    return block(weights, {"heads": 2, **extra})


def head(view: Block, index: int = 1) -> dict[str, float]:
    results = at(qk_spectrum.run(view))
    return {metric: one.value for (metric, site), one in results.items() if site == f"{SITE}#head={index}"}


def test_gaussian_heads_are_healthy() -> None:
    found = head(layer())
    assert found["qk_spectral_norm"] == pytest.approx(0.188, rel=0.05)
    assert found["qk_logit_std"] == pytest.approx(1.0, rel=0.03)
    assert found["isotropic_entropy"] == pytest.approx(0.928, abs=5e-3)
    assert found["qk_localisation"] == pytest.approx(0.936, abs=3e-3)
    assert found["qk_stable_rank"] == pytest.approx(28.2, rel=0.1)
    assert found["qk_logit_bound"] == pytest.approx(512 * found["qk_spectral_norm"])
    results = at(qk_spectrum.run(layer()))
    for metric in ("qk_spectral_norm", "qk_logit_std", "qk_localisation", "qk_stable_rank"):
        one = results[metric, f"{SITE}#head=0"]
        assert one.value == pytest.approx(one.null, rel=0.1), metric


def test_values_are_those_of_the_dense_logit_matrix() -> None:
    view = layer()
    query, key = (view.weights[role][0].matrix.double().numpy()[64:] for role in (Role.ATTENTION_Q, Role.ATTENTION_K))
    dense = query.T @ key / 8.0
    singular = np.linalg.svd(dense, compute_uv=False)
    found = head(view)
    assert found["qk_spectral_norm"] == pytest.approx(singular[0], rel=1e-12)
    assert found["qk_logit_std"] == pytest.approx(np.linalg.norm(dense), rel=1e-12)
    assert found["qk_localisation"] == pytest.approx(singular.sum() ** 2 / (64 * (dense**2).sum()), rel=1e-10)
    assert found["qk_stable_rank"] == pytest.approx((dense**2).sum() / singular[0] ** 2, rel=1e-12)


def test_eightfold_query_freezes_the_softmax() -> None:
    query = layer().weights[Role.ATTENTION_Q][0].tensor
    found = head(layer(8.0 * query))
    assert found["qk_logit_std"] == pytest.approx(8.0, rel=0.03)
    assert found["isotropic_entropy"] == pytest.approx(0.129, abs=8e-3)
    assert found["aligned_entropy"] < found["isotropic_entropy"]


def test_equal_query_rows_leave_one_direction() -> None:
    query = layer().weights[Role.ATTENTION_Q][0].tensor
    found = head(layer(query[:1].repeat(128, 1)))
    assert found["qk_localisation"] == pytest.approx(1 / 64, rel=1e-6)
    assert found["qk_stable_rank"] == pytest.approx(1.0, rel=1e-9)


def test_zero_head_is_uniform_and_has_no_shape() -> None:
    results = list(qk_spectrum.run(layer(torch.zeros(128, 512))))
    measured = at(results)
    assert measured["isotropic_entropy", f"{SITE}#head=0"].value == 1.0
    assert measured["entropy_floor", f"{SITE}#head=0"].value == pytest.approx(1.0)
    assert reasons(results) == 2 * ["qk_localisation, qk_stable_rank: the logit matrix is zero"]


def test_query_and_key_norms_leave_only_the_bound() -> None:
    gains = (torch.full((64,), 2.0), torch.full((64,), 3.0))
    results = list(qk_spectrum.run(layer(weights={Role.ATTENTION_QK_NORM: gains}, qk_norm=True)))
    assert {key: one.value for key, one in at(results).items()} == {("qk_logit_bound", SITE): pytest.approx(48.0)}
    assert reasons(results)[0].startswith("scale cancelled by qk-norm")
    assert not at(qk_spectrum.run(layer(qk_norm=True)))


def test_unknown_heads_and_stated_skips_are_passed_on() -> None:
    assert reasons(qk_spectrum.run(layer(heads=None))) == [
        "number of heads unknown: no config.json beside the file gives it"
    ]
    assert reasons(qk_spectrum.run(layer(skip="fused layout unknown"))) == ["fused layout unknown"]
