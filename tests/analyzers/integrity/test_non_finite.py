import math

import pytest
import torch

from collapse_cli.analyzers.integrity.non_finite import collapsed, healthy, non_finite
from collapse_cli.core.site import Role
from tests.views import at, reasons, stored, values

NAME = "encoder.layer.0.output.dense.weight"


def test_examples_of_the_catalogue() -> None:
    assert values(non_finite.run(stored(healthy().tensors[NAME]))) == {
        "nan_count": 0,
        "inf_count": 0,
        "affected_row_share": 0,
    }
    found = at(non_finite.run(stored(collapsed().tensors[NAME])))
    assert [found[metric, "w"].value for metric in ("nan_count", "inf_count", "affected_row_share")] == [1, 1, 0.5]
    assert found["nan_count", "w"].evidence["first"] == [1, 2]
    assert found["nan_count", "w"].evidence["pattern"] == "scattered"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_counts_are_those_of_torch(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    tensor = torch.randn(700, 900, generator=generator).to(dtype)
    tensor[torch.rand(700, 900, generator=generator) < 1e-4] = math.nan
    tensor[torch.rand(700, 900, generator=generator) < 1e-4] = -math.inf
    found = values(non_finite.run(stored(tensor)))
    assert found["nan_count"] == int(torch.isnan(tensor).sum()) > 0
    assert found["inf_count"] == int(torch.isinf(tensor).sum()) > 0
    assert found["affected_row_share"] == float((~torch.isfinite(tensor)).any(1).double().mean())


def test_minus_infinity_of_a_mask_is_evidence_only() -> None:
    mask = torch.full((8, 8), -math.inf).triu(1)
    found = at(non_finite.run(stored(mask, role=Role.MASK)))
    assert found["inf_count", "w"].value == 0
    assert found["inf_count", "w"].evidence["masked"] == 28
    assert found["affected_row_share", "w"].value == 0
    assert values(non_finite.run(stored(mask)))["inf_count"] == 28


def test_a_vector_is_counted_by_entry_and_a_scalar_as_one() -> None:
    assert values(non_finite.run(stored(torch.tensor([1.0, math.nan, 2.0, 3.0]))))["affected_row_share"] == 0.25
    assert values(non_finite.run(stored(torch.tensor(math.inf)))) == {
        "nan_count": 0,
        "inf_count": 1,
        "affected_row_share": 1,
    }


def test_what_is_not_read_is_skipped() -> None:
    assert reasons(non_finite.run(stored(torch.zeros(0, 3)))) == ["empty tensor"]
    packed = torch.zeros(4, 4, dtype=torch.uint8)
    assert reasons(non_finite.run(stored(packed, dtype="F4"))) == ["F4 holds finite numbers only"]
