"""Head geometry on frames whose angles are known."""

import math

import pytest
import torch
from scipy.stats import spearmanr

from collapse_cli.analyzers.heads.head_geometry import head_geometry
from collapse_cli.core.site import Role
from tests.views import at, block, reasons, values


def gaussian(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def simplex() -> torch.Tensor:
    basis = torch.linalg.qr(gaussian(64, 10)).Q
    return (torch.eye(10, dtype=torch.float64) - 0.1) @ basis.T


def test_simplex() -> None:
    results = list(head_geometry.run(block({Role.HEAD: simplex()})))
    found = values(results)
    for metric in ("etf_error", "equinorm_cv", "equiangularity", "centring"):
        assert found[metric] == pytest.approx(0.0, abs=1e-13), metric
    assert found["coherence"] == pytest.approx(1 / 9, abs=1e-13)
    assert found["mean_cosine"] == pytest.approx(-1 / 9, abs=1e-13)
    coherence = at(results)["coherence", "model.layers.0"]
    assert coherence.evidence["design"] == "simplex"
    assert reasons(results) == ["norm_count_correlation: class counts missing"]


def test_ten_copies_of_a_row_look_well_to_the_centred_error_alone() -> None:
    rows = gaussian(1, 64) + 1e-3 * gaussian(11, 64)[1:]
    found = values(head_geometry.run(block({Role.HEAD: rows})))
    assert found["mean_cosine"] == pytest.approx(0.999999, abs=1e-6)
    assert found["centring"] == pytest.approx(0.999999, abs=1e-6)
    assert found["equiangularity"] == pytest.approx(1.1111, abs=1e-4)
    assert found["etf_error"] == pytest.approx(0.33, abs=0.05)


def test_gaussian_rows_meet_their_nulls() -> None:
    results = at(head_geometry.run(block({Role.HEAD: gaussian(200, 128)})))
    measured = {metric: measurement for (metric, _), measurement in results.items()}
    for metric in ("etf_error", "equinorm_cv", "equiangularity", "coherence"):
        assert measured[metric].value == pytest.approx(measured[metric].null, rel=0.15), metric
    assert measured["mean_cosine"].value == pytest.approx(0.0, abs=0.01)
    assert measured["centring"].value == pytest.approx(1 / math.sqrt(200), rel=0.15)


def test_length_follows_class_counts() -> None:
    rows = gaussian(12, 30)
    counts = torch.tensor([5, 1, 9, 9, 3, 2, 8, 100, 40, 7, 6, 4])
    found = values(head_geometry.run(block({Role.HEAD: rows, Role.CLASS_COUNTS: counts})))
    expected = spearmanr(rows.norm(dim=1).numpy(), counts.numpy()).statistic
    assert found["norm_count_correlation"] == pytest.approx(expected, abs=1e-12)


def test_too_few_classes_are_a_skip() -> None:
    assert reasons(head_geometry.run(block({Role.HEAD: gaussian(2, 8)}))) == ["2 non-zero class vectors < 3"]
    assert reasons(head_geometry.run(block({Role.HEAD: torch.zeros(10, 8)}))) == ["0 non-zero class vectors < 3"]
    assert "do not follow" in reasons(head_geometry.run(block({Role.HEAD: (gaussian(3, 4), gaussian(3, 5))})))[0]


def test_vocabulary_rows_beyond_the_limit_are_sampled_and_said_so() -> None:
    results = list(head_geometry.run(block({Role.HEAD: gaussian(8193, 4)}, {"is_language_model": True})))
    assert any(reason.startswith("coherence: 8193 rows") for reason in reasons(results))
    assert "coherence" not in values(results)
    assert at(results)["equiangularity", "model.layers.0"].evidence["rows_compared"] == 2048
