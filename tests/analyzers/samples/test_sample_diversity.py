"""Closed forms, and the published definitions written out over all pairs."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform

from collapse_cli.analyzers.samples.sample_diversity import sample_diversity
from collapse_cli.core.finding import Severity
from collapse_cli.core.report import Skip
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump
from tests.view_dumps import findings, measured, results


def gaussian(count: int = 300, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, width)))


def reasons(arrays: dict[str, torch.Tensor]) -> str:
    return " | ".join(found.reason for found in results(sample_diversity, arrays) if isinstance(found, Skip))


def test_golden_numbers() -> None:
    found = measured(sample_diversity, {"samples": gaussian()})
    assert found["vendi"].value == pytest.approx(15.6629, abs=5e-5)
    assert found["vendi"].evidence["vendi_of_order_2"] == pytest.approx(15.3476, abs=5e-5)
    assert found["vendi"].null == pytest.approx(15.579, abs=5e-4)
    assert found["vendi_ratio"].value == pytest.approx(15.6629 / 15.579, abs=1e-4)


def test_distances_are_those_over_all_pairs() -> None:
    samples, reference = gaussian(), 2.0 * gaussian(300, seed=1)
    found = measured(sample_diversity, {"samples": samples, "reference": reference})
    for role, read in (("samples", lambda m: m.value), ("reference", lambda m: m.null)):
        squared = pdist({"samples": samples, "reference": reference}[role].numpy(), "sqeuclidean")
        nearest = (squareform(squared) + np.diag(np.full(300, np.inf))).min(1)
        # log of the mean over samples of the nearest mean over features: the loss of the MEE repository
        assert read(found["nearest_log_distance"]) == pytest.approx(math.log(nearest.mean() / 16), rel=1e-9)
        assert read(found["mean_squared_distance"]) == pytest.approx(squared.mean(), rel=1e-9)
    assert found["duplicate_share"].value == 0.0


def test_five_orthogonal_points_sixteen_times_each() -> None:
    arrays = {"samples": (torch.eye(5, 8) * 3.0).repeat_interleave(40, 0)}
    found = measured(sample_diversity, arrays)
    assert found["vendi"].value == pytest.approx(5.0, rel=1e-12)
    assert found["duplicate_share"].value == pytest.approx(195 / 200)
    assert "nearest_log_distance: each of 200 samples has an exact copy" in reasons(arrays)


def test_unit_grid_and_its_scaling() -> None:
    grid = torch.cartesian_prod(torch.arange(10.0), torch.arange(10.0))
    whole = measured(sample_diversity, {"samples": grid})["nearest_log_distance"].value
    half = measured(sample_diversity, {"samples": grid / 2})["nearest_log_distance"].value
    assert whole == pytest.approx(math.log(0.5), abs=1e-12)
    assert half - whole == pytest.approx(-1.3863, abs=5e-5)


def test_constant_samples_are_an_error() -> None:
    arrays = {"samples": torch.full((100, 8), 0.3), "reference": gaussian(100, 8)}
    found = measured(sample_diversity, arrays)
    assert found["vendi"].value == pytest.approx(1.0, abs=1e-9)
    assert found["duplicate_share"].value == pytest.approx(0.99)
    assert findings(sample_diversity, arrays)[0] == Severity.ERROR


@pytest.mark.parametrize(
    ("spread", "expected"),
    [(1.0, []), (0.5, []), (0.4, [Severity.WARNING]), (0.2, [Severity.ERROR])],
)
def test_the_spread_is_judged_against_the_reference(spread: float, expected: list[Severity]) -> None:
    arrays = {"samples": spread * gaussian(), "reference": gaussian(seed=1)}
    assert findings(sample_diversity, arrays) == expected
    assert findings(sample_diversity, {"samples": arrays["samples"]}) == []


@pytest.mark.parametrize("count", [100, 500])
@pytest.mark.parametrize("width", [8, 512])
def test_gaussian_samples_are_healthy(count: int, width: int) -> None:
    assert findings(sample_diversity, {"samples": gaussian(count, width)}) == []
    assert findings(sample_diversity, {"samples": gaussian(count, width), "reference": gaussian(count, width, 1)}) == []


def test_objectives_of_the_best_samples() -> None:
    samples, objectives = gaussian(200, 4), torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    found = measured(sample_diversity, {"samples": samples, "targets": objectives})
    best = np.argsort(-objectives.double().mean(1).numpy())[:20]
    assert found["top_k_distance"].value == pytest.approx(pdist(samples.numpy()[best]).mean(), rel=1e-9)
    # share of a fine lattice of the unit cube below some point
    lattice = torch.cartesian_prod(*(torch.arange(50) / 50 + 0.01 for _ in range(3)))
    share = (lattice[:, None] <= objectives).all(2).any(1).double().mean()
    assert found["hypervolume"].value == pytest.approx(float(share), abs=0.01)
    assert found["hypervolume"].evidence["exact_volume"]


def test_one_objective_without_a_second_axis() -> None:
    reward = torch.arange(200.0)
    found = measured(sample_diversity, {"samples": gaussian(200, 4), "targets": reward})
    assert found["hypervolume"].value == 199.0


def test_sets_are_compared_at_equal_size() -> None:
    found = measured(sample_diversity, {"samples": gaussian(400), "reference": gaussian(150, seed=1)})
    assert found["vendi"].evidence["rows"] == found["nearest_log_distance"].evidence["rows"] == 150
    assert found["duplicate_share"].evidence["rows"] == 400
    few = measured(sample_diversity, {"samples": gaussian(400), "reference": gaussian(50, seed=1)})
    assert few["vendi"].evidence["against"] == "uniform directions"
    assert few["mean_squared_distance"].null is None


def test_shards_do_not_matter() -> None:
    arrays = {"samples": gaussian(), "reference": gaussian(seed=1)}
    shards = [
        dict(zip(arrays, one, strict=True)) for one in zip(*(torch.split(a, 110) for a in arrays.values()), strict=True)
    ]
    whole = analyse_dump(memory_dump(arrays, metadata={}), [sample_diversity])
    parts = analyse_dump(memory_dump(*shards, metadata={}), [sample_diversity])
    assert len(shards) == 3
    assert whole.measurements == parts.measurements


def test_nothing_to_measure_is_said() -> None:
    assert "99 samples: fewer than 100" in reasons({"samples": gaussian(99)})
    assert "all samples are zero" in reasons({"samples": torch.zeros(100, 4)})
    assert "no targets" in reasons({"samples": gaussian()})
    measured(sample_diversity, {"samples": gaussian(), "reference": torch.zeros(0, 16)})


def test_other_widths_are_bad_values() -> None:
    dump = memory_dump({"samples": gaussian(), "reference": gaussian(300, 8)}, metadata={})
    (failure,) = analyse_dump(dump, [sample_diversity]).failures
    assert "samples have 16 features and reference 8" in failure.message
