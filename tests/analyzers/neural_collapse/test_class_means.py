"""Geometry of class means against its definitions over all rows, and closed forms."""

import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.neural_collapse.class_means import class_means
from collapse_cli.kernels import class_pairs, neural_collapse
from tests.neural_collapse import CASES, as_numpy, centred, found, log_kernel, measured, rows_of, structure_error
from tests.neural_collapse import class_means as dense_means


@pytest.mark.parametrize("window", [0, 37])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_dense_definitions(case: str, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows_of(case)
    got = found(measured(class_means, monkeypatch, window=window, features=x, labels=y))
    means = dense_means(*as_numpy(x, y, rows=5))
    m, many = centred(means), len(means)
    lengths = np.linalg.norm(m, axis=1)
    cosines = (m @ m.T / np.outer(lengths, lengths))[~np.eye(many, dtype=bool)]
    log_mean, log_var = log_kernel(means)
    wanted = {
        "equinorm_cov": lengths.std(ddof=1) / lengths.mean(),
        "equiangularity": np.abs(cosines + 1 / (many - 1)).mean(),
        "etf_error": structure_error(m, m),
        "class_mean_rank": np.trace(m @ m.T) ** 2 / ((m @ m.T) ** 2).sum(),
        "gnc2_log_mean": log_mean,
        "gnc2_log_var": log_var,
    }
    assert {name: one.value for name, one in got.items()} == pytest.approx(wanted, rel=1e-9)


def test_the_error_keeps_its_digits_next_to_the_simplex() -> None:
    noise = np.random.default_rng(0).normal(size=(6, 6))
    means = np.eye(6) + 1e-6 * noise
    m = centred(means)
    got = neural_collapse.simplex_distance(torch.tensor(means))
    assert got == pytest.approx(structure_error(m, m), rel=1e-8)
    assert 1e-7 < got < 1e-5


def of_means(means: torch.Tensor, *, rows: int = 10) -> dict[str, float]:
    labels = torch.arange(len(means) * rows) % len(means)
    return {
        name: one.value for name, one in found(measured(class_means, features=means[labels], labels=labels)).items()
    }


def test_closed_forms_of_the_simplex() -> None:
    simplex = torch.nn.functional.pad(torch.eye(4, dtype=torch.float64) - 0.25, (0, 4)) + 2.0
    wanted = {
        "equinorm_cov": 0.0,
        "equiangularity": 0.0,
        "etf_error": 0.0,
        "class_mean_rank": 3.0,
        "gnc2_log_mean": -0.5 * math.log(8 / 3),
        "gnc2_log_var": 0.0,
    }
    assert of_means(simplex) == pytest.approx(wanted, abs=1e-12)


def test_a_merged_pair_of_four() -> None:
    means = torch.eye(4, dtype=torch.float64)
    means[3] = means[2]
    means[3, 3] = 1e-5
    got = of_means(means)
    assert got["etf_error"] == pytest.approx(0.6314, abs=5e-5)
    assert got["class_mean_rank"] == pytest.approx(1.923, abs=5e-4)
    assert got["gnc2_log_var"] > 1.0


def test_more_classes_than_a_simplex_has_room_for() -> None:
    x, y = rows_of("more_classes_than_width")
    error = found(measured(class_means, features=x, labels=y))["etf_error"]
    floor = math.sqrt(2 - 2 * math.sqrt(5 / 13))
    assert error.evidence["floor"] == pytest.approx(floor, rel=1e-12)
    assert error.value > floor


def test_random_means_meet_the_nulls() -> None:
    many, width = 60, 64
    generator = torch.Generator().manual_seed(0)
    runs = []
    for _ in range(6):
        means = torch.randn(many, width, generator=generator, dtype=torch.float64)
        labels = torch.arange(5 * many) % many
        runs.append(found(measured(class_means, features=means[labels], labels=labels)))
    # equinorm_cov of 60 lengths is itself uncertain by 9 %, of the mean of six draws by 4 %
    tolerances = {"equinorm_cov": 0.15, "equiangularity": 0.05, "etf_error": 0.02, "class_mean_rank": 0.02}
    tolerances |= {"gnc2_log_mean": 0.01, "gnc2_log_var": 0.15}
    for name, tolerance in tolerances.items():
        mean = sum(run[name].value for run in runs) / 6
        assert mean == pytest.approx(runs[0][name].null, rel=tolerance), name


def test_degenerate_means_are_skipped_or_counted() -> None:
    labels = torch.arange(90) % 3
    equal = measured(class_means, features=torch.full((90, 4), 0.1, dtype=torch.float64), labels=labels)
    assert [skip.reason for skip in equal.skips] == ["all class means are equal"]
    two = measured(class_means, features=torch.randn(90, 4), labels=labels % 2)
    assert [skip.reason for skip in two.skips] == ["2 classes with 5 rows < 3"]
    copies = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-2.0, 0.0]], dtype=torch.float64)
    got = found(measured(class_means, features=copies[labels], labels=labels))
    assert got["gnc2_log_mean"].evidence["coincident"] == 1
    assert got["gnc2_log_mean"].value == pytest.approx(-math.log(2.0), rel=1e-12)
    one_column = found(measured(class_means, features=labels[:, None].float(), labels=labels))
    assert one_column["class_mean_rank"].value == pytest.approx(1.0, rel=1e-12)
    assert one_column["gnc2_log_mean"].evidence["central"] == 1


def test_pairs_of_very_many_classes_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows_of("balanced")
    whole = found(measured(class_means, features=x, labels=y))
    monkeypatch.setattr(class_pairs, "_ALL_PAIRS", 3)
    monkeypatch.setattr(class_pairs, "_DRAWN_PAIRS", 8192)
    drawn = found(measured(class_means, features=x, labels=y))
    for name in ("equiangularity", "gnc2_log_mean", "gnc2_log_var"):
        assert drawn[name].value == pytest.approx(whole[name].value, rel=0.06)
