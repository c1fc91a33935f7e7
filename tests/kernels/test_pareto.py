"""Fronts and volumes against all pairs and against inclusion–exclusion."""

import itertools

import numpy as np
import pytest
import torch

from collapse_cli.kernels import pareto
from collapse_cli.kernels.pareto import front, hypervolume


def points(count: int, sides: int) -> torch.Tensor:
    return torch.rand(count, sides, generator=torch.Generator().manual_seed(sides), dtype=torch.float64)


def union_of_boxes(corners: np.ndarray) -> float:
    """Inclusion–exclusion over all subsets of boxes from 0."""
    total = 0.0
    for size in range(1, len(corners) + 1):
        for chosen in itertools.combinations(corners, size):
            total += (-1) ** (size + 1) * np.prod(np.min(chosen, axis=0))
    return float(total)


@pytest.mark.parametrize("sides", [1, 2, 3])
def test_volume_is_exact_up_to_three_objectives(sides: int) -> None:
    given = points(9, sides)
    found = hypervolume(given + 2.0, torch.full((sides,), 2.0))
    assert found.is_exact
    assert found.value == pytest.approx(union_of_boxes(given.numpy()), rel=1e-12)


def test_volume_of_four_objectives_is_sampled() -> None:
    given = points(9, 4)
    found = hypervolume(given, torch.zeros(4))
    assert not found.is_exact
    assert found.value == pytest.approx(union_of_boxes(given.numpy()), rel=0.02)  # four standard errors of 65,536 draws


def test_a_large_front_of_three_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    given = points(200, 3)
    exact = hypervolume(given, torch.zeros(3))
    monkeypatch.setattr(pareto, "_EXACT_FRONT", 3)
    sampled = hypervolume(given, torch.zeros(3))
    assert exact.is_exact > sampled.is_exact
    assert sampled.value == pytest.approx(exact.value, rel=0.01)


@pytest.mark.parametrize("sides", [1, 2, 3, 4])
def test_front_is_what_no_other_point_dominates(monkeypatch: pytest.MonkeyPatch, sides: int) -> None:
    monkeypatch.setattr(pareto, "_TILE", 16)
    given = torch.cat((points(120, sides), points(40, sides)))  # some twice
    expected = {
        tuple(one.tolist())
        for one in given
        if not any(bool((other >= one).all() and (other > one).any()) for other in given)
    }
    found = [tuple(one) for one in front(given).tolist()]
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_nothing_above_the_reference_point_is_nothing() -> None:
    assert hypervolume(-points(5, 3), torch.zeros(3)).value == 0.0
    assert hypervolume(torch.tensor([[1.0, 0.0]]), torch.zeros(2)).value == 0.0
    assert hypervolume(torch.zeros(0, 2), torch.zeros(2)).front == 0
