"""NaN and infinities of a dump: every array is counted, by role, and reported by `non-finite`."""

import math

import pytest
import torch

from collapse_cli.analyzers import catalogue
from collapse_cli.core.metric import Measurement
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump

(NON_FINITE,) = (one for one in catalogue(plugins=False).analyzers if one.name == "non-finite")


def measured(**arrays: torch.Tensor) -> dict[tuple[str, str], Measurement]:
    analysis = analyse_dump(memory_dump(arrays, metadata={}), [NON_FINITE])
    assert not analysis.failures
    return {(one.site, one.metric): one for one in analysis.measurements}


def rows(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_every_array_is_counted_and_the_first_row_is_named() -> None:
    features, sparse = rows(9000, 3), rows(9000, 2)
    features[5000:5010, 1], features[7000, 0] = math.nan, -math.inf
    found = measured(features=features, sparse=sparse)
    nan, inf = found["output/features", "nan_count"], found["output/features", "inf_count"]
    assert (nan.value, inf.value) == (10, 1)
    assert nan.evidence["first"] == [5000]
    assert (nan.evidence["rows"], nan.evidence["of_rows"], nan.evidence["pattern"]) == (11, 9000, "some rows")
    assert found["output/features", "affected_row_share"].value == pytest.approx(11 / 9000)
    assert found["output/sparse", "nan_count"].value == found["output/sparse", "inf_count"].value == 0


def test_a_masked_class_is_no_infinity_and_an_infinite_logit_is_one() -> None:
    logits = rows(300, 4)
    logits[:, 2], logits[7, 0] = -math.inf, math.inf
    found = measured(logits=logits)
    assert found["output/logits", "inf_count"].value == 1
    assert found["output/logits", "inf_count"].evidence["negative"] == 300
    assert found["output/logits", "affected_row_share"].value == pytest.approx(1 / 300)


def test_masked_tokens_may_hold_anything_and_real_ones_may_not() -> None:
    tokens, mask = rows(20, 8, 4), torch.ones(20, 8, dtype=torch.bool)
    tokens[:, 6:], mask[:, 6:] = math.nan, False
    assert measured(tokens=tokens, mask=mask)["output/tokens", "nan_count"].value == 0
    tokens[3, 2, 1] = math.nan
    assert measured(tokens=tokens, mask=mask)["output/tokens", "nan_count"].value == 1
    assert measured(tokens=tokens)["output/tokens", "nan_count"].value == 20 * 2 * 4 + 1


def test_numbers_too_large_for_their_sum_are_finite() -> None:
    assert (
        measured(features=torch.full((4, 3), 1.7e308, dtype=torch.float64))["output/features", "inf_count"].value == 0
    )


def test_generated_and_real_rows_are_counted_each() -> None:
    reference = rows(50, 3)
    reference[4] = math.inf
    found = measured(samples=rows(40, 3), reference=reference)
    assert found["output/samples", "inf_count"].value == 0
    assert found["output/reference", "inf_count"].value == 3
