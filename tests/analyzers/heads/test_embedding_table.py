"""Embedding tables with planted rows and a planted common direction."""

import math

import pytest
import torch
from scipy.stats import spearmanr

from collapse_cli.analyzers.heads.embedding_table import embedding_table
from collapse_cli.core.site import Role
from tests.views import at, block, reasons, values


def gaussian(rows: int = 20000, columns: int = 64) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


def test_gaussian_table_is_healthy() -> None:
    results = list(embedding_table.run(block({Role.EMBEDDING: gaussian()})))
    found = values(results)
    for metric in ("zero_row_share", "duplicate_row_share", "undertrained_row_share", "wasted_dimension_share"):
        assert found[metric] == 0.0, metric
    assert found["table_effective_rank"] == pytest.approx(63.9, abs=0.05)
    anisotropy = at(results)["anisotropy", "model.layers.0.embedding.0"]
    assert abs(anisotropy.value) < 5.0 * anisotropy.evidence["spread"]
    assert reasons(results) == ["norm_count_correlation: token counts missing"]


def test_planted_rows_offset_and_coordinates_are_counted() -> None:
    rows = gaussian() + 0.5
    rows[:2000] *= 1e-3
    rows[3000:3010] = 0.0
    rows[4000:4020] = rows[4000]
    rows[:, 5] *= 0.05
    found = values(embedding_table.run(block({Role.EMBEDDING: rows})))
    assert found["undertrained_row_share"] == pytest.approx(0.1)
    assert found["zero_row_share"] == pytest.approx(10 / 20000)
    assert found["duplicate_row_share"] == pytest.approx(20 / 20000)
    assert found["wasted_dimension_share"] == pytest.approx(1 / 64)
    # a²/(1 + a²)
    assert found["anisotropy"] == pytest.approx(0.2, abs=0.01)


def test_padding_row_and_rows_beyond_the_vocabulary_do_not_count() -> None:
    rows = gaussian(100, 8)
    rows[3] = 0.0
    rows[90:] = 0.0
    found = values(embedding_table.run(block({Role.EMBEDDING: rows}, {"pad_token_id": 3, "vocab_size": 90})))
    assert found["zero_row_share"] == 0.0
    loud = rows.clone()
    loud[3] = 1e4
    facts = {"pad_token_id": 3, "vocab_size": 90}
    assert values(embedding_table.run(block({Role.EMBEDDING: loud}, facts))) == pytest.approx(found, rel=1e-6)
    assert values(embedding_table.run(block({Role.EMBEDDING: rows})))["zero_row_share"] == pytest.approx(0.11)


def test_null_of_the_rank_counts_the_rows_that_are_left() -> None:
    results = at(embedding_table.run(block({Role.EMBEDDING: gaussian(200, 64)})))
    rank = results["table_effective_rank", "model.layers.0.embedding.0"]
    assert rank.null == pytest.approx(64 * math.exp(-64 / 400))
    assert rank.value == pytest.approx(rank.null, rel=0.02)


def test_length_follows_token_counts() -> None:
    rows, counts = gaussian(100, 8), torch.arange(100) % 37
    found = values(embedding_table.run(block({Role.EMBEDDING: rows, Role.CLASS_COUNTS: counts})))
    expected = spearmanr(rows.double().norm(dim=1).numpy(), counts.numpy()).statistic
    assert found["norm_count_correlation"] == pytest.approx(expected, abs=1e-12)


def test_vocabulary_heads_are_tables_and_classifiers_are_not() -> None:
    assert "anisotropy" in values(embedding_table.run(block({Role.HEAD: gaussian(100, 8)})))
    wide = gaussian(100, 200)
    assert reasons(embedding_table.run(block({Role.HEAD: wide}))) == ["not a language-model head"]
    assert "anisotropy" in values(embedding_table.run(block({Role.HEAD: wide}, {"is_language_model": True})))
    assert reasons(embedding_table.run(block({Role.EMBEDDING: gaussian(63, 8)}))) == ["63 rows < 64"]


def test_zero_and_constant_tables_have_defined_answers() -> None:
    zero = list(embedding_table.run(block({Role.EMBEDDING: torch.zeros(100, 8)})))
    assert values(zero)["zero_row_share"] == 1.0
    assert any("0 non-zero rows" in reason for reason in reasons(zero))
    constant = values(embedding_table.run(block({Role.EMBEDDING: torch.full((100, 8), 0.1)})))
    assert constant["duplicate_row_share"] == 1.0
    assert constant["anisotropy"] == pytest.approx(1.0)
    assert constant["table_effective_rank"] == 0.0
