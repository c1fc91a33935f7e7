"""Neighbours and balls against trees and dense differences."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist, pdist

from collapse_cli.kernels import set_distances
from collapse_cli.kernels.set_distances import (
    ball_hits,
    mean_pair_distance,
    mean_squared_pair_distance,
    nearest,
    squared_pairs,
    unit_scale,
)


def rows(count: int, width: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("tile", [7, 2048])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_nearest_of_another_set_is_what_a_tree_finds(monkeypatch: pytest.MonkeyPatch, tile: int, offset: float) -> None:
    monkeypatch.setattr(set_distances, "_TILE_ROWS", tile)
    queries, gallery = rows(60) + offset, rows(90, seed=1) + offset
    expected, places = cKDTree(gallery.numpy()).query(queries.numpy(), k=3)
    found = nearest(queries, gallery, count=3)
    np.testing.assert_allclose(found.distances, expected, rtol=1e-12)
    np.testing.assert_array_equal(found.indices, places)


@pytest.mark.parametrize("tile", [7, 2048])
@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e60])
def test_nearest_within_a_set_leaves_the_row_itself_out(
    monkeypatch: pytest.MonkeyPatch, tile: int, scale: float
) -> None:
    monkeypatch.setattr(set_distances, "_TILE_ROWS", tile)
    given = rows(50)
    expected, places = cKDTree(given.numpy()).query(given.numpy(), k=5)
    found = nearest(given * scale, count=4)
    np.testing.assert_allclose(found.distances / scale, expected[:, 1:], rtol=1e-12)
    np.testing.assert_array_equal(found.indices, places[:, 1:])


def test_some_rows_of_the_gallery_as_queries() -> None:
    gallery, asked = rows(40), torch.tensor([3, 17, 39])
    found = nearest(gallery[asked], gallery, count=2, own=asked)
    whole = nearest(gallery, count=2)
    assert torch.equal(found.indices, whole.indices[asked])


def test_a_copy_is_at_distance_zero_and_a_near_copy_at_its_distance() -> None:
    given = rows(30, 200)
    gallery = torch.cat((given.flip(0), given + 1e-9 * rows(30, 200, seed=2)))
    found = nearest(given, gallery, count=2)
    assert found.distances[:, 0].eq(0.0).all()
    np.testing.assert_array_equal(found.indices[:, 0], np.arange(30)[::-1])
    expected = (gallery[30:] - given).norm(dim=1)  # of the offset that float64 kept beside the rows
    np.testing.assert_allclose(found.distances[:, 1], expected, rtol=1e-12)


def test_more_neighbours_than_rows_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="3 neighbours of 2"):
        nearest(rows(3), count=3)


@pytest.mark.parametrize("tile", [7, 2048])
def test_ball_hits_are_those_of_all_distances(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    monkeypatch.setattr(set_distances, "_TILE_ROWS", tile)
    points, centres = rows(40), rows(60, seed=1)
    radii = torch.rand(60, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 3.0
    inside = cdist(points.numpy(), centres.numpy()) < radii.numpy()
    found = ball_hits(points, centres, radii)
    np.testing.assert_array_equal(found.balls, inside.sum(1))
    np.testing.assert_array_equal(found.is_held, inside.any(0))
    assert 0 < inside.sum() < inside.size


def test_a_point_on_the_sphere_is_outside_whatever_rounding_says() -> None:
    lattice = torch.cartesian_prod(*(torch.arange(6, dtype=torch.float64) for _ in range(3))) * 0.1
    radii = nearest(lattice, count=3).distances[:, -1]
    assert (nearest(lattice, count=3).distances[:, 0] < radii).any()  # equal but for rounding
    found = ball_hits(lattice, lattice, radii)
    assert found.balls.eq(1).all()  # only the own centre: three to six neighbours lie on each sphere
    assert not ball_hits(lattice, lattice, torch.zeros(len(lattice))).is_held.any()


def test_mean_pair_distance_is_the_mean_over_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(set_distances, "_TILE_ROWS", 7)
    given = rows(40)
    assert mean_pair_distance(given + 1e4) == pytest.approx(pdist(given.numpy()).mean(), rel=1e-9)
    squared = (pdist(given.numpy()) ** 2).mean()
    assert mean_squared_pair_distance(given * 1e60 + 1e64) == pytest.approx(1e120 * squared, rel=1e-9)
    constant = torch.full((9, 3), 0.1)
    assert mean_pair_distance(constant) == 0.0
    assert mean_squared_pair_distance(constant) < 1e-30


def test_unit_is_a_power_of_two_and_pairs_come_from_differences() -> None:
    assert unit_scale(torch.tensor([[3.0, -5.0]])) == 8.0
    assert unit_scale(torch.zeros(2, 2)) == unit_scale(torch.zeros(0, 2)) == 1.0
    left, right = torch.tensor([[1e200, 0.0]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    place = torch.tensor([0])
    assert float(squared_pairs(left, right, (place, place), unit=1e200)) == 1.0
