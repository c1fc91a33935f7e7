"""Copies and fresh draws; distances and ranks by scipy."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import mannwhitneyu

from collapse_cli.analyzers.samples import memorisation as module
from collapse_cli.analyzers.samples.memorisation import memorisation
from collapse_cli.core.finding import Severity
from collapse_cli.core.report import Skip
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.kernels import needs
from collapse_cli.sources.dump import memory_dump
from tests.view_dumps import findings, measured, results


def gaussian(count: int = 500, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, width)))


def skips(arrays: dict[str, torch.Tensor]) -> str:
    return " | ".join(found.reason for found in results(memorisation, arrays) if isinstance(found, Skip))


def test_is_the_test_of_mann_and_whitney_over_all_pairs() -> None:
    samples, reference = 0.9 * gaussian(300), gaussian(seed=1)
    found = measured(memorisation, {"samples": samples, "reference": reference})
    to_train = cdist(samples.numpy(), reference.numpy()).min(1)
    among = (cdist(reference.numpy(), reference.numpy()) + np.diag(np.full(500, np.inf))).min(1)
    expected = mannwhitneyu(among, to_train).statistic / (300 * 500)
    assert found["copying_auc"].value == pytest.approx(expected, rel=1e-10)
    assert found["copied_share"].value == pytest.approx((to_train < np.quantile(among, 0.01)).mean())
    # torch takes the lower of two middle values
    assert found["nearest_ratio"].value == pytest.approx(np.sort(to_train)[149] / np.median(among), rel=1e-10)
    closest = np.argsort(to_train)[:10]
    assert found["copying_auc"].evidence["closest_samples"] == closest.tolist()
    assert found["copying_auc"].evidence["closest_distances"] == pytest.approx(to_train[closest])


def test_fresh_draws() -> None:
    found = measured(memorisation, {"samples": gaussian(), "reference": gaussian(seed=1)})
    assert found["copying_auc"].value == pytest.approx(0.5, abs=0.06)
    assert found["copying_auc"].evidence["null_deviation"] == pytest.approx(0.018, abs=5e-4)
    assert found["copied_share"].value < 0.03
    assert found["nearest_ratio"].value == pytest.approx(1.0, abs=0.05)
    assert found["exact_copies"].value == 0.0


def test_copies_with_noise() -> None:
    reference = gaussian(seed=1)
    arrays = {"samples": reference[:300] + 0.01 * gaussian(300), "reference": reference}
    found = measured(memorisation, arrays)
    assert found["copying_auc"].value == 1.0
    assert found["copied_share"].value == 1.0
    assert found["nearest_ratio"].value < 0.03
    assert found["copying_auc"].evidence["closest_training_rows"] == found["copying_auc"].evidence["closest_samples"]
    assert findings(memorisation, arrays) == [Severity.ERROR]


@pytest.mark.parametrize(
    ("copies", "expected"), [(10, []), (45, [Severity.WARNING]), (200, [Severity.ERROR, Severity.ERROR])]
)
def test_exact_copies_are_counted(copies: int, expected: list[Severity]) -> None:
    reference = gaussian(seed=1)
    arrays = {"samples": torch.cat((reference[:copies], gaussian(300 - copies))), "reference": reference}
    assert measured(memorisation, arrays)["exact_copies"].value == pytest.approx(copies / 300)
    assert findings(memorisation, arrays) == expected


def test_a_copy_of_any_training_row_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """More training rows than are kept: all of them are compared, and fresh draws are still at the null."""
    monkeypatch.setattr(needs, "SET_ROWS", 500)
    reference = gaussian(4000, 4, 1)
    found = measured(memorisation, {"samples": reference[-400:], "reference": reference})
    assert found["exact_copies"].value == 1.0
    assert found["copying_auc"].value == 1.0
    assert found["copying_auc"].evidence["rows_per_baseline_row"] == 8.0
    assert not found["copying_auc"].evidence["exact"]
    fresh = measured(memorisation, {"samples": gaussian(400, 4), "reference": reference})
    assert fresh["copying_auc"].value == pytest.approx(0.5, abs=0.1)
    assert fresh["nearest_ratio"].value == pytest.approx(1.0, abs=0.2)


def test_baseline_of_some_training_rows_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = {"samples": gaussian(), "reference": gaussian(1000, seed=1)}
    whole = measured(memorisation, arrays)["nearest_ratio"]
    monkeypatch.setattr(module, "BASELINE_ROWS", 200)
    part = measured(memorisation, arrays)["nearest_ratio"]
    assert (whole.evidence["baseline_rows"], part.evidence["baseline_rows"]) == (1000, 200)
    assert part.value == pytest.approx(whole.value, rel=0.03)


def test_similar_share_needs_an_embedding_that_detects_copies() -> None:
    arrays = {"samples": gaussian(300), "reference": gaussian(seed=1)}
    found = measured(memorisation, arrays, embedding="SSCD")["similar_share"]
    cosines = 1.0 - cdist(arrays["samples"].numpy(), arrays["reference"].numpy(), "cosine")
    assert found.value == pytest.approx((cosines.max(1) > 0.6).mean())
    assert 0.0 < found.value < 1.0
    assert "similar_share" not in measured(memorisation, arrays, embedding="dino")
    assert "similar_share: metadata embedding is not sscd" in skips(arrays)


def test_repetitions_in_the_training_set_are_merged() -> None:
    reference = gaussian(seed=1)
    arrays = {"samples": reference[:300] + 0.01 * gaussian(300), "reference": torch.cat((reference, reference[:400]))}
    found = measured(memorisation, arrays)
    assert found["copying_auc"].value == 1.0
    assert found["copying_auc"].evidence["repeated_training_rows"] == 400
    dump = memory_dump(arrays | {"reference": reference.repeat(3, 1)}, metadata={})
    (failure,) = analyse_dump(dump, [memorisation]).failures
    assert "duplicated reference" in failure.message


def test_a_generator_in_the_dense_middle_is_not_accused() -> None:
    assert findings(memorisation, {"samples": 0.5 * gaussian(), "reference": gaussian(seed=1)}) == []


@pytest.mark.parametrize("width", [1, 8, 512])
def test_gaussian_samples_are_healthy(width: int) -> None:
    assert findings(memorisation, {"samples": gaussian(300, width), "reference": gaussian(300, width, 1)}) == []


@pytest.mark.parametrize(
    ("samples", "reference", "reason"),
    [
        (gaussian(99), gaussian(), "99 samples: fewer than 100"),
        (gaussian(), gaussian(99), "99 different training rows of 99"),
        (gaussian(), torch.ones(400, 16), "1 different training rows of 400"),
        (gaussian(), torch.ones(0, 16), "0 different training rows of 0"),
        (gaussian(), torch.cat((gaussian() * 1e-250, torch.ones(1, 16))), "most training rows are as good as equal"),
    ],
)
def test_what_cannot_be_said_is_a_skip(samples: torch.Tensor, reference: torch.Tensor, reason: str) -> None:
    assert reason in skips({"samples": samples, "reference": reference})


def test_other_widths_are_bad_values() -> None:
    dump = memory_dump({"samples": gaussian(), "reference": gaussian(400, 5)}, metadata={})
    (failure,) = analyse_dump(dump, [memorisation]).failures
    assert "different widths" in failure.message
