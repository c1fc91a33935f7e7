"""The accumulators of logits: any split is the whole, and each number against scipy and numpy in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from torch import Tensor

from collapse_cli.kernels import prediction_counts
from collapse_cli.kernels.accumulators import Attempts, Batch, LogitRows, SoftmaxAbsorption
from collapse_cli.kernels.calibration import BINS, CalibrationBins, calibration_error
from collapse_cli.kernels.quantiles import QuantileSketch
from collapse_cli.kernels.softmax_rows import softmax_rows
from tests.kernels.merging import assert_is_the_whole, readings

ROWS, CLASSES = 97, 7


def drawn(*, scale: float = 3.0, seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(ROWS, CLASSES, generator=g)
    logits[3, 2:] = -torch.inf  # five masked classes
    logits[4, 1:] = -torch.inf  # too few left
    logits[5, 0] = torch.nan
    logits[6, 0] = torch.inf
    logits[7] = 0.0
    labels = torch.randint(0, CLASSES, (ROWS,), generator=g)
    labels[:3] = torch.tensor([-1, -100, CLASSES])
    groups = torch.randint(0, 3, (ROWS,), generator=g)
    return {"logits": logits, "labels": labels, "groups": groups, "features": torch.randn(ROWS, 4, generator=g)}


def read(accumulator: Any) -> dict[str, Any]:
    """All numbers, those of the parts as well."""
    found = readings(accumulator)
    for name in ("spread", "margin", "headroom"):
        sketch = getattr(accumulator, name, None)
        if isinstance(sketch, QuantileSketch):
            found |= {f"{name} count": sketch.count, f"{name} median": sketch.quantile(0.5)}
    for name in ("bins", "classes"):
        if hasattr(accumulator, name):
            found |= {f"{name} {key}": value for key, value in readings(getattr(accumulator, name)).items()}
    return found


@pytest.mark.parametrize("table", [1 << 22, 2 * CLASSES])
def test_rows_split_anywhere_are_the_whole(table: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_counts, "GROUP_ENTRIES", table)
    assert_is_the_whole(LogitRows, drawn(), read=read)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_absorption_split_anywhere_is_the_whole(dtype: torch.dtype) -> None:
    assert_is_the_whole(lambda: SoftmaxAbsorption(dtype), drawn(scale=12.0), read=read)


def test_attempts_split_anywhere_are_the_whole() -> None:
    correct = torch.rand(31, 6, generator=torch.Generator().manual_seed(1)) < 0.4
    assert_is_the_whole(Attempts, {"correct": correct})


def whole(roles: dict[str, Tensor]) -> LogitRows:
    accumulator = LogitRows()
    accumulator.update(Batch(roles))
    return accumulator


def test_agrees_with_scipy() -> None:
    roles = drawn()
    found = whole(roles)
    kept = [row for row in range(ROWS) if row not in (4, 5, 6)]
    logits, labels = roles["logits"].double().numpy()[kept], roles["labels"].numpy()[kept]
    p, log_z = softmax(logits, 1), logsumexp(logits, 1)
    assert (found.count, found.short_rows, found.masked, found.tied) == (94, 1, 5, 1)
    assert found.impossible_labels == 1
    assert found.log_z_mean == pytest.approx(log_z.mean(), rel=1e-12)
    assert found.log_z_square == pytest.approx((log_z**2).mean(), rel=1e-12)
    assert found.log_visible_mean == pytest.approx((93 * math.log(7) + math.log(2)) / 94, rel=1e-12)
    entropy = -np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(1)
    assert found.entropy_mean == pytest.approx(entropy.mean(), rel=1e-12)
    assert found.confidence_mean == pytest.approx(p.max(1).mean(), rel=1e-12)
    torch.testing.assert_close(found.classes.mass, torch.from_numpy(p.sum(0)), rtol=1e-12, atol=0.0)
    finite = np.where(np.isfinite(logits), logits, np.nan)
    spread = np.sort(np.nanstd(finite, 1))[(len(kept) - 1) // 2]
    assert found.spread.quantile(0.5) == pytest.approx(spread, rel=1e-3)
    margin = np.sort(np.diff(np.sort(logits, 1)[:, -2:])[:, 0])[(len(kept) - 1) // 2]
    assert found.margin.quantile(0.5) == pytest.approx(margin, rel=1e-3)
    assert (found.smallest_logit, found.largest_logit) == (np.nanmin(finite), np.nanmax(finite))
    is_class = (labels >= 0) & (labels < CLASSES)
    assert found.labelled == is_class.sum()
    decided = logits.argmax(1)
    assert found.classes.decided.tolist() == np.bincount(decided, minlength=CLASSES).tolist()
    assert found.classes.labels.tolist() == np.bincount(labels[is_class], minlength=CLASSES).tolist()
    right = labels[is_class & (decided == labels)]
    assert found.classes.right.tolist() == np.bincount(right, minlength=CLASSES).tolist()
    groups = roles["groups"].numpy()[kept]
    for group, mass in zip(found.classes.groups.tolist(), found.classes.group_mass, strict=True):  # type: ignore[arg-type]
        np.testing.assert_allclose(mass, p[groups == group].sum(0), rtol=1e-12)
    for label, first in enumerate(found.classes.first_group.tolist()):
        assert first == groups[is_class & (labels == label)].min()


def test_spread_and_entropy_are_of_the_visible_classes() -> None:
    logits = torch.tensor([[1.0, 4.0, -torch.inf, 7.0], [2.0, -torch.inf, -torch.inf, 2.0]])
    rows = softmax_rows(logits)
    assert rows.spread.tolist() == pytest.approx([math.sqrt(6.0), 0.0])
    p = softmax(np.array([1.0, 4.0, 7.0]))
    assert rows.entropy.tolist() == pytest.approx([-(p * np.log(p)).sum(), math.log(2)], rel=1e-12)
    assert (rows.visible.tolist(), rows.smallest) == ([3, 2], 1.0)


def test_one_class_and_no_rows_are_short() -> None:
    assert whole({"logits": torch.zeros(5, 1)}).short_rows == 5
    assert whole({"logits": torch.zeros(5, 0)}).short_rows == 5
    assert whole({"logits": torch.zeros(0, 5)}).count == 0


def test_a_vocabulary_is_read_in_pieces_with_the_same_result() -> None:
    logits = torch.randn(9, 70_000, generator=torch.Generator().manual_seed(2))
    found = whole({"logits": logits})
    assert found.log_z_mean == pytest.approx(float(torch.logsumexp(logits.double(), 1).mean()), rel=1e-12)
    mean = torch.softmax(logits.double(), 1).sum(0)
    torch.testing.assert_close(found.classes.mass, mean, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("labels", [0.5, 0.9])
def test_bins_agree_with_sorting(labels: float) -> None:
    g = np.random.default_rng(3)
    confidence = 1.0 / (1.0 + np.exp(-3.0 * g.standard_normal(3000)))
    right = g.random(3000) < labels * confidence
    bins = CalibrationBins()
    bins.add(torch.from_numpy(1.0 / confidence - 1.0), torch.from_numpy(right))
    wide = np.ceil(confidence * BINS).astype(int) - 1
    expected = sum(abs((right[wide == b] - confidence[wide == b]).sum()) for b in range(BINS)) / 3000
    assert calibration_error(bins.equal_width) == pytest.approx(expected, rel=1e-9)
    order = np.argsort(confidence).reshape(BINS, -1)
    adaptive = sum(abs((right[rows] - confidence[rows]).sum()) for rows in order) / 3000
    assert calibration_error(bins.equal_count) == pytest.approx(adaptive, abs=1e-3)
    assert bins.equal_count[:, 0].tolist() == pytest.approx([200.0] * BINS)


def test_bins_are_open_below_and_closed_above() -> None:
    bins = CalibrationBins()
    bins.add(torch.tensor([4.0, 1.5, 0.0], dtype=torch.float64), torch.tensor([True, True, True]))
    # confidences .2 = 3/15, .4 = 6/15 and 1 close the third, the sixth and the last bin
    assert bins.equal_width[:, 0].nonzero().flatten().tolist() == [2, 5, 14]


def test_certain_rows_stay_in_the_last_bin() -> None:
    bins = CalibrationBins()
    bins.add(torch.zeros(4, dtype=torch.float64), torch.tensor([True, True, True, False]))
    assert bins.equal_width[-1].tolist() == [4.0, 4.0, 3.0, 0.0]
    assert calibration_error(bins.equal_count) == pytest.approx(0.25)
    assert calibration_error(CalibrationBins().equal_count) == 0.0
