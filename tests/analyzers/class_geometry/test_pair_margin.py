"""Pairs against scikit-learn, scipy and numpy on all pairs written out; simplex and equal rows in closed form."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from sklearn.metrics import roc_curve

from collapse_cli.analyzer import Example
from collapse_cli.analyzers.class_geometry.pair_margin import pair_margin
from collapse_cli.core.metric import Measurement
from collapse_cli.core.report import Subject
from tests.contract.examples import judged

ROWS = 320


def subject(features: torch.Tensor, labels: torch.Tensor, head: torch.Tensor | None = None) -> Subject:
    arrays = {"features": features, "labels": labels} | ({} if head is None else {"head_weight": head})
    result = judged(pair_margin, Example(arrays, metadata={}))
    assert [failure.message for failure in result.failures] == []
    return result


def found(*arrays: torch.Tensor) -> dict[str, Measurement]:
    return {measurement.metric: measurement for measurement in subject(*arrays).measurements}


def random_dump(distance: float, width: int = 10) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    labels = torch.arange(ROWS) % 4
    head = torch.randn(4, width, generator=generator, dtype=torch.float64)
    features = torch.randn(ROWS, width, generator=generator, dtype=torch.float64) + distance * head[labels]
    return features, labels, head


def all_pairs(features: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    units = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)
    first, second = np.triu_indices(len(units), 1)
    return (units @ units.T)[first, second], labels.numpy()[first] == labels.numpy()[second]


@pytest.mark.parametrize("distance", [0.0, 0.5, 1.5])
def test_error_rate_is_that_of_the_roc_curve(distance: float) -> None:
    features, labels, _ = random_dump(distance)
    cosines, is_same = all_pairs(features, labels)
    false_positive, true_positive, _ = roc_curve(is_same, cosines, drop_intermediate=False)
    place = np.argmin(np.abs(false_positive - (1 - true_positive)))
    expected = (false_positive[place] + 1 - true_positive[place]) / 2
    rate = found(features, labels)["pair_eer"]
    assert rate.value == pytest.approx(expected, abs=2e-4)
    assert rate.evidence["positive"] == is_same.sum()
    assert rate.evidence["negative"] == (~is_same).sum()
    accepted = true_positive[false_positive <= 1e-4].max()
    assert rate.evidence["accept_rate_at_1e4"] == pytest.approx(accepted, abs=1e-3)


def test_margins_and_overlap_are_those_of_all_pairs() -> None:
    features, labels, _ = random_dump(1.0)
    cosines, is_same = all_pairs(features, labels)
    same, different = cosines[is_same], cosines[~is_same]
    measured = found(features, labels)
    assert measured["pair_margin"].value == pytest.approx(same.min() - different.max(), abs=1e-12)
    low, high = (np.quantile(*part, method="inverted_cdf") for part in ((same, 0.01), (different, 0.99)))
    assert measured["pair_margin_1pct"].value == pytest.approx(low - high, abs=2e-4)
    shares = [np.histogram(part, 512, (-1, 1))[0] / part.size for part in (same, different)]
    assert measured["pair_overlap"].value == pytest.approx(np.minimum(*shares).sum(), abs=1e-9)
    index = (same.mean() - different.mean()) / math.sqrt((same.var() + different.var()) / 2)
    assert measured["pair_eer"].evidence["sensitivity_index"] == pytest.approx(index, rel=1e-9)
    error = 0.5 * math.sqrt(1 / same.size + 1 / different.size)
    assert measured["pair_eer_z"].value == pytest.approx((0.5 - measured["pair_eer"].value) / error)


def test_negatives_from_the_head_are_compared_with_negatives_of_pairs() -> None:
    features, labels, head = random_dump(1.0)
    cosines, is_same = all_pairs(features, labels)
    x, w = (part.numpy() / np.linalg.norm(part.numpy(), axis=1, keepdims=True) for part in (features, head))
    against = (x @ w.T)[labels.numpy()[:, None] != np.arange(4)]
    measured = found(features, labels, head)
    expected = ks_2samp(cosines[~is_same], against).statistic
    assert measured["negative_mismatch"].value == pytest.approx(expected, abs=1e-3)
    assert measured["head_centring"].value == pytest.approx(np.linalg.norm(w.mean(0)), rel=1e-9)
    assert measured["head_centring"].null == pytest.approx(0.5)


def test_simplex_and_equal_rows_in_closed_form() -> None:
    labels = torch.arange(ROWS) % 4
    simplex = (torch.eye(4, 6) - 0.25 * torch.cat([torch.ones(4, 4), torch.zeros(4, 2)], 1)).double()
    perfect = found(simplex[labels] * 3.0, labels, simplex)
    assert perfect["pair_margin"].value == pytest.approx(4 / 3)
    assert perfect["pair_margin_1pct"].value == pytest.approx(4 / 3, abs=2e-4)
    for metric in ("pair_overlap", "pair_eer", "head_centring", "negative_mismatch"):
        assert perfect[metric].value == pytest.approx(0.0, abs=1e-9), metric
    direction = torch.randn(1, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    merged = found(direction.repeat(ROWS, 1), labels, direction.repeat(4, 1))
    assert merged["pair_margin"].value == pytest.approx(0.0, abs=1e-9)
    assert merged["pair_margin_1pct"].value == pytest.approx(0.0, abs=1e-9)
    assert (merged["pair_overlap"].value, merged["pair_eer"].value) == (pytest.approx(1.0), pytest.approx(0.5))
    assert merged["head_centring"].value == pytest.approx(1.0)


def test_chance_is_found_and_a_weak_signal_is_not() -> None:
    features, labels, _ = random_dump(0.0, width=64)
    (finding,) = subject(features, labels).findings
    assert (finding.measurement.metric, str(finding.severity)) == ("pair_eer_z", "warning")
    assert "no more similar" in finding.message
    weak, labels, _ = random_dump(0.2, width=64)
    assert found(weak, labels)["pair_eer"].value > 0.3
    assert subject(weak, labels).findings == ()


def test_nulls_are_what_random_labels_give() -> None:
    features, labels, _ = random_dump(0.0, width=256)
    measured = found(features, labels)
    assert measured["pair_margin"].value == pytest.approx(measured["pair_margin"].null, rel=0.15)
    assert measured["pair_margin_1pct"].value == pytest.approx(measured["pair_margin_1pct"].null, rel=0.05)
    assert measured["pair_overlap"].value > 0.9


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (torch.zeros(ROWS), "or negative ones (0)"),
        (torch.arange(ROWS), "fewer than 100 positive pairs (0)"),
        (torch.full((ROWS,), -1), "fewer than 100 positive pairs (0)"),
        (torch.arange(ROWS) % 19, "19 classes < 20"),
    ],
)
def test_too_few_pairs_are_a_stated_skip(labels: torch.Tensor, reason: str) -> None:
    result = subject(torch.randn(ROWS, 4), labels.long())
    assert result.measurements == ()
    assert reason in result.skips[0].reason


def test_many_classes_of_a_large_dump_are_paired_by_whole_classes() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(9000) // 4
    features = torch.randn(2250, 3, generator=generator)[labels]
    measured = found(features, labels)["pair_eer"]
    # 1024 classes of the 4 rows that the sample holds of each
    assert measured.evidence["positive"] >= 4000
    assert measured.evidence["exact"] is False


def test_a_head_for_other_classes_has_no_negatives() -> None:
    features, labels, _ = random_dump(1.0)
    result = subject(features, labels, torch.randn(3, 10))
    assert "negative_mismatch: a head of 3 × 10 has no row per label" in [skip.reason for skip in result.skips]
    assert "no head_weight" in subject(features, labels).skips[0].reason
