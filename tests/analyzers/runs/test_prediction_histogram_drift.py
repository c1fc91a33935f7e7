"""Drift of the prediction histogram against SciPy, closed forms and simulation."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from collapse_cli.analyzers.runs.prediction_histogram_drift import prediction_histogram_drift
from collapse_cli.core.metric import Measurement
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.engine.dump_series import analyse_dump_series
from collapse_cli.kernels import prediction_shares
from collapse_cli.sources.dump import memory_dump
from collapse_cli.sources.paired import paired_dump


def draws(seed: int, rows: int = 500, classes: int = 10) -> torch.Tensor:
    return torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed))


def member(predicted: torch.Tensor, classes: int = 10, **roles: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"logits": 3.0 * torch.nn.functional.one_hot(predicted, classes).float(), **roles}


def run(*members: dict[str, torch.Tensor]) -> Any:
    dumps = [memory_dump(one, metadata={}) for one in members]
    places = range(len(dumps))
    return analyse_dump_series(
        dumps,
        [prediction_histogram_drift],
        labels=tuple(f"member {place}" for place in places),
        steps=tuple(map(float, places)),
    )


def values(analysis: Any) -> dict[str, Measurement]:
    return {m.metric: m for m in analysis.measurements}


def test_every_number_by_definition() -> None:
    first, middle, last = draws(0), draws(1), torch.cat((draws(2, 300), draws(3, 300) % 3))
    labels = torch.cat((draws(4, 300), draws(5, 300) % 5))
    found = values(run(member(first), member(middle), member(last, labels=labels)))
    histograms = [np.bincount(x, minlength=10) for x in (first, middle, last, labels)]
    divergence = found["histogram_divergence"]
    assert divergence.value == pytest.approx(jensenshannon(histograms[0], histograms[2]) ** 2, rel=1e-9)
    assert divergence.null == pytest.approx(9 / 8 * (1 / 500 + 1 / 600))
    assert divergence.evidence["from_the_one_before"] == pytest.approx(
        [jensenshannon(histograms[0], histograms[1]) ** 2, jensenshannon(histograms[1], histograms[2]) ** 2]
    )
    assert found["effective_classes"].value == pytest.approx(math.exp(entropy(histograms[2])) / 10, rel=1e-9)
    assert found["effective_classes"].null == pytest.approx(math.exp(entropy(histograms[3])) / 10, rel=1e-9)
    assert found["majority_share"].value == pytest.approx(histograms[2].max() / 600)
    assert found["majority_share"].null == pytest.approx(histograms[3].max() / 600)
    assert found["unused_class_share"].value == 0
    assert found["unused_class_share"].null == pytest.approx(0.9**600)
    without = values(run(member(first), member(last)))["effective_classes"]
    assert without.null == pytest.approx(math.exp(entropy(histograms[0])) / 10, rel=1e-9)
    assert without.evidence["compared_with"] == "the first member"


def test_a_constant_predictor_against_a_uniform_one() -> None:
    even = torch.arange(500) % 10
    found = values(run(member(even), member(torch.full((500,), 4), labels=even)))
    assert found["histogram_divergence"].value == pytest.approx(0.5256, abs=5e-5)
    assert found["effective_classes"].value == pytest.approx(0.1, rel=1e-12)
    assert found["majority_share"].value == 1
    assert found["majority_share"].evidence["majority_class"] == 4
    assert found["unused_class_share"].value == pytest.approx(0.9)
    limit = prediction_histogram_drift.manual.metric("effective_classes").error
    assert limit is not None
    assert limit.is_crossed(found["effective_classes"].value, found["effective_classes"].null)


def test_the_null_of_the_divergence_by_simulation() -> None:
    """K = 50 uniform, 2,000 and 5,000 draws: .00429."""
    rng = np.random.default_rng(0)
    pairs = [(rng.multinomial(n, np.full(50, 0.02))) for n in (2000, 5000) for _ in range(300)]
    left, right = pairs[:300], pairs[300:]
    measured = [
        prediction_shares.divergence(torch.tensor(a), torch.tensor(b)) for a, b in zip(left, right, strict=True)
    ]
    null = prediction_shares.divergence_null(torch.tensor(left[0]), torch.tensor(right[0]))
    assert null == pytest.approx(0.00429, abs=5e-6)
    assert np.mean(measured) == pytest.approx(null, rel=0.04)
    assert prediction_shares.divergence(torch.tensor([5, 0]), torch.tensor([0, 5])) == pytest.approx(math.log(2))


def test_intervals_are_those_of_the_binomial_and_hold_the_value() -> None:
    counts = torch.bincount(torch.cat((draws(0, 900), torch.zeros(900).long())), minlength=10)
    found = prediction_shares.intervals(counts, torch.Generator().manual_seed(0))["majority_share"]
    share = float(counts.max()) / 1800
    # 95 % are 3.92 standard errors
    assert found.high - found.low == pytest.approx(3.92 * math.sqrt(share * (1 - share) / 1800), rel=0.25)
    assert found.low < share < found.high
    again = prediction_shares.intervals(counts, torch.Generator().manual_seed(0))["majority_share"]
    assert found == again


def test_the_newest_classes_answered_too_often() -> None:
    labels = torch.arange(600) % 6
    roles = {"labels": labels, "groups": labels // 2}
    biased = torch.where(torch.arange(600) % 4 > 0, 4 + labels % 2, labels)
    found = values(run(member(labels, 6, **roles), member(biased, 6, **roles)))["recency_bias"]
    assert found.value == pytest.approx(float((biased >= 4).double().mean()) * 3)
    assert (found.evidence["newest"], found.evidence["rows_of_newest"]) == (2, 200)
    assert values(run(member(labels, 6, **roles), member(labels, 6, **roles)))["recency_bias"].value == 1
    shared = {"labels": labels, "groups": torch.arange(600) // 300}
    reasons = {s.reason for s in run(member(labels, 6, **shared), member(labels, 6, **shared)).skips}
    assert "recency_bias: 0 rows of classes that only the last group has, fewer than 20" in reasons


def test_two_dumps_are_a_pair_and_give_what_a_run_of_two_gives() -> None:
    labels = torch.arange(500) % 10
    roles = {"labels": labels, "groups": labels // 5}
    first, last = member(draws(0), **roles), member(draws(1) % 4, **roles)
    paired = paired_dump(memory_dump(first, metadata={}), memory_dump(last, metadata={}))
    of_pair = values(analyse_dump(paired, [prediction_histogram_drift]))
    of_run = values(run(first, last))
    assert set(of_pair) == set(of_run) == {m.name for m in prediction_histogram_drift.manual.metrics}
    for metric, measured in of_run.items():
        assert (of_pair[metric].value, of_pair[metric].null) == (measured.value, measured.null)


def test_growing_heads_foreign_labels_masks_and_small_dumps() -> None:
    grown = values(run(member(draws(0, classes=5), 5), member(draws(1), 10)))
    assert grown["effective_classes"].evidence["classes"] == 10
    foreign = values(run(member(draws(0)), member(draws(1), labels=draws(2) + 90)))
    assert foreign["effective_classes"].evidence["compared_with"] == "the first member"
    masked = member(draws(1))
    masked["logits"][:, 3] = -torch.inf
    assert values(run(member(draws(0)), masked))["unused_class_share"].value == pytest.approx(0.1)
    assert {s.reason for s in run(member(draws(0, 49)), member(draws(1))).skips} == {"49 predictions: fewer than 50"}
    assert {s.reason for s in run(member(draws(0))).skips} == {"run too short: 1 of 2"}
