"""Similarity of experts: permuted clones, independent experts, closed forms."""

import math

import pytest
import torch

from collapse_cli.analyzers.experts.expert_similarity import CLONE_SHARE, EFFECTIVE_EXPERTS, expert_similarity
from collapse_cli.core.site import Role
from collapse_cli.kernels import assignment
from collapse_cli.kernels.views import Block
from tests.views import at, block, reasons, values

SITE = "model.layers.0"


def _expert(seed: int, hidden: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The input and the output weight of one Gaussian expert, 2·width numbers per hidden unit."""
    both = torch.randn(hidden, 2 * width, generator=torch.Generator().manual_seed(seed))
    return both[:, :width], both[:, width:].T


def _permuted(expert: tuple[torch.Tensor, torch.Tensor], seed: int, noise: float = 0.0) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(expert[0].shape[0], generator=generator)
    moved = expert[0][order], expert[1][:, order]
    return tuple(part + noise * torch.randn(part.shape, generator=generator) for part in moved)


def _mixture(experts: list[tuple[torch.Tensor, ...]]) -> Block:
    inputs, outputs = zip(*experts, strict=True)
    return block({Role.EXPERT_IN: inputs, Role.EXPERT_OUT: outputs}, name=SITE)


def test_a_permuted_clone_with_five_percent_of_noise() -> None:
    one = _expert(0, 64, 48)
    found = values(expert_similarity.run(_mixture([one, _permuted(one, 1, noise=0.05)])))
    assert found["aligned_cosine"] == pytest.approx(1 / math.sqrt(1 + 0.05**2), abs=1e-4)
    assert abs(found["expert_cosine"]) < 0.05
    assert found["clone_share"] == 1.0


def test_independent_experts_are_at_chance() -> None:
    results = at(expert_similarity.run(_mixture([_expert(seed, 64, 48) for seed in range(8)])))
    aligned = results["aligned_cosine", SITE]
    assert aligned.null == pytest.approx(0.220, abs=0.002)
    assert aligned.value == pytest.approx(aligned.null, rel=0.02)
    assert results["clone_share", SITE].value == 0.0
    assert results["expert_cosine", SITE].value == pytest.approx(0.0, abs=0.01)
    effective = results["effective_experts", SITE]
    top, rest = (1 + 7 * aligned.null) / 8, (1 - aligned.null) / 8
    assert effective.null == pytest.approx(math.exp(-top * math.log(top) - 7 * rest * math.log(rest)), rel=1e-9)
    assert effective.value == pytest.approx(effective.null, rel=0.02)
    assert results["expert_norm_cv", SITE].value < 0.05


def test_null_of_the_number_of_experts_at_the_cosine_of_a_large_shape() -> None:
    """Eight experts whose units match at 0.104 by chance count as 7.75."""
    big = _mixture([_expert(seed, 512, 384) for seed in range(8)])
    measurement = at(expert_similarity.run(big))["effective_experts", SITE]
    assert measurement.null == pytest.approx(7.75, abs=0.01)


def test_two_clones_among_six() -> None:
    experts = [_expert(seed, 24, 16) for seed in range(5)]
    results = at(expert_similarity.run(_mixture([*experts, _permuted(experts[2], 9)])))
    share = results["clone_share", SITE]
    assert share.value == pytest.approx(2 / 6)
    assert (share.evidence["indices"], share.evidence["first"]) == ([2, 5], [2, 5])


def test_norms_of_experts_and_a_dead_one() -> None:
    one = _expert(0, 24, 16)
    scaled = [tuple(scale * part for part in _permuted(one, seed)) for seed, scale in enumerate((1.0, 3.0, 0.0, 4.0))]
    found = values(expert_similarity.run(_mixture(scaled)))
    # 1, 3, 0, 4: mean 2, standard deviation √(10/4)
    assert found["expert_norm_cv"] == pytest.approx(math.sqrt(2.5) / 2, rel=1e-6)
    # a zero expert is like none, the three others are copies whatever their scale
    assert found["aligned_cosine"] == pytest.approx(0.5, abs=1e-6)
    assert found["clone_share"] == pytest.approx(3 / 4)


def test_large_mixtures_are_sampled_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    one = _expert(0, 16, 8)
    mixture = _mixture([_permuted(one, seed) for seed in range(12)])
    monkeypatch.setattr(assignment, "_BUDGET", 1e5)
    results = list(expert_similarity.run(mixture))
    share = at(results)["clone_share", SITE]
    assert share.value == 1.0
    assert share.evidence["queried"] == 4
    assert reasons(results) == ["effective_experts: 38 of 66 pairs compared"]
    assert CLONE_SHARE.message.format(value=share.value, null=share.null, bound=0.5, **share.evidence).startswith(
        "4 of"
    )


@pytest.mark.parametrize(
    ("facts", "reason"),
    [({"skip": "fused layout unknown"}, "fused layout unknown"), ({}, "1 expert < 2")],
    ids=["what the plan says", "a single expert"],
)
def test_does_not_apply(facts: dict[str, str], reason: str) -> None:
    first, second = _expert(0, 8, 8)
    single = block({Role.EXPERT_IN: first, Role.EXPERT_OUT: second}, facts)
    assert reasons(expert_similarity.run(single)) == [reason]


def test_all_zero_experts_have_answers() -> None:
    results = list(expert_similarity.run(_mixture([(torch.zeros(8, 4), torch.zeros(4, 8))] * 4)))
    found = values(results)
    assert (found["aligned_cosine"], found["clone_share"], found["effective_experts"]) == (0.0, 0.0, pytest.approx(4.0))
    assert len(reasons(results)) == 2


def test_limits_lie_between_trained_and_copied() -> None:
    """The stated reasons of the limits: eight experts at a mean matched cosine of 0.85 stand at a quarter of chance."""
    matrix = torch.full((8, 8), 0.85, dtype=torch.float64).fill_diagonal_(1.0)
    assert EFFECTIVE_EXPERTS.warn is not None
    assert EFFECTIVE_EXPERTS.warn.bound * 7.75 == pytest.approx(assignment.distinct_count(matrix), rel=0.03)
