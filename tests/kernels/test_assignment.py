"""Matched cosines of experts: against brute force, against draws, and within a budget."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from collapse_cli.core.site import Role
from collapse_cli.kernels import assignment
from collapse_cli.kernels.views import Block
from tests.views import block


def _units(count: int, features: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, features, generator=generator), dim=1)


def _experts(count: int, hidden: int, width: int, *, clones: int = 0, gated: bool = False) -> Block:
    """`count` Gaussian experts, the first `clones` of them permutations of one."""
    generator = torch.Generator().manual_seed(5)
    roles = (Role.EXPERT_IN, Role.EXPERT_GATE, Role.EXPERT_OUT) if gated else (Role.EXPERT_IN, Role.EXPERT_OUT)
    stacks = {role: torch.randn(count, hidden, width, generator=generator) for role in roles}
    for stack in stacks.values():
        stack[:clones] = stack[0].clone()
    for clone in range(1, clones):
        order = torch.randperm(hidden, generator=generator)
        for stack in stacks.values():
            stack[clone] = stack[clone][order]
    members = {
        role: tuple(one.T.contiguous() if role is Role.EXPERT_OUT else one for one in stack)
        for role, stack in stacks.items()
    }
    return block(members)


def test_matched_cosine_is_the_best_of_all_permutations() -> None:
    left, right = _units(6, 4, 1), _units(6, 4, 2)
    cosines = (left.double() @ right.double().T).numpy()
    best = max(cosines[range(6), list(order)].mean() for order in itertools.permutations(range(6)))
    assert assignment.matched_cosine(left, right) == pytest.approx(best, abs=1e-7)
    # the first choices collide, so that this is not the mean of the row maxima
    assert best < cosines.max(1).mean() - 1e-3


@pytest.mark.parametrize(("hidden", "features"), [(48, 96), (64, 96), (129, 60), (256, 384), (256, 2048), (512, 768)])
def test_null_is_that_of_fresh_draws_to_one_percent(hidden: int, features: int) -> None:
    generator = np.random.default_rng(17)
    found = []
    for _ in range(max(3, 4096 // hidden)):
        first, second = generator.standard_normal((2, hidden, features))
        first /= np.linalg.norm(first, axis=1, keepdims=True)
        second /= np.linalg.norm(second, axis=1, keepdims=True)
        cosines = first @ second.T
        found.append(cosines[linear_sum_assignment(cosines, maximize=True)].mean())
    assert assignment.aligned_cosine_null(hidden, features) == pytest.approx(np.mean(found), rel=0.01)


@pytest.mark.parametrize("gated", [False, True])
def test_permuted_clones_align_to_one_and_others_to_chance(gated: bool) -> None:
    found = assignment.alignment(_experts(5, 32, 24, clones=2, gated=gated))
    features = 72 if gated else 48
    assert float(found.cosines[0, 1]) == pytest.approx(1.0, abs=1e-6)
    assert float(found.cosines[2:, :2].mean()) == pytest.approx(assignment.aligned_cosine_null(32, features), rel=0.05)
    assert (found.assigned, found.bounded, found.units) == (10, 0, 32)
    assert found.pairs.numel() == 10


def test_mean_cosine_is_that_of_all_pairs() -> None:
    experts = _experts(4, 8, 5, gated=True)
    flat = torch.stack(
        [torch.cat([experts.all(role)[e].tensor.reshape(-1).double() for role in experts.weights]) for e in range(4)]
    )
    flat[1] += 0.5 * flat[0]
    for role, start in ((Role.EXPERT_IN, 0), (Role.EXPERT_GATE, 40), (Role.EXPERT_OUT, 80)):
        experts.all(role)[1].tensor.copy_(flat[1, start : start + 40].view_as(experts.all(role)[1].tensor))
    expected = np.mean([np.corrcoef(np.stack([a, b]))[0, 1] for a, b in itertools.combinations(flat.numpy(), 2)])
    cosines = [float(torch.cosine_similarity(a, b, dim=0)) for a, b in itertools.combinations(flat, 2)]
    assert expected == pytest.approx(np.mean(cosines), abs=0.05)
    assert assignment.mean_cosine(experts) == pytest.approx(np.mean(cosines), abs=1e-6)


def test_a_small_budget_samples_units_bounds_the_rest_and_still_finds_the_clones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experts = _experts(6, 64, 24, clones=2)
    exact = assignment.alignment(experts)
    monkeypatch.setattr(assignment, "_BUDGET", 3e6)
    found = assignment.alignment(experts)
    assert found.units == 13  # 3e6 / (2·6²·64·48)
    assert found.queried == tuple(range(6))
    assert (found.assigned, found.bounded) == (1, 14)
    assert float(found.cosines[0, 1]) == pytest.approx(1.0, abs=1e-6)
    # row maxima bound the assignment; 13 of 64 units leave an error of a few percent
    ratio = (found.pairs / exact.pairs)[1:]
    assert float(ratio.min()) > 0.97
    assert float(ratio.mean()) == pytest.approx(1.08, abs=0.05)


def test_a_smaller_budget_samples_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    experts = _experts(12, 16, 8, clones=12)
    monkeypatch.setattr(assignment, "_BUDGET", 1e5)
    found = assignment.alignment(experts)
    assert (found.units, len(found.queried)) == (4, 4)  # 1e5 / (2·12·4·16·16)
    assert found.pairs.numel() == 4 * 8 + 6
    assert found.assigned + found.bounded == found.pairs.numel()
    assert float(found.pairs.min()) > 0.999


def test_distinct_count_of_copies_of_groups() -> None:
    groups = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2), torch.ones(4, 4)).double()
    entropy = 2 * 0.25 * math.log(4) + 0.5 * math.log(2)
    assert assignment.distinct_count(groups) == pytest.approx(math.exp(entropy), rel=1e-9)


def test_distinct_count_of_cosines_that_no_vectors_have() -> None:
    """0 is like 1, 1 is like 2, but 0 is unlike 2: eigenvalues 1 + √2, 1 and 1 − √2, of which the last counts as 0."""
    chain = torch.tensor([[1.0, 1, 0], [1, 1, 1], [0, 1, 1]], dtype=torch.float64)
    shares = [(1 + math.sqrt(2)) / (2 + math.sqrt(2)), 1 / (2 + math.sqrt(2))]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert assignment.distinct_count(chain) == pytest.approx(expected, rel=1e-9)


def test_what_cannot_be_compared_is_said() -> None:
    one = torch.ones(4, 3)
    assert assignment.experts_of(block({Role.EXPERT_IN: one, Role.EXPERT_OUT: one.T})) == "1 expert < 2"
    odd = block({Role.EXPERT_IN: (one, torch.ones(5, 3)), Role.EXPERT_OUT: (one.T, torch.ones(3, 5))})
    assert assignment.experts_of(odd) == "experts of different shapes"
    missing = block({Role.EXPERT_IN: (one, one), Role.EXPERT_OUT: one.T})
    assert "different weights" in str(assignment.experts_of(missing))
    unrelated = block({Role.EXPERT_IN: (one, one), Role.EXPERT_OUT: (one, one)})
    assert "hidden units" in str(assignment.experts_of(unrelated))
