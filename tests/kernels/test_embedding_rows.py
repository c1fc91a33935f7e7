"""Rows of embedding tables against numpy."""

import numpy as np
import pytest
import torch

from collapse_cli.kernels import embedding_rows
from tests.views import weight


def gaussian(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_byte_equal_rows_are_found_and_rows_of_equal_length_are_not(dtype: torch.dtype) -> None:
    rows = gaussian(100, 8)
    rows[90] = rows[3]
    rows[91] = rows[3]
    rows[50] = rows[7].flip(0)  # the same length, another row
    rows[51] = -rows[8]
    rows[10:13] = 0.0
    rows = rows.to(dtype)
    found = embedding_rows.duplicate_rows(rows, rows.double().norm(dim=1))
    assert found.nonzero().flatten().tolist() == [3, 90, 91]


def test_no_row_repeats_in_a_gaussian_table_or_in_an_empty_one() -> None:
    rows = gaussian(500, 16)
    assert not embedding_rows.duplicate_rows(rows, rows.double().norm(dim=1)).any()
    assert embedding_rows.duplicate_rows(torch.zeros(0, 4), torch.zeros(0)).numel() == 0
    assert not embedding_rows.duplicate_rows(torch.zeros(5, 4), torch.zeros(5)).any()


def test_short_rows_are_six_robust_deviations_below() -> None:
    norms = gaussian(2001, 256).double().norm(dim=1)
    norms[5] *= 0.5
    norms[6] = 0.0
    logs = np.log(np.delete(norms.numpy(), 6))
    middle = np.median(logs)
    spread = 1.4826 * np.median(np.abs(logs - middle))
    expected = int(((logs - middle) / spread < -6).sum())
    found = embedding_rows.undertrained_rows(norms, 256).nonzero().flatten().tolist()
    assert expected == 1
    assert found == [5]


def test_rounding_of_normalised_rows_is_no_outlier() -> None:
    norms = torch.ones(1000, dtype=torch.float64)
    norms[3] -= 1e-3
    assert not embedding_rows.undertrained_rows(norms, 64).any()
    norms[3] = 0.1
    assert embedding_rows.undertrained_rows(norms, 64).nonzero().flatten().tolist() == [3]
    assert not embedding_rows.undertrained_rows(torch.zeros(10), 64).any()


@pytest.mark.parametrize(("rows", "columns"), [(80, 20), (20, 80)])
@pytest.mark.parametrize("left_out", [None, 7])
def test_energies_are_squared_singular_values_of_the_centred_rows(
    rows: int, columns: int, left_out: int | None
) -> None:
    table = gaussian(rows, columns).double() + 2.0
    table[7] *= 10.0
    kept = table.numpy() if left_out is None else np.delete(table.numpy(), left_out, axis=0)
    expected = np.sort(np.linalg.svd(kept - kept.mean(0), compute_uv=False) ** 2)
    found = embedding_rows.table_energies(weight(table), left_out).numpy()
    assert found == pytest.approx(expected, abs=1e-9 * expected[-1])


def test_equal_rows_have_no_energy_at_all() -> None:
    assert not embedding_rows.table_energies(weight(torch.full((80, 20), 0.1))).any()
    assert not embedding_rows.table_energies(weight(torch.full((20, 80), 0.1))).any()
