"""Minority collapse on the closed form of one bias-free linear layer (Dang et al. 2023)."""

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.heads.minority_collapse import minority_collapse
from collapse_cli.core.site import Role
from tests.views import at, block, reasons, values

COUNTS = (400, 200, 100, 50, 10, 4)


def closed_form() -> torch.Tensor:
    """‖w_k‖² = √(n_k·λ_H/λ_W) − Nλ_H on orthogonal directions, λ_W = λ_H = 3e-3, N = 764."""
    lengths = np.sqrt(np.maximum(np.sqrt(np.array(COUNTS, dtype=float)) - sum(COUNTS) * 3e-3, 0.0))
    return torch.diag(torch.tensor(lengths)) @ torch.eye(6, 20, dtype=torch.float64)


def test_lengths_of_the_closed_form_give_its_critical_count() -> None:
    view = block({Role.HEAD: closed_form(), Role.CLASS_COUNTS: torch.tensor(COUNTS)})
    results = list(minority_collapse.run(view))
    found = values(results)
    assert found["vanished_row_share"] == pytest.approx(1 / 6)
    assert found["frame_fit"] == pytest.approx(1.0, abs=1e-12)
    # N²λ_Wλ_H
    assert found["critical_count"] == pytest.approx((764 * 3e-3) ** 2, rel=1e-9)
    assert found["minority_cosine"] == pytest.approx(0.0, abs=1e-12)
    assert found["merged_row_share"] == 0.0
    vanished = at(results)["vanished_row_share", "model.layers.0"]
    assert (vanished.evidence["first"], vanished.evidence["vanished"]) == (5, 1)


def test_simplex_is_healthy_and_its_null_needs_a_bias() -> None:
    rows = torch.eye(10, dtype=torch.float64) - 0.1
    members = {Role.HEAD: rows, Role.CLASS_COUNTS: torch.arange(10) + 1, Role.HEAD_BIAS: torch.zeros(10)}
    results = at(minority_collapse.run(block(members)))
    minority = results["minority_cosine", "model.layers.0"]
    assert (minority.value, minority.null) == (pytest.approx(-1 / 9), pytest.approx(-1 / 9))
    assert results["cosine_gap", "model.layers.0"].value == pytest.approx(0.0, abs=1e-12)
    assert results["merged_row_share", "model.layers.0"].value == 0.0
    assert results["vanished_row_share", "model.layers.0"].value == 0.0


def test_rarer_half_on_one_direction_is_seen_wherever_it_stands() -> None:
    rows = torch.eye(8, 12, dtype=torch.float64)
    rare = [1, 3, 4, 6]
    rows[rare] = 2.0 * rows[1]
    counts = torch.full((8,), 1000)
    counts[rare] = torch.tensor([5, 6, 7, 8])
    found = values(minority_collapse.run(block({Role.HEAD: rows, Role.CLASS_COUNTS: counts})))
    assert found["minority_cosine"] == pytest.approx(1.0)
    assert found["cosine_gap"] == pytest.approx(1.0)
    assert found["merged_row_share"] == 0.5


def test_merged_rows_name_a_pair_of_the_whole_head() -> None:
    rows = torch.eye(8, 12)
    rows[0] = 0.0
    rows[6] = 3.0 * rows[2]
    merged = at(minority_collapse.run(block({Role.HEAD: rows})))["merged_row_share", "model.layers.0"]
    assert merged.value == 0.25
    assert sorted(merged.evidence["closest"]) == [2, 6]


def test_merging_begins_at_a_cosine_of_0_99() -> None:
    for cosine, share in ((0.9905, 0.5), (0.9895, 0.0)):
        rows = torch.eye(4, dtype=torch.float64)
        rows[1] = cosine * rows[0] + (1 - cosine**2) ** 0.5 * rows[1]
        assert values(minority_collapse.run(block({Role.HEAD: rows})))["merged_row_share"] == share


def test_total_collapse_is_reported_not_divided_by() -> None:
    members = {Role.HEAD: torch.zeros(6, 20), Role.CLASS_COUNTS: torch.tensor(COUNTS)}
    results = list(minority_collapse.run(block(members)))
    assert values(results) == {"vanished_row_share": 1.0, "merged_row_share": 0.0}
    assert at(results)["vanished_row_share", "model.layers.0"].evidence["total_collapse"] is True


def test_what_it_is_not_for_is_skipped() -> None:
    assert reasons(minority_collapse.run(block({Role.HEAD: torch.eye(3)}))) == ["3 classes < 4"]
    vocabulary = block({Role.HEAD: torch.ones(4097, 2)}, {"is_language_model": True})
    assert reasons(minority_collapse.run(vocabulary)) == ["vocabulary head: see embedding-table"]
    missing = reasons(minority_collapse.run(block({Role.HEAD: torch.eye(6)})))
    assert missing == ["minority_cosine, cosine_gap, frame_fit, critical_count: class counts missing"]
    deep = block({Role.HEAD: (torch.eye(6), closed_form()[:, :6].float()), Role.CLASS_COUNTS: torch.tensor(COUNTS)})
    assert any("one layer" in reason for reason in reasons(minority_collapse.run(deep)))
