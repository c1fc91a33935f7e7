import numpy as np
import pytest
import torch
from scipy.stats import skew
from sklearn.neighbors import NearestNeighbors

from collapse_cli.kernels import nearest_rows as module
from collapse_cli.kernels.accumulators import Batch, Sample
from collapse_cli.kernels.nearest_rows import (
    label_matches,
    nearest_rows,
    occurrences,
    shared_neighbours,
    skewness,
    thinned,
    uniform_rows,
)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize(("by", "metric"), [("cosine", "cosine"), ("distance", "euclidean")])
def test_lists_are_those_of_scikit_learn_in_tiles_of_any_size(
    monkeypatch: pytest.MonkeyPatch, by: str, metric: str
) -> None:
    rows, gallery = gaussian(70, 5) + 2, gaussian(90, 5, seed=1) + 2
    within = NearestNeighbors(n_neighbors=4, metric=metric).fit(rows).kneighbors(return_distance=False)
    across = NearestNeighbors(n_neighbors=4, metric=metric).fit(gallery).kneighbors(rows, return_distance=False)
    for entries in (1 << 22, 500, 1):
        monkeypatch.setattr(module, "_TILE_ENTRIES", entries)
        assert nearest_rows(rows, count=4, by=by).tolist() == within.tolist()  # type: ignore[arg-type]
        assert nearest_rows(rows, gallery, count=4, by=by).tolist() == across.tolist()  # type: ignore[arg-type]


def test_an_offset_costs_distances_no_digits() -> None:
    rows = gaussian(60, 3)
    assert torch.equal(
        nearest_rows(rows + 1e7, count=3, by="distance"), nearest_rows((rows + 1e7) - 1e7, count=3, by="distance")
    )


def test_among_equal_rows_the_order_of_writing_decides_nothing() -> None:
    # all rows equal and sorted by label: chance, not the neighbours in the file
    labels = torch.arange(4).repeat_interleave(50)
    purity = float(label_matches(nearest_rows(torch.ones(200, 3), count=10), labels).mean())
    assert purity == pytest.approx(49 / 199, abs=0.15)


def test_a_row_is_never_in_its_own_list() -> None:
    found = nearest_rows(torch.ones(30, 2), count=29)
    assert all(row not in found[row] for row in range(30))
    assert all(len(set(near.tolist())) == 29 for near in found)


def test_what_lists_say_in_hand_counted_cases() -> None:
    left, right = torch.tensor([[1, 2], [0, 2], [0, 1]]), torch.tensor([[2, 1], [2, 3], [3, 4]])
    assert shared_neighbours(left, right) == pytest.approx((2 + 1 + 0) / 6)
    assert label_matches(left, torch.tensor([7, 7, 8])).tolist() == [0.5, 0.5, 0.0]
    assert occurrences(left, 5).tolist() == [2, 2, 2, 0, 0]


def test_skewness_is_the_biased_one_of_scipy() -> None:
    values = gaussian(40).exp()
    assert skewness(values) == pytest.approx(skew(values.numpy()), rel=1e-12)
    assert skewness(torch.full((9,), 3)) == 0.0


def test_uniform_rows_leave_out_those_added_for_rare_classes() -> None:
    sample = Sample(seed=0, rows=50)
    labels = torch.cat((torch.zeros(195, dtype=torch.int64), torch.ones(5, dtype=torch.int64)))
    sample.update(Batch({"features": torch.arange(200.0)[:, None], "labels": labels}))
    assert sample.rows("features").shape[0] > 50
    assert uniform_rows(sample, "features").shape == (50, 1)
    few = uniform_rows(sample, "features", 10)
    assert few.shape == (10, 1)
    assert bool((few[1:] > few[:-1]).all())
    assert torch.equal(uniform_rows(sample, "labels", 10), (few[:, 0] >= 195).long())


def test_thinning_leaves_out_no_class_of_those_that_take_turns() -> None:
    labels = torch.arange(4000) % 4
    counts = torch.bincount(labels[thinned(4000, 1000)], minlength=4)
    # binomial about 250 with a standard deviation of 13.7, less for drawing without replacement
    assert int((counts - 250).abs().max()) < 60
    assert thinned(5, 9).tolist() == [0, 1, 2, 3, 4]
