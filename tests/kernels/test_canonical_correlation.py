import math

import numpy as np
import pytest
import torch

from collapse_cli.kernels.accumulators import Batch, CrossMoments, Moments
from collapse_cli.kernels.canonical_correlation import CanonicalCorrelations, canonical_correlations


def correlations(left: np.ndarray, right: np.ndarray) -> CanonicalCorrelations | None:
    accumulators = Moments("a"), Moments("b"), CrossMoments("a", "b")
    for accumulator in accumulators:
        accumulator.update(Batch({"a": torch.tensor(left), "b": torch.tensor(right)}))
    return canonical_correlations(*accumulators)


def test_one_feature_each_is_the_correlation_of_pearson() -> None:
    rng = np.random.default_rng(0)
    left = rng.standard_normal((200, 1)) + 100
    right = left + rng.standard_normal((200, 1))
    found = correlations(left, right)
    assert found is not None
    assert float(found.values[0]) == pytest.approx(np.corrcoef(left[:, 0], right[:, 0])[0, 1], rel=1e-9)


def test_a_linear_function_of_the_other_side_has_all_correlations_1() -> None:
    rng = np.random.default_rng(1)
    left = rng.standard_normal((300, 6)) * np.logspace(0, -3, 6)
    found = correlations(left, left @ rng.standard_normal((6, 9)) + 4.0)
    assert found is not None
    assert (found.left_rank, found.right_rank, found.shared_rank) == (6, 6, 6)
    assert found.mean_square == pytest.approx(1.0, abs=1e-7)


def test_unrelated_rows_stand_at_the_published_nulls() -> None:
    rng = np.random.default_rng(2)
    found = correlations(rng.standard_normal((1000, 128)), rng.standard_normal((1000, 64)))
    assert found is not None
    assert found.mean_square == pytest.approx(found.mean_square_null, rel=0.05)
    assert found.mean_square_null == pytest.approx(0.128, abs=1e-3)
    assert float(found.values[0]) == pytest.approx(found.largest_null, rel=0.05)
    assert found.largest_null == pytest.approx(math.sqrt(0.128 * 0.936) + math.sqrt(0.064 * 0.872), rel=1e-12)


def test_a_constant_side_has_none() -> None:
    assert correlations(np.zeros((50, 3)), np.random.default_rng(0).standard_normal((50, 3))) is None


def test_too_many_features_leave_no_room_for_chance() -> None:
    found = CanonicalCorrelations(torch.ones(5, dtype=torch.float64), 60, 60, 100)
    assert found.largest_null == 1.0
    assert found.shared_rank == 0
