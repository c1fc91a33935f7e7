"""Cosines, distances and merging against numpy in float64 and scipy."""

import math

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist, squareform
from scipy.stats import beta

from collapse_cli.kernels import neighbours


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosines_of(rows: torch.Tensor) -> np.ndarray:
    exact = rows.double().numpy()
    exact = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    return exact @ exact.T


@pytest.mark.parametrize("shape", [(2, 3), (128, 256), (2500, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_extremes_match_the_float64_gram(shape, dtype):
    # 2500 rows need more than one block
    rows = gaussian(*shape).to(dtype)
    cosines = cosines_of(rows)
    np.fill_diagonal(cosines, -2)
    found = neighbours.cosine_extremes(rows)
    assert found.is_exhaustive
    np.testing.assert_allclose(found.nearest.numpy(), cosines.max(1), atol=1e-6)
    assert found.maximum == pytest.approx(cosines.max(), abs=1e-12)
    first, second = found.closest
    assert cosines[first, second] == pytest.approx(cosines.max(), abs=1e-12)
    np.fill_diagonal(cosines, 2)
    np.testing.assert_allclose(found.opposite.numpy(), cosines.min(1), atol=1e-6)
    assert found.minimum == pytest.approx(cosines.min(), abs=1e-12)


def test_scales_of_rows_do_not_matter():
    rows = gaussian(64, 32).double()
    scaled = rows * torch.logspace(-150, 150, 64, dtype=torch.float64)[:, None]
    expected, found = neighbours.cosine_extremes(rows), neighbours.cosine_extremes(scaled)
    torch.testing.assert_close(found.nearest, expected.nearest, atol=1e-12, rtol=0)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("angle", [1e-9, -1e-9])
def test_the_side_of_a_threshold_is_exact(sign, angle):
    """Pairs at acos(±.999) off by 1e-9 rad, that is by 4e-11 in the cosine, which float32 cannot see; 200 rows."""
    first = torch.eye(200, dtype=torch.float64)[::2]
    turn = math.acos(0.999) + angle
    second = sign * (math.cos(turn) * first + math.sin(turn) * torch.eye(200, dtype=torch.float64)[1::2])
    # one pair beyond all of them, so that their common value is not the extreme one
    beyond = torch.eye(200, dtype=torch.float64)[:1] + torch.eye(200, dtype=torch.float64)[3:4]
    found = neighbours.cosine_extremes(torch.cat((first, second, beyond, sign * beyond)))
    reached = found.nearest >= 0.999 if sign > 0 else found.opposite <= -0.999
    assert int(reached.sum()) == 2 + (0 if angle > 0 else 200)


def test_zero_rows_have_cosine_zero_and_small_inputs_have_answers():
    rows = torch.cat((torch.zeros(2, 5), torch.ones(2, 5)))
    found = neighbours.cosine_extremes(rows)
    np.testing.assert_allclose(found.nearest.numpy(), [0, 0, 1, 1], atol=1e-12)
    for shape in [(0, 4), (1, 4), (3, 0)]:
        empty = neighbours.cosine_extremes(torch.ones(*shape))
        assert (empty.maximum, empty.minimum, empty.nearest.numel()) == (0.0, 0.0, shape[0])


def test_hashing_finds_every_planted_copy_and_mirror_image(monkeypatch):
    monkeypatch.setattr(neighbours, "EXHAUSTIVE_ROWS", 1000)
    rows = gaussian(3000, 32)
    rows[2000:2600] = rows[:600] + 0.02 * gaussian(600, 32, seed=1)
    rows[2600:2900] = -3.0 * rows[1000:1300]
    cosines = cosines_of(rows)
    np.fill_diagonal(cosines, 0)
    found = neighbours.cosine_extremes(rows)
    assert not found.is_exhaustive
    np.testing.assert_array_equal(found.nearest.numpy() >= 0.999, cosines.max(1) >= 0.999)
    np.testing.assert_array_equal(found.opposite.numpy() <= -0.999, cosines.min(1) <= -0.999)
    assert found.maximum == pytest.approx(cosines.max(), abs=1e-12)
    assert (found.nearest.numpy() <= cosines.max(1) + 1e-12).all()


def test_hashing_copes_with_one_bucket(monkeypatch):
    monkeypatch.setattr(neighbours, "EXHAUSTIVE_ROWS", 100)
    found = neighbours.cosine_extremes(torch.ones(500, 8))
    assert bool((found.nearest >= 0.999).all())


@pytest.mark.parametrize(("count", "dimension", "expected"), [(512, 1024, 0.135), (128, 256, 0.227)])
def test_null_of_the_largest_cosine(count, dimension, expected):
    shape = (dimension - 1) / 2
    quantile = 2 * beta.isf(2 / (count * (count - 1)), shape, shape) - 1
    assert neighbours.largest_cosine_null(count, dimension) == pytest.approx(quantile, rel=1e-9)
    assert neighbours.largest_cosine_null(count, dimension) == pytest.approx(expected, abs=5e-4)  # published table


def test_null_of_the_largest_cosine_is_met_by_random_rows():
    # the catalogue's three draws of 512 directions in 1024 dimensions: .126 to .157
    found = [neighbours.cosine_extremes(gaussian(512, 1024, seed=seed)).maximum for seed in range(3)]
    assert all(0.12 < value < 0.16 for value in found)


def test_null_of_the_largest_cosine_at_the_edges():
    values = [
        neighbours.largest_cosine_null(*sides) for sides in [(0, 5), (1, 5), (2, 5), (5, 1), (10**6, 2), (5, 10**5)]
    ]
    assert values[:4] == [0.0, 0.0, 0.0, 1.0]
    assert all(0.0 <= value <= 1.0 for value in values)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_nearest_and_median_distances_match_scipy(offset):
    rows = gaussian(300, 7).double() + offset
    rows[200:220] = rows[:20] + 1e-6 * gaussian(20, 7, seed=1)
    exact = squareform(pdist(rows.numpy()))
    assert neighbours.median_pair_distance(rows) == pytest.approx(np.median(pdist(rows.numpy())), rel=1e-4)
    np.fill_diagonal(exact, np.inf)
    np.testing.assert_allclose(neighbours.nearest_distances(rows).numpy(), exact.min(1), rtol=1e-6)


def test_nearest_partner_is_right_among_many_close_ones():
    """Distances of 1e-5 beside norms of 1: the float32 Gram cannot order them."""
    rows = gaussian(1, 16).double() + 1e-5 * gaussian(400, 16, seed=1).double()
    rows = torch.cat((rows, 10 * gaussian(400, 16, seed=2).double()))
    exact = squareform(pdist(rows.numpy()))
    np.fill_diagonal(exact, np.inf)
    np.testing.assert_allclose(neighbours.nearest_distances(rows).numpy(), exact.min(1), rtol=1e-6)


def test_distances_of_degenerate_rows():
    assert neighbours.nearest_distances(torch.ones(1, 3)).numel() == 0
    assert neighbours.median_pair_distance(torch.ones(1, 3)) == 0.0
    assert neighbours.nearest_distances(torch.ones(20, 3)).abs().max() == 0.0
    assert neighbours.median_pair_distance(torch.zeros(20, 3)) == 0.0


def test_median_of_many_rows_is_near_the_exact_one():
    rows = gaussian(3000, 8)
    exact = np.median(pdist(rows.double().numpy()))
    assert neighbours.median_pair_distance(rows) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize(("sides", "expected"), [((1024, 8), 0.351), ((1024, 64), 0.760), ((4096, 256), 0.864)])
def test_neighbour_ratio_null(sides, expected):
    assert neighbours.neighbour_ratio_null(*sides) == pytest.approx(expected, rel=0.02)


def centroid_merges(rows: torch.Tensor, limit: float) -> int:
    """scipy's centroid linkage replaces the closest two points by their weighted mean, which is the rule."""
    over = np.nonzero(linkage(rows.double().numpy(), "centroid")[:, 2] > limit)[0]
    return int(over[0]) if over.size else rows.shape[0] - 1


CLOUDS = {
    "gaussian": lambda: gaussian(200, 64),
    "copies": lambda: torch.cat((gaussian(64, 64), gaussian(64, 64) + 0.05 * gaussian(64, 64, seed=1))),
    "clusters": lambda: gaussian(9, 32)[torch.arange(300) % 9] + 0.02 * gaussian(300, 32, seed=1),
    "spread norms": lambda: gaussian(300, 32) * torch.exp(gaussian(300, 1, seed=1)),
    "plane": lambda: gaussian(300, 2) @ gaussian(2, 30, seed=1),
    "equal": lambda: torch.ones(100, 8),
    "mostly equal": lambda: torch.cat((gaussian(1, 16).expand(90, 16), 1e-2 * gaussian(10, 16, seed=1))),
}


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize("part", [0.25, 0.5, 0.9])
def test_merging_matches_centroid_linkage(cloud, part):
    rows = CLOUDS[cloud]()
    limit = part * neighbours.median_pair_distance(rows)
    nearest = neighbours.cosine_extremes(rows).nearest
    assert neighbours.mergeable_count(rows, nearest, limit=limit) == centroid_merges(rows, limit)


def test_median_distance_among_near_copies_beside_a_giant():
    """Distances of 1e-6 of the largest, which a float32 Gram cannot see."""
    rows = torch.cat((1e-6 * gaussian(60, 8).double(), torch.ones(1, 8, dtype=torch.float64)))
    expected = np.sort(pdist(rows.numpy()))[(pdist(rows.numpy()).size - 1) // 2]
    assert neighbours.median_pair_distance(rows) == pytest.approx(expected, rel=1e-6)
