"""Streamed nearest training rows against all distances; split anywhere, merged, it is the whole."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from collapse_cli.kernels.accumulators import Batch, NearestTraining, Sample
from collapse_cli.kernels.needs import Feeding, need
from tests.kernels.merging import assert_is_the_whole


def rows(count: int, width: int = 4, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, width)))


def test_is_the_whole() -> None:
    samples, reference = rows(30), rows(80, seed=1)
    reference[[5, 60]] = samples[[7, 7]]
    assert_is_the_whole(lambda: NearestTraining(samples, torch.arange(30), with_cosines=True), {"reference": reference})


@pytest.mark.parametrize("offset", [0.0, 1e5])
def test_distances_and_cosines_are_the_extremes_over_all(offset: float) -> None:
    samples, reference = rows(30) + offset, rows(80, seed=1) + offset
    found = NearestTraining(samples, torch.arange(30), with_cosines=True)
    found.update(Batch({"reference": reference}))
    among = cdist(samples.numpy(), reference.numpy())
    np.testing.assert_allclose(found.distances, among.min(1), rtol=1e-12)
    np.testing.assert_array_equal(found.nearest, among.argmin(1))
    np.testing.assert_allclose(
        found.cosines, 1.0 - cdist(samples.numpy(), reference.numpy(), "cosine").min(1), rtol=1e-9
    )
    assert not found.is_copy.any()
    assert found.count == 80


def test_copies_are_found_beside_near_copies_and_across_dtypes() -> None:
    samples = rows(30).half()
    reference = torch.cat((samples.float() + 1e-7, samples[:3].float(), samples[:3].float()))
    found = NearestTraining(samples, torch.arange(30))
    for start in range(0, 36, 7):
        found.update(Batch({"reference": reference[start : start + 7]}, start=start))
    assert found.is_copy.nonzero().flatten().tolist() == [0, 1, 2]
    assert found.distances[:3].tolist() == [0.0] * 3
    assert found.nearest[:3].tolist() == [30, 31, 32]  # the first of two copies
    assert found.cosines.numel() == 0


def test_a_copy_is_nearest_where_products_cannot_tell_it_from_near_copies() -> None:
    samples = rows(30)
    reference = torch.cat((samples + 1e-12, samples - 1e-12, samples))
    found = NearestTraining(samples, torch.arange(30))
    found.update(Batch({"reference": reference}))
    assert found.is_copy.all()
    assert found.distances.eq(0.0).all()
    assert found.nearest.tolist() == list(range(60, 90))


def test_other_widths_and_rows_that_are_not_finite_stay_out() -> None:
    found = NearestTraining(rows(5), torch.arange(5))
    found.update(Batch({"reference": rows(9, 3)}))
    broken = rows(4)
    broken[0] = torch.nan
    found.update(Batch({"reference": broken}))
    assert (found.other_width, found.count) == (9, 3)
    assert 0 not in found.nearest.tolist()


def test_is_made_of_the_samples_that_are_finished_by_then() -> None:
    sample = Sample(rows=50)
    sample.update(Batch({"samples": rows(20)}))
    one = need("nearest_training")
    assert one.roles == ("reference",)
    found = one.make(Feeding(before={"sample(samples)": sample}))
    assert found.indices.tolist() == list(range(20))
    assert not found.with_cosines
    assert one.make(Feeding(metadata={"embedding": "SSCD"}, before={"sample(samples)": sample})).with_cosines
    nothing = one.make(Feeding())
    nothing.update(Batch({"reference": rows(9)}))
    assert (nothing.count, nothing.distances.numel()) == (9, 0)


def test_other_samples_do_not_merge() -> None:
    with pytest.raises(ValueError, match="different samples"):
        NearestTraining(rows(5), torch.arange(5)).merge(NearestTraining(rows(5, seed=1), torch.arange(5)))
