"""Gaussian features are not collapsed, whatever their number and width; constant, rank-one and two-point ones are."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from collapse_cli.core.policy import INTENTS, Policy
from collapse_cli.core.report import Subject
from collapse_cli.runs import ScanOptions, scan


def scanned(folder: Path, *, intent: str | None = None, **arrays: torch.Tensor) -> Subject:
    save_file({name: array.contiguous() for name, array in arrays.items()}, folder / "dump.safetensors")
    (subject,) = scan([folder / "dump.safetensors"], Policy(intent=intent), ScanOptions(device="cpu")).subjects
    assert not subject.failures
    return subject


def errors(subject: Subject) -> set[str]:
    return {finding.measurement.rule for finding in subject.findings if finding.severity == "error"}


@pytest.mark.parametrize(("rows", "width"), [(12, 8), (200, 64), (1200, 128), (300, 512), (2500, 16), (64, 2048)])
@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_gaussian_features_give_no_finding(rows: int, width: int, offset: float, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(rows + width)
    features = torch.randn(rows, width, generator=generator) + offset * torch.randn(width, generator=generator) / 9
    for intent in (None, *INTENTS):
        subject = scanned(tmp_path, intent=intent, features=features)
        assert [(f.severity, f.measurement.rule, f.message) for f in subject.findings] == []
        assert subject.status == "complete"


def test_constant_rows_are_an_error(tmp_path: Path) -> None:
    row = torch.randn(64, generator=torch.Generator().manual_seed(0))
    assert "constant-features/spread_over_rounding" in errors(scanned(tmp_path, features=row.expand(500, 64)))


def test_rank_one_rows_are_an_error(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(500, 1, generator=generator) * torch.randn(64, generator=generator)
    found = errors(scanned(tmp_path, features=rows.bfloat16()))
    assert "effective-rank-features/rank_one_over_rounding" in found


def test_two_points_are_found_for_a_representation_and_their_merged_classes_for_a_classifier(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(1000) % 4
    centres = torch.randn(2, 64, generator=generator)[labels % 2]
    rows = centres + 1e-3 * torch.randn(1000, 64, generator=generator)
    assert "rankme/rankme_share" in errors(scanned(tmp_path, intent="representation", features=rows))
    judged = scanned(tmp_path, intent="classifier", features=rows, labels=labels)
    assert "variability/merged_classes" in errors(judged)
