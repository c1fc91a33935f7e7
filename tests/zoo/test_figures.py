"""The figures of the page against scikit-learn, scipy and closed forms."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from zoo.accuracy import Share
from zoo.calibration import _area, _chosen, _separating


@pytest.mark.parametrize(("hits", "count"), [(0, 45), (45, 45), (40, 45), (1, 3)])
def test_wilson_interval(hits: int, count: int) -> None:
    low, high = Share(hits, count).interval
    scipys = binomtest(hits, count).proportion_ci(0.95, method="wilson")
    # 1.96 for the quantile 1.959964
    assert (low, high) == pytest.approx((scipys.low, scipys.high), abs=1e-5)


def test_area_is_that_of_scikit_learn_with_ties() -> None:
    random = np.random.default_rng(0)
    healthy, collapsed = random.integers(0, 8, 60).astype(float), random.integers(3, 12, 25).astype(float)
    truth = np.r_[np.zeros(60), np.ones(25)]
    for side, sign in (("above", 1), ("below", -1)):
        expected = roc_auc_score(truth, sign * np.r_[healthy, collapsed])
        assert _area(healthy, collapsed, side) == pytest.approx(expected, rel=1e-3)


def test_the_limit_lies_in_the_middle_of_the_gap() -> None:
    assert _separating(np.array([1.0, 2.0, 3.0]), np.array([7.0, 9.0])) == 5.0
    # one healthy model among the collapsed is given up, three collapsed ones among the healthy are not
    assert _separating(np.array([0.0, 1, 2, 3, 4, 8.5]), np.array([8.0, 9, 10])) == 6.0


def test_the_limit_of_a_lower_bound_and_its_interval() -> None:
    random = np.random.default_rng(1)
    healthy, collapsed = random.normal(10, 1, 300), random.normal(2, 1, 200)
    chosen, low, high = _chosen(healthy, collapsed, "below", random)
    assert low <= chosen <= high
    assert collapsed.max() < chosen < healthy.min()


def test_without_models_of_both_groups_there_is_no_limit() -> None:
    assert _chosen(np.ones(3), np.empty(0), "above", np.random.default_rng(0)) == (None, None, None)
    assert _area(np.empty(0), np.ones(3), "above") is None
