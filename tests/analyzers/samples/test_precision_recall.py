"""The published definitions over all pairs, and the numbers they give for Gaussians."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from collapse_cli.analyzers.samples.precision_recall import precision_recall
from collapse_cli.core.finding import Severity
from collapse_cli.core.report import Skip
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.kernels.manifold_coverage import coverage_null
from collapse_cli.sources.dump import memory_dump
from tests.view_dumps import findings, measured, results

SHARES = ("precision", "recall", "density", "coverage")


def gaussian(count: int = 500, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, width)))


def dense(samples: np.ndarray, reference: np.ndarray, k: int = 5) -> dict[str, float]:
    """Kynkäänniemi 2019 (arXiv:1904.06991, equations 1–2) and Naeem 2020 (arXiv:2002.09797, equations 3–5)."""
    real = np.sort(cdist(reference, reference), axis=1)[:, k]
    made = np.sort(cdist(samples, samples), axis=1)[:, k]
    between = cdist(samples, reference)
    inside = between < real[None, :]
    return {
        "precision": inside.any(1).mean(),
        "recall": (between < made[:, None]).any(0).mean(),
        "density": inside.sum() / (k * len(samples)),
        "coverage": (between.min(0) < real).mean(),
    }


def values(arrays: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: found.value for name, found in measured(precision_recall, arrays).items()}


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_is_the_definition_over_all_pairs(scale: float, dtype: torch.dtype) -> None:
    samples, reference = (scale * gaussian()).to(dtype), gaussian(seed=1).to(dtype)
    expected = dense(samples.double().numpy(), reference.double().numpy())
    assert values({"samples": samples, "reference": reference}) == pytest.approx(expected, abs=1e-12)


def test_known_numbers_of_gaussians() -> None:
    # simulated: the same distribution, half the spread, and ten real points fifty times each; density varies most
    reference = gaussian(seed=1)
    same = values({"samples": gaussian(), "reference": reference})
    assert [same[name] for name in SHARES] == pytest.approx([0.87, 0.87, 1.03, 0.97], abs=0.15)
    half = values({"samples": 0.5 * gaussian(), "reference": reference})
    assert half["precision"] == 1.0
    assert half["recall"] == pytest.approx(0.024, abs=0.02)
    assert half["density"] == pytest.approx(6.78, rel=0.1)
    assert half["coverage"] == pytest.approx(0.986, abs=0.02)
    ten = values({"samples": reference[:10].repeat(50, 1), "reference": reference})
    assert (ten["precision"], ten["recall"]) == (1.0, 0.0)
    assert ten["density"] == pytest.approx(1.1, abs=0.5)
    assert ten["coverage"] == pytest.approx(0.104, abs=0.05)


def test_nulls() -> None:
    found = measured(precision_recall, {"samples": gaussian(), "reference": gaussian(seed=1)})
    assert found["coverage"].null == pytest.approx(0.9692, abs=5e-5) == coverage_null(500, 500)
    assert coverage_null(1000, 300) == pytest.approx(0.732, abs=5e-4)
    assert found["density"].null == 1.0
    assert found["precision"].null == pytest.approx(0.87, abs=0.08)
    assert found["precision"].evidence["null_rows"] == 250
    assert found["precision"].evidence["rows"] == 500


def test_coverage_null_against_draws() -> None:
    draws = [dense(gaussian(300, 3, 2 * s), gaussian(1000, 3, 2 * s + 1))["coverage"] for s in range(3)]
    assert np.mean(draws) == pytest.approx(coverage_null(1000, 300), abs=0.03)


@pytest.mark.parametrize("width", [8, 512])
def test_gaussian_samples_are_healthy(width: int) -> None:
    assert findings(precision_recall, {"samples": gaussian(600, width), "reference": gaussian(500, width, 1)}) == []


def test_half_the_spread_loses_the_recall_and_another_place_the_precision() -> None:
    reference = gaussian(seed=1)
    assert findings(precision_recall, {"samples": 0.5 * gaussian(), "reference": reference}) == [Severity.ERROR]
    assert findings(precision_recall, {"samples": gaussian() + 50.0, "reference": reference})[0] == Severity.ERROR
    constant = {"samples": torch.zeros(500, 16), "reference": reference}
    assert values(constant)["recall"] == 0.0
    assert findings(precision_recall, constant)[0] == Severity.ERROR


def test_repeated_reference_rows_are_merged() -> None:
    reference = gaussian(seed=1)
    once = measured(precision_recall, {"samples": gaussian(), "reference": reference})
    some_twice = torch.cat((reference, reference[:400]))
    found = measured(precision_recall, {"samples": gaussian(), "reference": some_twice})
    assert {name: found[name].value for name in SHARES} == {name: once[name].value for name in SHARES}
    assert found["recall"].evidence["repeated_reference_rows"] == 400


def test_a_reference_of_copies_is_refused() -> None:
    arrays = {"samples": gaussian(), "reference": gaussian(seed=1).repeat(3, 1)}
    (failure,) = analyse_dump(memory_dump(arrays, metadata={}), [precision_recall]).failures
    assert "duplicated reference" in failure.message
    assert "1,000 of 1,500" in failure.message


@pytest.mark.parametrize(
    ("samples", "reference", "reason"),
    [
        (gaussian(499), gaussian(seed=1), "499 samples: fewer than 500"),
        (gaussian(), gaussian(499), "499 different reference rows of 499"),
        (gaussian(), torch.ones(600, 16), "1 different reference rows of 600"),
        (gaussian(), torch.ones(0, 16), "0 different reference rows of 0"),
    ],
)
def test_too_few_rows_are_a_skip(samples: torch.Tensor, reference: torch.Tensor, reason: str) -> None:
    (found,) = results(precision_recall, {"samples": samples, "reference": reference})
    assert isinstance(found, Skip)
    assert reason in found.reason


def test_other_widths_are_bad_values() -> None:
    dump = memory_dump({"samples": gaussian(), "reference": gaussian(500, 8)}, metadata={})
    (failure,) = analyse_dump(dump, [precision_recall]).failures
    assert "different widths" in failure.message
