"""Analysis of variance, mutual information and entropies by scipy and by hand."""

import math

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy, f_oneway

from collapse_cli.kernels.accumulators import Batch, ClassMoments
from collapse_cli.kernels.conditional_spread import (
    answer_entropy,
    direction_spread,
    view_information,
    within_groups,
)


def draws(count: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width))


def moments(rows: np.ndarray, groups: np.ndarray) -> ClassMoments:
    found = ClassMoments("samples", "groups")
    for start in range(0, len(rows), 37):
        part = slice(start, start + 37)
        roles = {"samples": torch.from_numpy(rows[part]), "groups": torch.from_numpy(groups[part])}
        found.update(Batch(roles, start=start))
    return found


def test_one_feature_is_the_analysis_of_variance() -> None:
    groups = np.random.default_rng(1).integers(0, 9, 120)
    rows = draws(120, 1) + 0.3 * groups[:, None] + 50.0
    found = within_groups(moments(rows, groups))
    parts = [rows[groups == group, 0] for group in range(9)]
    within = sum(((part - part.mean()) ** 2).sum() for part in parts)
    assert found.within == pytest.approx(within, rel=1e-10)
    assert found.total == pytest.approx(((rows - rows.mean()) ** 2).sum(), rel=1e-10)
    between = (found.total - found.within) / 8
    assert between / (found.within / 111) == pytest.approx(f_oneway(*parts).statistic, rel=1e-9)
    assert found.share == pytest.approx((within / 111) / np.var(rows, ddof=1), rel=1e-10)
    np.testing.assert_allclose(found.variances, [np.var(part, ddof=1) for part in parts], rtol=1e-9)


def test_random_groups_give_one_and_small_groups_stay_out() -> None:
    groups = np.random.default_rng(2).integers(0, 50, 1000)
    groups[:3] = 77
    found = within_groups(moments(draws(1000, 16), groups))
    assert found.groups == 50
    assert found.rows == 997
    assert found.share == pytest.approx(1.0, abs=0.03)
    assert within_groups(moments(draws(3, 2), np.zeros(3, dtype=int))).rows == 0


def test_equal_outputs_per_group_have_no_variance_whatever_the_offset() -> None:
    groups = np.arange(30).repeat(4)
    found = within_groups(moments((draws(30, 8) * 1e3 + 1e5).repeat(4, 0), groups))
    assert found.share < 1e-12
    assert (found.variances / found.total_variance).max() < 1e-12
    assert within_groups(moments(np.full((120, 8), 0.1), groups)).share < 1e-12


def test_view_information_is_the_mutual_information_of_class_and_view() -> None:
    logits, groups = draws(60, 5) * 3.0, np.random.default_rng(1).integers(0, 6, 60)
    logits[7, 2] = -np.inf
    p = softmax(logits, axis=1)
    gains = [
        entropy(p[groups == group].mean(0)) - entropy(p[groups == group], axis=1).mean()
        for group in range(6)
        if (groups == group).sum() >= 4
    ]
    found = view_information(torch.from_numpy(logits), torch.from_numpy(groups))
    assert found is not None
    assert found.value == pytest.approx(np.mean(gains), rel=1e-10)
    used = np.isin(groups, [g for g in range(6) if (groups == g).sum() >= 4])
    assert found.quality == pytest.approx(entropy(p[used], axis=1).mean(), rel=1e-10)
    assert found.variety == pytest.approx(entropy(p[used].mean(0)), rel=1e-10)
    assert (found.groups, found.rows) == (len(gains), used.sum())


def test_eight_views_of_one_class_and_of_four() -> None:
    same = torch.full((8, 10), -200.0)
    same[:, 3] = 200.0
    four = torch.full((8, 10), -200.0)
    four[torch.arange(8), torch.arange(8) // 2] = 200.0
    groups = torch.zeros(8, dtype=torch.int64)
    assert view_information(same, groups).value == pytest.approx(0.0, abs=1e-12)
    assert view_information(four, groups).value == pytest.approx(math.log(4.0), rel=1e-12)
    assert view_information(same[:3], groups[:3]) is None
    assert view_information(torch.full((8, 2), -torch.inf), groups) is None
    assert view_information(same, torch.full((8,), -1)) is None


def test_answers() -> None:
    counts = torch.tensor([[4, 0, 0, 0], [1, 1, 1, 1], [2, 2, 0, 0], [1, 1, 0, 0]])
    value, groups = answer_entropy(counts)
    assert groups == 3  # two answers are too few
    assert value == pytest.approx((0.0 + 1.0 + math.log(2) / math.log(4)) / 3)
    assert answer_entropy(counts[3:]) is None


def test_directions() -> None:
    left, right = torch.from_numpy(draws(5000, 3)), torch.from_numpy(draws(5000, 3, 1))
    units = (left - right).numpy()
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    assert direction_spread(left, right) == pytest.approx(1.0 - (units.mean(0) ** 2).sum(), rel=1e-12)
    assert direction_spread(left + 1.0, left) == pytest.approx(0.0, abs=1e-9)
    assert direction_spread(left, left) is None
