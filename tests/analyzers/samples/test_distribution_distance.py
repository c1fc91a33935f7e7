"""Sets with exactly known means and covariances; what the definitions give is tested with the kernels."""

import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.samples.distribution_distance import distribution_distance
from collapse_cli.core.finding import Severity
from collapse_cli.core.report import Skip
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump
from tests.view_dumps import findings, measured, results


def gaussian(count: int = 400, width: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, width)))


def white(count: int = 400, width: int = 8, seed: int = 0) -> torch.Tensor:
    """Rows with mean 0 and covariance I (ddof 1) exactly."""
    rows = gaussian(count, width, seed)
    return torch.linalg.qr(rows - rows.mean(0)).Q * math.sqrt(count - 1)


def skips(arrays: dict[str, torch.Tensor]) -> str:
    return " | ".join(found.reason for found in results(distribution_distance, arrays) if isinstance(found, Skip))


@pytest.mark.parametrize(
    ("change", "distance", "share", "ratio"),
    [
        (lambda rows: rows + 1.0, 8.0, 1.0, 1.0),
        (lambda rows: rows / 2.0, 2.0, 0.0, 0.25),
        (torch.ones_like, 16.0, 0.5, 0.0),
    ],
)
def test_closed_forms(change, distance: float, share: float, ratio: float) -> None:
    found = measured(distribution_distance, {"samples": change(white()), "reference": white(seed=1)})
    assert found["frechet"].value == pytest.approx(distance, rel=1e-9)
    assert found["shift_share"].value == pytest.approx(share, abs=1e-9)
    assert found["variance_ratio"].value == pytest.approx(ratio, abs=1e-9)
    null = found["frechet"].null
    # λ = 1: c·(D + ½·(D²/2 + D/2)), c = 2/400
    assert null == pytest.approx(2 / 400 * (8 + 0.5 * (32 + 4)), rel=1e-9)
    assert found["frechet_excess"].value == pytest.approx(distance - null, rel=1e-9)
    assert found["shift_share"].null == pytest.approx(8 / 26, rel=1e-9)


def test_the_same_distribution_is_at_its_null() -> None:
    found = measured(distribution_distance, {"samples": gaussian(), "reference": gaussian(seed=1)})
    assert found["frechet"].value == pytest.approx(found["frechet"].null, rel=0.5)
    assert abs(found["kid"].value) < 0.02
    assert found["kid"].evidence["subsets"] == 1
    assert found["variance_ratio"].value == pytest.approx(1.0, abs=0.1)


def test_kernel_distance_of_the_origin() -> None:
    found = measured(distribution_distance, {"samples": torch.zeros(1200, 16), "reference": gaussian(1200, 16)})["kid"]
    assert found.value == pytest.approx(3 / 16, abs=0.02)  # 3/D to leading order, .191 simulated
    assert found.evidence["subsets"] == 100
    assert 0.0 < found.evidence["deviation"] < 0.05
    assert found.evidence["error"] == pytest.approx(found.evidence["deviation"] / 10)


def test_two_groups_of_features_are_compared_with_each_other() -> None:
    features = torch.cat((white(), white(seed=1) + 1.0))
    arrays = {"features": features, "groups": torch.tensor([3, 7]).repeat_interleave(400)}
    found = measured(distribution_distance, arrays)
    assert found["frechet"].value == pytest.approx(8.0, rel=1e-9)
    assert found["frechet"].evidence["compared"] == "group 7 with 3"
    arrays["groups"][:50] = 9
    assert "3 groups: it takes samples and a reference, or two groups" in skips(arrays)
    arrays["groups"][:50] = -1
    assert measured(distribution_distance, arrays)["variance_ratio"].evidence["rows"] == [400, 350]


@pytest.mark.parametrize(
    ("scale", "expected"), [(1.0, []), (0.5, []), (0.4, [Severity.WARNING]), (0.2, [Severity.ERROR])]
)
def test_only_the_variance_is_judged(scale: float, expected: list[Severity]) -> None:
    assert findings(distribution_distance, {"samples": scale * gaussian() + 100.0, "reference": gaussian(seed=1)}) == (
        expected
    )


@pytest.mark.parametrize("width", [8, 512])
def test_gaussian_samples_are_healthy(width: int) -> None:
    arrays = {"samples": gaussian(300, width), "reference": gaussian(300, width, 1)}
    assert findings(distribution_distance, arrays) == []


@pytest.mark.parametrize(
    ("samples", "reference", "reason"),
    [
        (gaussian(30, 30), gaussian(400, 30), "frechet, frechet_excess, shift_share: 30 rows of 30 features"),
        (gaussian(99), gaussian(), "kid: 99 rows, fewer than 100"),
        (gaussian(), torch.ones(400, 8), "variance_ratio: the reference is constant"),
        (torch.ones(400, 8), torch.ones(400, 8), "shift_share: the distributions are equal"),
        (gaussian(), torch.ones(0, 8), "400 and 0 rows: fewer than 20"),
        (gaussian() * 1e60, gaussian(), "kid: the kernel overflows"),
    ],
)
def test_what_cannot_be_said_is_a_skip(samples: torch.Tensor, reference: torch.Tensor, reason: str) -> None:
    assert reason in skips({"samples": samples, "reference": reference})


def test_a_collapsed_generator_gives_numbers() -> None:
    # where a matrix square root of the product of singular covariances is complex or no number
    found = measured(distribution_distance, {"samples": torch.ones(400, 8), "reference": gaussian()})
    assert math.isfinite(found["frechet"].value)
    assert findings(distribution_distance, {"samples": torch.ones(400, 8), "reference": gaussian()}) == [Severity.ERROR]


def test_other_widths_are_bad_values() -> None:
    dump = memory_dump({"samples": gaussian(), "reference": gaussian(400, 5)}, metadata={})
    (failure,) = analyse_dump(dump, [distribution_distance]).failures
    assert "different widths" in failure.message
