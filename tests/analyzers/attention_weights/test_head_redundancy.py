"""Redundancy of Gaussian, copied, grouped and silent heads."""

import math
from typing import Any

import pytest
import torch

from collapse_cli.analyzers.attention_weights.head_redundancy import head_redundancy
from collapse_cli.core.site import Role
from collapse_cli.kernels.views import Block
from tests.views import at, block, reasons

SITE = "model.layers.0"


def tensors(heads: int, kv_heads: int, *, width: int = 32, side: int = 256) -> dict[Role, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        Role.ATTENTION_Q: torch.randn(heads * width, side, generator=generator),
        Role.ATTENTION_K: torch.randn(kv_heads * width, side, generator=generator),
        Role.ATTENTION_V: torch.randn(kv_heads * width, side, generator=generator),
        Role.ATTENTION_O: torch.randn(side, heads * width, generator=generator),
    }


def measured(view: Block, part: str) -> dict[str, Any]:
    return {metric: one for (metric, site), one in at(head_redundancy.run(view)).items() if site == f"{SITE}#{part}"}


@pytest.mark.parametrize("part", ["qk", "ov"])
def test_gaussian_heads_differ(part: str) -> None:
    found = measured(block(tensors(16, 16), {"heads": 16}), part)
    # the mean of ∣z∣ over 120 pairs, z of spread 1/d
    assert found["head_similarity"].null == pytest.approx(math.sqrt(2 / math.pi) / 256)
    assert found["head_similarity"].value == pytest.approx(found["head_similarity"].null, rel=0.2)
    assert found["duplicate_head_share"].value == 0.0
    assert found["effective_heads"].value == pytest.approx(15.998, abs=2e-3)
    assert ("dead_head_share" in found) == (part == "ov")


@pytest.mark.parametrize("part", ["qk", "ov"])
def test_heads_that_share_keys_and_values_meet_the_larger_null(part: str) -> None:
    found = measured(block(tensors(16, 1), {"heads": 16}), part)
    assert found["head_similarity"].null == pytest.approx(math.sqrt(2 / math.pi) / math.sqrt(32 * 256))
    assert found["head_similarity"].value == pytest.approx(found["head_similarity"].null, rel=0.25)


@pytest.mark.parametrize("part", ["qk", "ov"])
def test_copies_count_once(part: str) -> None:
    weights = tensors(16, 16)
    for role in (Role.ATTENTION_Q, Role.ATTENTION_K, Role.ATTENTION_V):
        weights[role] = weights[role][:32].repeat(16, 1)
    weights[Role.ATTENTION_O] = weights[Role.ATTENTION_O][:, :32].repeat(1, 16)
    found = measured(block(weights, {"heads": 16}), part)
    assert found["head_similarity"].value == pytest.approx(1.0, abs=1e-12)
    assert found["duplicate_head_share"].value == 1.0
    assert found["effective_heads"].value == pytest.approx(1.0, abs=1e-9)


def test_another_basis_inside_a_head_is_the_same_head() -> None:
    weights = tensors(4, 4)
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn(32, 32, generator=generator, dtype=torch.float64)
    query, key = weights[Role.ATTENTION_Q].double(), weights[Role.ATTENTION_K].double()
    query[32:64], key[32:64] = mixing @ query[:32], torch.linalg.inv(mixing).T @ key[:32]
    found = measured(block({**weights, Role.ATTENTION_Q: query, Role.ATTENTION_K: key}, {"heads": 4}), "qk")
    assert found["duplicate_head_share"].value == 0.5
    assert found["head_similarity"].evidence["largest"] == pytest.approx(1.0, abs=1e-9)


def test_silent_heads_are_dead_and_left_out_of_the_comparison() -> None:
    weights = tensors(8, 8)
    weights[Role.ATTENTION_O][:, :32] = 0.0
    weights[Role.ATTENTION_V][32:64] *= 1e-5
    found = measured(block(weights, {"heads": 8}), "ov")
    assert found["dead_head_share"].value == pytest.approx(0.25)
    assert found["dead_head_share"].evidence["which"] == [0, 1]
    assert found["effective_heads"].evidence["heads"] == 7


def test_an_output_of_zeros_is_dead_altogether() -> None:
    weights = tensors(4, 4)
    weights[Role.ATTENTION_O].zero_()
    results = list(head_redundancy.run(block(weights, {"heads": 4})))
    assert at(results)["dead_head_share", f"{SITE}#ov"].value == 1.0
    assert any("0 heads that are not zero" in reason for reason in reasons(results))


def test_what_it_cannot_compare_is_skipped() -> None:
    weights = tensors(4, 4)
    assert reasons(head_redundancy.run(block(weights))) == [
        "number of heads unknown: no config.json beside the file gives it"
    ]
    assert reasons(head_redundancy.run(block(weights, {"heads": 1}))) == ["one head"]
    assert reasons(head_redundancy.run(block(weights, {"heads": 4, "skip": "two of one role"}))) == ["two of one role"]
    del weights[Role.ATTENTION_V]
    assert "value or output weight" in reasons(head_redundancy.run(block(weights, {"heads": 4})))[0]
