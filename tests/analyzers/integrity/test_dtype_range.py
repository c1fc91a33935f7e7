import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzer import Example
from collapse_cli.analyzers.integrity.dtype_range import dtype_range
from collapse_cli.core.finding import Severity
from collapse_cli.core.site import Role
from collapse_cli.kernels.views import Stored
from tests.contract.examples import judged
from tests.views import at, reasons, stored, values

NAME = "encoder.layer.0.output.dense.weight"


def draw(scale: float, *shape: int) -> torch.Tensor:
    return torch.tensor(scale * np.random.default_rng(0).standard_normal(shape or (1000, 1000)))


@pytest.mark.parametrize(
    ("scale", "subnormal", "underflow"), [(0.02, 2.43e-3, 1.2e-6), (1e-6, 0.97622, 0.02378)], ids=["healthy", "tiny"]
)
def test_fp16_of_the_catalogue(scale: float, subnormal: float, underflow: float) -> None:
    found = at(dtype_range.run(stored(draw(scale).half())))
    low, zero = found["subnormal_share", "w"], found["underflow_share", "w"]
    assert low.null == pytest.approx(subnormal, rel=2e-3)
    assert zero.null == pytest.approx(underflow, rel=2e-2)
    for measured, expected in ((low, subnormal), (zero, underflow)):
        # three standard errors of a count among 10⁶
        assert measured.value == pytest.approx(expected, abs=3 * math.sqrt(expected / 1e6) + 0.02 * expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_counts_are_those_of_the_decoded_numbers(dtype: torch.dtype) -> None:
    tensor = draw(3e-3).to(dtype)
    numbers = np.abs(tensor.double().numpy())
    found = values(dtype_range.run(stored(tensor)))
    tiny = torch.finfo(dtype).tiny
    assert found["subnormal_share"] == ((numbers > 0) & (numbers < tiny)).mean()
    assert found["underflow_share"] == (numbers == 0).mean()
    assert found["headroom_bits"] == pytest.approx(math.log2(torch.finfo(dtype).max / numbers.max()), rel=1e-12)


def test_clipped_entries_are_a_warning() -> None:
    tensor = draw(100.0, 64, 64).clamp(-448, 448).to(torch.float8_e4m3fn)
    tensor[0, :5] = 448.0
    found = at(dtype_range.run(stored(tensor)))["saturated_share", "w"]
    assert found.value == (tensor.float().abs() == 448).double().mean()
    finding = judged(dtype_range, Example({NAME: tensor})).findings[0]
    assert finding.severity is Severity.WARNING
    assert "448" in finding.message


def test_the_maximum_of_a_scaled_block_is_by_construction() -> None:
    tensor = (draw(1.0, 128, 128) / draw(1.0, 128, 128).abs().max() * 448).to(torch.float8_e4m3fn)
    site = stored(tensor).site
    scaled = list(dtype_range.run(Stored(site, tensor, scale_block=128 * 128)))
    assert set(values(scaled)) == {"mantissa_bits", "subnormal_share", "underflow_share"}
    assert "one entry in 16384" in reasons(scaled)[0]
    scale = {"model.layers.0.mlp.up_proj.weight_scale_inv": torch.ones(1, 1)}
    subject = judged(dtype_range, Example({"model.layers.0.mlp.up_proj.weight": tensor, **scale}))
    assert not subject.findings
    assert "one entry in 16384" in " ".join(skip.reason for skip in subject.skips)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("share", [0.005, 0.5, 0.95])
def test_zeros_that_rounding_does_not_explain_are_no_underflow(dtype: torch.dtype, share: float) -> None:
    tensor = draw(0.02, 200, 200)
    tensor[torch.tensor(np.random.default_rng(1).random((200, 200)) < share)] = 0.0
    found = at(dtype_range.run(stored(tensor.to(dtype))))["underflow_share", "w"]
    if dtype is not torch.float16 or share > 0.1:
        assert found.value == 0.0
        assert found.evidence["is_pattern"]
        assert found.evidence["zeros"] > 0
    assert not judged(dtype_range, Example({NAME: tensor.to(dtype)})).findings


def test_a_flushed_matrix_is_an_error() -> None:
    tensor = draw(1e-8, 200, 200).half()
    worst = judged(dtype_range, Example({NAME: tensor})).findings[0]
    assert worst.severity is Severity.ERROR
    assert worst.measurement.metric == "underflow_share"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_vectors_of_zeros_and_healthy_matrices_are_silent(dtype: torch.dtype) -> None:
    tensors = {
        NAME: draw(0.02, 64, 64).to(dtype),
        "encoder.layer.0.output.dense.bias": torch.zeros(512, dtype=dtype),
        "encoder.layer.0.attention.self.key.bias": draw(1e-7, 512).to(dtype),
        "encoder.layer.0.output.LayerNorm.weight": torch.ones(512, dtype=dtype),
        "embeddings.word_embeddings.weight": torch.cat([torch.zeros(40, 64), draw(0.05, 24, 64)]).to(dtype),
    }
    assert not judged(dtype_range, Example(tensors)).findings


def test_masks_are_skipped_by_role_and_by_content() -> None:
    mask = torch.full((32, 32), torch.finfo(torch.float32).min).triu(1)
    assert reasons(dtype_range.run(stored(mask))) == ["a mask: nothing but zeros and the largest number"]
    assert "a mask or buffer" in reasons(dtype_range.run(stored(torch.ones(32, 32), role=Role.MASK)))[0]


def test_bf16_upcast_to_fp32_shows_seven_bits() -> None:
    tensor = draw(0.02, 64, 64).bfloat16().float()
    found = at(dtype_range.run(stored(tensor)))["mantissa_bits", "w"]
    assert (found.value, found.null) == (7, 23)


def test_what_is_not_finite_is_left_out() -> None:
    tensor = draw(0.02, 64, 64).half()
    tensor[0] = math.nan
    tensor[1] = math.inf
    found = at(dtype_range.run(stored(tensor)))["headroom_bits", "w"]
    assert found.evidence["entries"] == 62 * 64
    assert found.value == pytest.approx(math.log2(65504 / float(tensor[2:].abs().max())))
    assert reasons(dtype_range.run(stored(torch.full((32, 32), math.nan)))) == ["not finite"]


def test_one_doubling_from_overflow_is_a_warning() -> None:
    tensor = draw(0.02, 64, 64).half()
    tensor[3, 3] = 40_000
    findings = judged(dtype_range, Example({NAME: tensor})).findings
    assert [finding.measurement.metric for finding in findings] == ["headroom_bits"]
    assert "{" not in findings[0].message
