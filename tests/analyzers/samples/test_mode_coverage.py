"""Histograms with known answers, by labels and by cells; distances written out over all pairs."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from collapse_cli.analyzers.samples.mode_coverage import collapsed, healthy, mode_coverage
from collapse_cli.core.finding import Severity
from collapse_cli.core.report import Skip
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump
from tests.view_dumps import findings, measured, results


def gaussian(count: int = 500, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, width)))


def labelled(samples: list[int], reference: list[int]) -> dict[str, torch.Tensor]:
    arrays = {}
    for role, labels, counts in (("samples", "labels", samples), ("reference", "reference_labels", reference)):
        arrays[labels] = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        arrays[role] = gaussian(len(arrays[labels]), 2, len(role))
    return arrays


def skips(arrays: dict[str, torch.Tensor]) -> str:
    return " | ".join(found.reason for found in results(mode_coverage, arrays) if isinstance(found, Skip))


def test_all_of_twenty_five_modes() -> None:
    found = measured(mode_coverage, healthy().tensors)
    assert found["missing_modes"].value == 0.0
    assert found["covered_modes"].value == 1.0
    assert found["mode_kl"].value == found["mode_js"].value == pytest.approx(0.0, abs=1e-12)
    assert found["mode_kl"].null == pytest.approx(12 * (1 / 600 + 1 / 1000))
    assert found["ndb_share"].value == 0.0


def test_five_of_twenty_five_modes() -> None:
    found = measured(mode_coverage, collapsed().tensors)
    assert found["missing_modes"].value == 20.0
    assert found["missing_modes"].evidence["missing"] == list(range(5, 25))
    assert found["covered_modes"].value == pytest.approx(0.2)
    assert found["mode_kl"].value == pytest.approx(math.log(5.0), abs=1e-12)
    assert found["mode_js"].value == pytest.approx(0.4228, abs=5e-5)
    assert found["ndb_share"].value == 1.0
    assert findings(mode_coverage, collapsed().tensors) == [Severity.ERROR, Severity.WARNING]


def test_one_missing_mode_is_a_warning() -> None:
    arrays = labelled([60, 60, 60, 0], [50, 50, 50, 50])
    assert findings(mode_coverage, arrays) == [Severity.WARNING]


def test_modes_that_only_the_samples_have() -> None:
    found = measured(mode_coverage, labelled([60, 60, 30], [80, 80]))
    assert found["mode_kl"].value == pytest.approx(0.0, abs=1e-12)
    assert found["covered_modes"].evidence["samples_elsewhere"] == 30
    assert found["covered_modes"].evidence["modes"] == 2


def test_utilisation_is_the_ratio_over_all_pairs() -> None:
    samples, reference = 0.3 * gaussian(400), gaussian(500, seed=1)
    found = measured(mode_coverage, {"samples": samples, "reference": reference})["utilisation"]
    order = torch.randperm(500, generator=torch.Generator().manual_seed(0))[:400].sort().values
    rows = reference[order].numpy()
    among = cdist(rows, rows, "sqeuclidean") + np.diag(np.full(400, np.inf))
    expected = cdist(rows, samples.numpy(), "sqeuclidean").min(1).mean() / among.min(1).mean()
    assert found.value == pytest.approx(expected, rel=1e-9)
    assert found.evidence["rows"] == 400
    same = measured(mode_coverage, {"samples": gaussian(), "reference": gaussian(seed=1)})["utilisation"]
    assert same.value == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize(("count", "width"), [(500, 2), (500, 512), (2000, 64)])
def test_fresh_gaussian_samples_miss_no_cell(count: int, width: int) -> None:
    arrays = {"samples": gaussian(count, width), "reference": gaussian(count, width, 1)}
    assert findings(mode_coverage, arrays) == []
    found = measured(mode_coverage, arrays)
    assert found["covered_modes"].value == pytest.approx(found["covered_modes"].null, abs=0.15)
    assert found["ndb_share"].value < 0.2
    assert found["covered_modes"].evidence["modes_by"] == "k-means"


def test_cells_without_samples_are_found_without_labels() -> None:
    arrays = {role: collapsed().tensors[role] for role in ("samples", "reference")}
    found = measured(mode_coverage, arrays)
    assert found["covered_modes"].value < 0.4
    assert findings(mode_coverage, arrays)[0] == Severity.ERROR


def test_labels_beyond_the_table_are_bad_values() -> None:
    arrays = labelled([60, 60], [80, 80])
    arrays["labels"] = arrays["labels"] + 10**9
    (failure,) = analyse_dump(memory_dump(arrays, metadata={}), [mode_coverage]).failures
    assert "labels of modes should lie below" in failure.message


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        (labelled([15], [300]), "the reference has 1 mode: none"),
        (labelled([5, 9], [300, 300]), "14 samples in 2 modes: fewer than 10 per mode"),
        ({"samples": gaussian(19), "reference": gaussian()}, "fewer than 10 per mode"),
        ({"samples": gaussian(), "reference": torch.ones(500, 16)}, "the reference is one point"),
        ({"samples": gaussian(), "reference": torch.ones(0, 16)}, "500 samples and 0 reference rows"),
        ({"samples": gaussian(), "reference": torch.ones(500, 16)}, "utilisation: 500 samples and 1 different"),
    ],
)
def test_what_cannot_be_said_is_a_skip(arrays: dict[str, torch.Tensor], reason: str) -> None:
    assert reason in skips(arrays)


def test_unlabelled_rows_stay_out() -> None:
    arrays = labelled([60, 60], [80, 80])
    arrays["labels"][:20] = -1
    found = measured(mode_coverage, arrays)["mode_kl"]
    assert found.evidence["samples"] == 100
    assert found.value == pytest.approx(0.4 * math.log(0.8) + 0.6 * math.log(1.2))
