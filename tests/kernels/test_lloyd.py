"""Lloyd's iterations against scikit-learn's from the same centres."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans

from collapse_cli.kernels.lloyd import assigned, k_means, lloyd, spread_centres


def blobs(count: int = 400, width: int = 3, modes: int = 6, seed: int = 0) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    middles = 8.0 * generator.standard_normal((modes, width))
    return torch.from_numpy(middles[generator.integers(0, modes, count)] + generator.standard_normal((count, width)))


@pytest.mark.parametrize("seed", range(4))
def test_is_scikit_learns_from_the_same_centres(seed: int) -> None:
    rows = blobs(seed=seed)
    start = spread_centres(rows, 9, seed=seed)
    model = KMeans(9, init=start.numpy(), n_init=1, max_iter=100, tol=0.0, algorithm="lloyd").fit(rows.numpy())
    centres = lloyd(rows, start)
    np.testing.assert_allclose(centres, model.cluster_centers_, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(assigned(rows, centres), model.labels_)


def test_finds_separated_blobs_far_from_the_origin() -> None:
    rows = torch.eye(5, dtype=torch.float64).repeat_interleave(40, 0) * 100.0 + 1e6
    rows = rows + torch.from_numpy(np.random.default_rng(0).standard_normal((200, 5)))
    centres = k_means(rows, 5)
    np.testing.assert_array_equal(
        np.sort(np.bincount(assigned(rows, centres).numpy())), np.full(5, 40), err_msg="one centre per blob"
    )


def test_nearest_centre_is_that_of_all_distances() -> None:
    rows, centres = blobs(), blobs(20, seed=5)
    np.testing.assert_array_equal(assigned(rows, centres), cdist(rows.numpy(), centres.numpy()).argmin(1))


def test_first_centres_are_rows_that_differ() -> None:
    rows = torch.tensor([[0.0], [0.0], [5.0], [5.0], [9.0]], dtype=torch.float64)
    assert sorted(spread_centres(rows, 5, seed=1).flatten().tolist()) == [0.0, 5.0, 9.0]
    assert k_means(rows, 5).shape == (3, 1)
    assert k_means(torch.ones(7, 2), 3).shape == (1, 2)


def test_first_centres_are_drawn_by_squared_distance() -> None:
    # from 0, the row at 3 has weight 9 and the row at 1 weight 1: seeds that begin at 0 go to 3 in nine of ten
    rows = torch.tensor([[0.0], [1.0], [3.0]], dtype=torch.float64)
    drawn = [spread_centres(rows, 2, seed=seed).flatten().tolist() for seed in range(600)]
    second = [two[1] for two in drawn if two[0] == 0.0]
    assert len(second) > 150
    assert np.mean([one == 3.0 for one in second]) == pytest.approx(0.9, abs=0.07)  # three standard errors


def test_a_centre_without_rows_stays_and_is_then_dropped() -> None:
    rows = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    centres = lloyd(rows, torch.tensor([[0.0], [1.0], [50.0]], dtype=torch.float64))
    assert centres.flatten().tolist() == [0.0, 1.0, 50.0]
