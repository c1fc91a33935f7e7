"""Weights of a router: Gaussian, cloned, dead, biased, of one direction."""

import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.experts.router_weights import router_weights
from collapse_cli.core.site import Role
from tests.views import at, block, reasons, values

SITE = "model.layers.0"


def _gaussian(experts: int, width: int, seed: int = 0) -> torch.Tensor:
    return 0.02 * torch.randn(experts, width, generator=torch.Generator().manual_seed(seed))


def test_a_gaussian_router_meets_its_nulls() -> None:
    results = at(router_weights.run(block({Role.ROUTER: _gaussian(64, 1024)})))
    spread, rank = results["router_norm_cv", SITE], results["router_effective_rank", SITE]
    assert spread.null == pytest.approx(1 / math.sqrt(2048))
    assert spread.value == pytest.approx(spread.null, rel=0.25)
    assert rank.null == pytest.approx(62.03, abs=0.01)
    assert rank.value == pytest.approx(rank.null, rel=0.002)
    cosine = results["router_max_cosine", SITE]
    assert cosine.value == pytest.approx(cosine.null, rel=0.25)
    assert results["dead_router_share", SITE].value == results["duplicate_router_share", SITE].value == 0.0
    assert 0.05 < results["init_likeness", SITE].value <= 1.0


def test_norms_cosines_and_rank_are_those_of_numpy() -> None:
    router = _gaussian(6, 20, seed=3) * torch.tensor([1.0, 2, 3, 4, 5, 6])[:, None]
    found = values(router_weights.run(block({Role.ROUTER: router})))
    matrix = router.double().numpy()
    norms = np.linalg.norm(matrix, axis=1)
    assert found["router_norm_cv"] == pytest.approx(norms.std() / norms.mean(), rel=1e-9)
    cosines = (matrix @ matrix.T) / np.outer(norms, norms) - 2 * np.eye(6)
    assert found["router_max_cosine"] == pytest.approx(cosines.max(), rel=1e-9)
    shares = np.linalg.svd(matrix, compute_uv=False) ** 2 / (matrix**2).sum()
    assert found["router_effective_rank"] == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)


def test_equal_rows_are_duplicates_of_one_direction() -> None:
    results = at(router_weights.run(block({Role.ROUTER: _gaussian(1, 128).repeat(8, 1)})))
    assert results["router_max_cosine", SITE].value == pytest.approx(1.0, abs=1e-12)
    assert results["duplicate_router_share", SITE].value == 1.0
    assert results["router_effective_rank", SITE].value == pytest.approx(1.0, abs=1e-6)
    assert results["router_effective_rank", SITE].evidence["common_energy"] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("leftover", [0.0, 1e-6], ids=["zero", "decayed"])
def test_seven_dead_rows_of_eight(leftover: float) -> None:
    router = _gaussian(8, 128)
    router[torch.arange(8) != 2] *= leftover
    dead = at(router_weights.run(block({Role.ROUTER: router})))["dead_router_share", SITE]
    assert dead.value == 7 / 8
    assert dead.evidence["indices"] == [0, 1, 3, 4, 5, 6, 7]


def test_one_pair_of_duplicates() -> None:
    router = _gaussian(8, 128)
    router[5] = 2 * router[1]
    share = at(router_weights.run(block({Role.ROUTER: router})))["duplicate_router_share", SITE]
    assert share.value == 2 / 8
    assert sorted(share.evidence["closest"]) == [1, 5]


def test_bias_spread_is_the_range() -> None:
    biased = block({Role.ROUTER: _gaussian(4, 32), Role.ROUTER_BIAS: torch.tensor([0.5, -0.25, 0.0, 1.0])})
    results = list(router_weights.run(biased))
    assert at(results)["bias_spread", SITE].value == 1.25
    assert not any("bias_spread" in reason for reason in reasons(results))


@pytest.mark.parametrize(
    "router",
    [_gaussian(8, 64) * torch.arange(1, 9)[:, None], _gaussian(8, 64) + 0.1],
    ids=["uneven norms", "a common direction"],
)
def test_a_router_that_is_not_gaussian_by_norms_or_cosines_gets_no_likeness(router: torch.Tensor) -> None:
    results = list(router_weights.run(block({Role.ROUTER: router})))
    assert "init_likeness" not in values(results)
    assert any(reason.startswith("init_likeness") for reason in reasons(results))


def test_uniform_entries_are_no_gaussian_ones() -> None:
    router = torch.rand(16, 256, generator=torch.Generator().manual_seed(1)) - 0.5
    assert values(router_weights.run(block({Role.ROUTER: router})))["init_likeness"] < 1e-6


def test_rows_that_are_crowded_by_their_shape_are_not_called_duplicates() -> None:
    results = list(router_weights.run(block({Role.ROUTER: _gaussian(64, 4)})))
    assert "duplicate_router_share" not in values(results)
    assert any("chance brings two of 64 rows of 4 numbers" in reason for reason in reasons(results))


@pytest.mark.parametrize(("experts", "reason"), [(3, "3 experts < 4"), (0, "0 experts < 4")])
def test_too_few_experts(experts: int, reason: str) -> None:
    assert reasons(router_weights.run(block({Role.ROUTER: torch.ones(experts, 16)}))) == [reason]


def test_a_router_of_zeros_is_dead() -> None:
    found = values(router_weights.run(block({Role.ROUTER: torch.zeros(8, 64)})))
    assert found["dead_router_share"] == 1.0
    assert found["router_effective_rank"] == 0.0
    assert "router_norm_cv" not in found
