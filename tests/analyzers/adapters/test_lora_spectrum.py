"""Spectrum of adapters: Gaussian factors, one direction, nothing at all, scales, kinds."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.adapters.lora_spectrum import LORA_EFFECTIVE_RANK, lora_spectrum
from collapse_cli.core.site import Role
from collapse_cli.kernels.views import Block
from tests.views import at, block, reasons, values

SITE = "model.layers.0"


def _gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _adapter(first: torch.Tensor, second: torch.Tensor, **facts: Any) -> Block:
    return block({Role.ADAPTER_A: first, Role.ADAPTER_B: second}, facts)


def test_gaussian_factors_meet_their_nulls() -> None:
    results = at(lora_spectrum.run(_adapter(_gaussian(16, 1024), _gaussian(1024, 16, seed=1), lora_scale=2.0)))
    for metric, expected in (
        ("lora_effective_rank", 15.7),
        ("lora_participation_ratio", 15.52),
        ("lora_stable_rank", 11.9),
    ):
        measurement = results[metric, SITE]
        assert measurement.null == pytest.approx(expected, rel=0.01)
        assert measurement.value == pytest.approx(expected, rel=0.07)
    assert results["used_rank_share", SITE].value == 1.0
    assert results["dead_adapter", SITE].value == 0.0


def test_everything_is_that_of_the_dense_update() -> None:
    first, second = _gaussian(6, 30), _gaussian(20, 6, seed=1)
    found = values(lora_spectrum.run(_adapter(first, second, lora_scale=0.5)))
    update = 0.5 * second.double().numpy() @ first.double().numpy()
    energies = np.linalg.svd(update, compute_uv=False)[:6] ** 2
    shares = energies / energies.sum()
    assert found["update_norm"] == pytest.approx(np.linalg.norm(update), rel=1e-9)
    assert found["lora_effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)
    assert found["lora_participation_ratio"] == pytest.approx(1 / (shares**2).sum(), rel=1e-9)
    assert found["lora_stable_rank"] == pytest.approx(1 / shares.max(), rel=1e-9)
    assert found["factor_imbalance"] == pytest.approx(
        math.log(np.linalg.norm(second.numpy()) / np.linalg.norm(first.numpy())), rel=1e-6
    )


def test_does_not_depend_on_how_the_update_is_factored() -> None:
    first, second = _gaussian(6, 30).double(), _gaussian(20, 6, seed=1).double()
    mixing = _gaussian(6, 6, seed=2).double()
    before = values(lora_spectrum.run(_adapter(first, second)))
    after = values(lora_spectrum.run(_adapter(torch.linalg.solve(mixing, first), second @ mixing)))
    before.pop("factor_imbalance")
    after.pop("factor_imbalance")
    assert after == pytest.approx(before, rel=1e-9)


def test_equal_columns_are_one_direction() -> None:
    results = at(lora_spectrum.run(_adapter(_gaussian(16, 64), _gaussian(48, 1, seed=1).repeat(1, 16))))
    for metric in ("lora_effective_rank", "lora_participation_ratio", "lora_stable_rank"):
        assert results[metric, SITE].value == pytest.approx(1.0, abs=1e-9)
    assert results["used_rank_share", SITE].value == 1 / 16
    rank = results["lora_effective_rank", SITE]
    message = LORA_EFFECTIVE_RANK.message.format(value=rank.value, null=rank.null, bound=1.5, **rank.evidence)
    assert message.startswith("The update of rank 16 acts in 1 directions")


def test_directions_that_bf16_rounding_made_are_not_used() -> None:
    first, second = _gaussian(16, 64), _gaussian(48, 2, seed=1) @ _gaussian(2, 16, seed=2)
    rounded = second.bfloat16()
    # rounding gives the second factor full rank
    assert int(torch.linalg.matrix_rank(rounded.double(), rtol=1e-3)) > 2
    assert values(lora_spectrum.run(_adapter(first, rounded)))["used_rank_share"] == 2 / 16


def test_a_fresh_adapter_is_dead_and_has_no_rank() -> None:
    results = list(lora_spectrum.run(_adapter(_gaussian(8, 64), torch.zeros(48, 8))))
    dead = at(results)["dead_adapter", SITE]
    assert (dead.value, dead.evidence["because"]) == (1.0, "B is zero")
    assert values(results)["update_norm"] == 0.0
    assert "lora_effective_rank" not in values(results)
    assert any("the update is zero" in reason for reason in reasons(results))


@pytest.mark.parametrize(
    ("stored", "facts", "scale", "source"),
    [
        (4.0, {"lora_scale": 2.0}, 4.0, "stored with the adapter"),
        (None, {"lora_scale": 2.0}, 2.0, "configuration"),
        (None, {}, 1.0, "scale unknown"),
    ],
    ids=["stored α", "configuration", "neither"],
)
def test_scale(stored: float | None, facts: dict[str, float], scale: float, source: str) -> None:
    members = {Role.ADAPTER_A: _gaussian(4, 8), Role.ADAPTER_B: _gaussian(8, 4, seed=1)}
    if stored is not None:
        members[Role.ADAPTER_SCALE] = torch.tensor(stored)
    norm = at(lora_spectrum.run(block(members, facts)))["update_norm", SITE]
    assert norm.evidence["scale_from"] == source
    update = members[Role.ADAPTER_B] @ members[Role.ADAPTER_A]
    assert norm.value == pytest.approx(scale * float(update.norm()), rel=1e-5)


def test_update_ratio_needs_the_base() -> None:
    first, second, base = _gaussian(4, 8), _gaussian(8, 4, seed=1), _gaussian(8, 8, seed=2)
    without = list(lora_spectrum.run(_adapter(first, second)))
    assert "update_ratio: base weight not given" in reasons(without)
    members = {Role.ADAPTER_A: first, Role.ADAPTER_B: second, Role.LINEAR: base}
    ratio = values(lora_spectrum.run(block(members, {"lora_scale": 3.0})))["update_ratio"]
    assert ratio == pytest.approx(3.0 * float((second @ first).norm() / base.norm()), rel=1e-5)


def test_convolutions_are_folded() -> None:
    first, second = _gaussian(4, 6, 3, 3), _gaussian(8, 4, 1, 1, seed=1)
    folded = values(lora_spectrum.run(_adapter(first.reshape(4, -1), second.reshape(8, 4))))
    assert values(lora_spectrum.run(_adapter(first, second))) == folded


@pytest.mark.parametrize(
    ("first", "second", "facts", "reason"),
    [
        (_gaussian(4, 8), _gaussian(8, 4), {"kind": "loha"}, "loha adapter"),
        (_gaussian(4, 8), _gaussian(8, 5), {}, "do not multiply"),
        (_gaussian(4, 8), _gaussian(8, 4), {"skip": "companion tensor missing"}, "companion tensor missing"),
        (torch.zeros(0, 8), torch.zeros(8, 0), {}, "do not multiply"),
    ],
    ids=["another kind", "shapes", "what the plan says", "empty"],
)
def test_does_not_apply(first: torch.Tensor, second: torch.Tensor, facts: dict[str, str], reason: str) -> None:
    results = list(lora_spectrum.run(_adapter(first, second, **facts)))
    assert not values(results)
    assert [reason in said for said in reasons(results)] == [True]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_ranks_below_four_are_measured_in_size_only(rank: int) -> None:
    results = list(lora_spectrum.run(_adapter(_gaussian(rank, 8), _gaussian(8, rank, seed=1))))
    assert "lora_effective_rank" not in values(results)
    assert values(results)["update_norm"] > 0.0
    assert any(f"rank {rank} < 4" in reason for reason in reasons(results))
