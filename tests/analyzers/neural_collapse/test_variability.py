"""Within-class variability against its definitions over all rows, and closed forms on the simplex."""

import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.neural_collapse.variability import variability
from collapse_cli.kernels import class_geometry, class_pairs, neural_collapse
from collapse_cli.kernels.accumulators import Batch, ClassMoments
from tests.neural_collapse import CASES, as_numpy, cdnv, found, measured, nc1, rows_of


@pytest.mark.parametrize("window", [0, 37])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_dense_definitions(case: str, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows_of(case)
    got = found(measured(variability, monkeypatch, window=window, features=x, labels=y))
    kept = as_numpy(x, y, rows=5)
    wanted = nc1(*kept)
    assert got["nc1"].value == pytest.approx(wanted[0], rel=1e-8)
    assert got["nc1_quotient"].value == pytest.approx(wanted[1], rel=1e-9)
    assert got["cdnv"].value == pytest.approx(np.nanmean(cdnv(*kept)), rel=1e-9)
    assert got["cdnv_legacy"].value == pytest.approx(np.nanmean(cdnv(*kept, 2)), rel=1e-9)
    assert got["cdnv_max"].value == pytest.approx(np.nanmax(cdnv(*kept)), rel=1e-9)
    i, j = got["cdnv_max"].evidence["closest_pair"]
    assert cdnv(*kept)[i, j] == np.nanmax(cdnv(*kept))
    assert got["nc1"].evidence["classes_left_out"] == len(np.unique(y)) - len(np.unique(kept[1]))


def test_kernels_equal_the_definitions_with_classes_of_one_row() -> None:
    x, y = rows_of("classes_of_one_row")
    moments = ClassMoments()
    for start in range(0, len(y), 50):
        moments.update(Batch({"features": x[start : start + 50], "labels": y[start : start + 50]}, start=start))
    everything, dense = neural_collapse.classes_of(moments, rows=1), as_numpy(x, y)
    assert everything.count == 8
    ratio = class_geometry.within_class_variability(everything.means, moments.within_scatter / moments.count)
    assert ratio == pytest.approx(nc1(*dense)[0], rel=1e-8)


def spread_simplex(along: torch.Tensor, delta: float = 0.1) -> dict[str, torch.Tensor]:
    """Four simplex vertices of length 1, half of the rows at +δ and half at −δ along a unit vector."""
    means = torch.nn.functional.pad(torch.eye(4, dtype=torch.float64) - 0.25, (0, 4))
    means /= means[0].norm()
    labels = torch.arange(160) % 4
    sign = torch.where(torch.arange(160) % 8 < 4, 1.0, -1.0).double()[:, None]
    return {"features": means[labels] + delta * sign * along, "labels": labels}


def test_closed_forms_of_the_simplex() -> None:
    along = torch.zeros(8, dtype=torch.float64)
    along[:4] = torch.tensor([0.5, 0.5, -0.5, -0.5], dtype=torch.float64)
    inside = found(measured(variability, **spread_simplex(along)))
    # (K−1)δ²/(Kρ²), δ²/ρ², δ²/(2ρ²K/(K−1)), the same over another 8/3
    wanted = {"nc1": 0.0075, "nc1_quotient": 0.01, "cdnv": 0.00375, "cdnv_legacy": 0.00140625, "cdnv_max": 0.00375}
    assert {name: inside[name].value for name in wanted} == pytest.approx(wanted, rel=1e-10)
    along = torch.zeros(8, dtype=torch.float64)
    along[6] = 1.0
    outside = found(measured(variability, **spread_simplex(along)))
    assert outside["nc1"].value == pytest.approx(0.0, abs=1e-14)
    assert outside["nc1_quotient"].value == pytest.approx(0.01, rel=1e-10)
    assert outside["merged_pairs"].value == 0


def test_two_means_that_nearly_meet() -> None:
    means = torch.eye(4, 8, dtype=torch.float64)
    gap = (means[2] - means[3]) / math.sqrt(2)
    means[3] = means[2] + 1e-4 * gap
    labels = torch.arange(160) % 4
    sign = torch.where(torch.arange(160) % 8 < 4, 1.0, -1.0).double()[:, None]
    got = found(measured(variability, features=means[labels] + 0.1 * sign * gap, labels=labels))
    # (.01 + .01)/(2·1e-8)
    assert got["cdnv_max"].value == pytest.approx(1e6, rel=1e-6)
    assert got["nc1"].value == pytest.approx(2e6, rel=0.01)
    assert got["cdnv_max"].evidence["closest_pair"] == [2, 3]
    assert got["merged_pairs"].value == 1
    assert got["merged_pairs"].evidence["first_pair"] == [2, 3]
    assert got["merged_classes"].value == 0.5


@pytest.mark.parametrize("sizes", [[20] * 10, [10, 40, 100, 400], [12] * 60])
def test_random_labels_meet_the_nulls(sizes: list[int]) -> None:
    width, values = 24, []
    generator = torch.Generator().manual_seed(len(sizes))
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    for _ in range(48):
        x = torch.randn(len(labels), width, generator=generator, dtype=torch.float64)
        values.append(found(measured(variability, features=x, labels=labels)))
    for metric in ("nc1", "nc1_quotient", "cdnv"):
        mean = sum(one[metric].value for one in values) / 48
        assert mean == pytest.approx(values[0][metric].null, rel=0.1), metric
    # a maximum fluctuates
    largest = sum(one["cdnv_max"].value for one in values) / 48
    assert largest == pytest.approx(values[0]["cdnv_max"].null, rel=0.5)
    if "merged_pairs" in values[0]:
        shares = [one["merged_pairs"].value / one["merged_pairs"].evidence["mergeable"] for one in values]
        # three standard errors leave 1.6 % beyond (a chi-square is skewed)
        assert sum(shares) / 48 > 0.95


def test_no_null_where_no_mean_exists() -> None:
    for many in (8, 9, 10):
        assert neural_collapse.nc1_null(torch.full((many,), 20), 8) is None
    assert neural_collapse.ratio_null(torch.full((3,), 20), 1.5) is None
    assert neural_collapse.largest_ratio_null(torch.full((3,), 20), 0.1) is None


def test_degenerate_dumps_are_skipped_or_merged() -> None:
    labels = torch.arange(90) % 3
    one = measured(variability, features=torch.randn(90, 4), labels=torch.zeros(90, dtype=torch.int64))
    assert [skip.reason for skip in one.skips] == ["1 classes with 5 rows < 2"]
    # 0.1 is no binary fraction, so a mean of it rounds
    equal = measured(variability, features=torch.full((90, 4), 0.1, dtype=torch.float64), labels=labels)
    assert found(equal)["merged_pairs"].value == 3
    assert found(equal)["merged_classes"].value == 1
    assert set(found(equal)) == {"merged_pairs", "merged_classes"}
    points = measured(variability, features=torch.eye(3)[labels], labels=labels)
    got = {name: one.value for name, one in found(points).items()}
    assert got == pytest.approx(dict.fromkeys(got, 0.0), abs=1e-15)
    few = measured(variability, features=torch.randn(36, 4), labels=torch.arange(36) % 3)
    assert "merged_pairs, merged_classes: fewer than 2 classes with 20 rows" in [skip.reason for skip in few.skips]


def test_pairs_of_very_many_classes_are_drawn_and_the_nearest_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows_of("balanced")
    whole = found(measured(variability, features=x, labels=y))
    monkeypatch.setattr(class_pairs, "_ALL_PAIRS", 3)
    monkeypatch.setattr(class_pairs, "_DRAWN_PAIRS", 4096)
    drawn = found(measured(variability, features=x, labels=y))
    assert drawn["cdnv"].value == pytest.approx(whole["cdnv"].value, rel=0.05)
    assert drawn["cdnv"].evidence["exact"] is False
    assert drawn["cdnv_max"].value == pytest.approx(whole["cdnv_max"].value, rel=1e-9)


def test_merged_pairs_and_close_means_are_those_of_the_definition() -> None:
    generator = np.random.default_rng(7)
    y = np.repeat(np.arange(8), 25)
    x = 0.55 * generator.normal(size=(8, 10))[y] + generator.normal(size=(200, 10))
    got = found(measured(variability, features=torch.tensor(x), labels=torch.tensor(y)))["merged_pairs"]
    scatters = [np.cov(x[y == k].T, ddof=0) for k in range(8)]
    pooled = sum(scatters) / 8
    slack = 3 * np.sqrt(2 * (pooled**2).sum()) / np.trace(pooled)
    means, noise = [x[y == k].mean(0) for k in range(8)], [np.trace(scatter) / 24 for scatter in scatters]
    scores = [((means[i] - means[j]) ** 2).sum() / (noise[i] + noise[j]) - 1 for i in range(8) for j in range(i + 1, 8)]
    assert 0 < got.value < 28
    assert got.value == sum(score < slack for score in scores)
    # a Gram of means 1e-6 apart has four digits left
    close = torch.tensor([[1.0, 0.3], [1.0 + 1e-6, 0.3], [-2.0, 5.0]], dtype=torch.float64)
    labels = torch.arange(60) % 3
    sign = torch.where(torch.arange(60) % 6 < 3, 0.5, -0.5).double()[:, None]
    pair = found(measured(variability, features=close[labels] + sign, labels=labels))["cdnv_max"]
    assert pair.value == pytest.approx(0.5 / 1e-12, rel=1e-8)
