"""Correlations of pairs of columns against numpy and pandas, with and without masked entries."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from collapse_cli.kernels.accumulators import Batch, LogitColumns
from collapse_cli.kernels.logit_columns import largest_correlation_null
from tests.kernels.merging import assert_is_the_whole


def logits(rows: int = 80, columns: int = 5, *, masked: bool = False) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(rows, columns, generator=generator, dtype=torch.float64) + 100.0
    values[:, 3] += 0.9 * values[:, 1]
    if masked:
        values[torch.rand(rows, columns, generator=generator) < 0.3] = -torch.inf
    return values


def fed(values: torch.Tensor) -> LogitColumns:
    accumulator = LogitColumns()
    accumulator.update(Batch({"router_logits": values}))
    return accumulator


@pytest.mark.parametrize("masked", [False, True])
def test_the_closest_pair_is_that_of_all_rows_in_which_both_are_visible(masked: bool) -> None:
    values = logits(masked=masked)
    kept = values[(values > -torch.inf).sum(1) >= 2].numpy()
    frame = pd.DataFrame(np.where(np.isfinite(kept), kept, np.nan))
    found = fed(values).closest(5)
    assert found is not None
    # pandas takes pairwise complete rows
    expected = frame.corr().to_numpy()
    assert (found.columns, found.pairs) == ((1, 3), 10)
    assert found.correlation == pytest.approx(expected[1, 3], abs=1e-9)
    assert expected[np.triu_indices(5, 1)].max() == pytest.approx(expected[1, 3])
    both = frame[[1, 3]].dropna().to_numpy()
    assert found.rows == len(both)
    lengths = np.linalg.norm(both, axis=0)
    assert found.cosine == pytest.approx(both[:, 0] @ both[:, 1] / lengths.prod(), abs=1e-12)


def readings(accumulator: LogitColumns) -> dict[str, object]:
    found = accumulator.closest(3)
    pair = {} if found is None else {"correlation": found.correlation, "cosine": found.cosine, "rows": found.rows}
    return {"count": accumulator.count, "magnitude": accumulator.magnitude, **pair}


@pytest.mark.parametrize("masked", [False, True])
def test_split_and_merged_it_is_the_whole(masked: bool) -> None:
    assert_is_the_whole(LogitColumns, {"router_logits": logits(masked=masked)}, read=readings)


def test_columns_that_do_not_vary_or_are_never_seen_together_have_no_correlation() -> None:
    assert fed(torch.full((50, 3), 0.1)).closest(2) is None
    assert LogitColumns().closest(2) is None
    apart = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    apart[:25, :2], apart[25:, 2:] = -torch.inf, -torch.inf
    found = fed(apart).closest(2)
    assert found is not None
    assert (found.pairs, found.rows) == (2, 25)
    assert fed(apart).closest(26) is None
    with pytest.raises(ValueError, match="do not merge"):
        LogitColumns().merge(LogitColumns("logits"))


def test_null_is_the_largest_correlation_of_independent_columns() -> None:
    assert largest_correlation_null(64, 4096) == pytest.approx(0.0514, abs=1e-4)
    assert largest_correlation_null(2, 100) == 0.0
    independent = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))
    found = fed(independent).closest(2)
    assert found is not None
    assert found.correlation == pytest.approx(0.0559, abs=8e-3)
    assert math.isclose(found.correlation, np.triu(np.corrcoef(independent.numpy().T), 1).max(), abs_tol=1e-6)
