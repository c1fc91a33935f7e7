import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.views.cross_correlation import collapsed, cross_correlation
from collapse_cli.core.finding import Severity
from tests.contract.examples import judged
from tests.view_dumps import findings, measured, results
from tests.views import reasons


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def test_the_loss_matrix_of_barlow_twins() -> None:
    """BatchNorm1d(affine=False) of each view in training mode, then c = z_aᵀz_b/N, as the official code has it."""
    a = gaussian(300, 10) @ gaussian(10, 10, seed=2) * 0.3 + 7.0
    b = a + 0.4 * gaussian(300, 10, seed=1)
    bn = torch.nn.BatchNorm1d(10, affine=False, dtype=torch.float64)
    c = bn(a).T @ bn(b) / 300
    off = (c.square().sum() - c.diagonal().square().sum()).item()
    found = measured(cross_correlation, {"view_a": a, "view_b": b})
    assert found["mean_diagonal"].value == pytest.approx(c.diagonal().mean().item(), rel=1e-10)
    assert found["barlow_loss"].value == pytest.approx(
        (c.diagonal() - 1).square().sum().item() + 0.0051 * off, rel=1e-10
    )
    assert found["off_diagonal_excess"].value == pytest.approx(off / 90 - 1 / 299, rel=1e-9)
    assert found["mean_diagonal_z"].value == pytest.approx(c.diagonal().mean().item() * math.sqrt(3000), rel=1e-10)
    assert found["dead_dims"].value == 0.0


def test_identical_white_views_have_a_diagonal_of_99999() -> None:
    rows = gaussian(2000, 6)
    found = measured(cross_correlation, {"view_a": rows, "view_b": rows})
    variance = rows.numpy().var(0)
    assert found["mean_diagonal"].value == pytest.approx((variance / (variance + 1e-5)).mean(), abs=1e-12)
    assert found["mean_diagonal"].value == pytest.approx(0.99999, abs=1e-6)


def test_independent_views_stand_at_the_nulls() -> None:
    found = [
        measured(cross_correlation, {"view_a": gaussian(256, 24, seed=s), "view_b": gaussian(256, 24, seed=50 + s)})
        for s in range(30)
    ]
    assert np.mean([f["off_diagonal_excess"].value for f in found]) == pytest.approx(0.0, abs=1e-4)
    assert np.std([f["mean_diagonal_z"].value for f in found]) == pytest.approx(1.0, abs=0.35)
    assert np.mean([f["barlow_loss"].value for f in found]) == pytest.approx(found[0]["barlow_loss"].null, rel=0.02)


def test_rank_one_views_repeat_one_dimension() -> None:
    line = gaussian(500, 1) * (1.0 + gaussian(1, 12).abs())
    found = measured(cross_correlation, {"view_a": line, "view_b": line})["off_diagonal_excess"]
    assert found.value == pytest.approx(1 - 1 / 499, abs=1e-4)
    assert found.evidence["directions"] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("rank", "expected"), [(1, [Severity.ERROR]), (2, []), (8, []), (32, [])])
def test_dimensional_collapse_is_found_and_low_rank_is_not(rank: int, expected: list[Severity]) -> None:
    rows = gaussian(512, rank) @ gaussian(rank, 64, seed=1)
    views = {"view_a": rows, "view_b": rows + 0.05 * gaussian(512, 64, seed=2)}
    assert findings(cross_correlation, views) == expected


def test_complete_collapse_and_redundancy() -> None:
    subject = judged(cross_correlation, collapsed())
    found = {(m.site, m.metric): m.value for m in subject.measurements}
    assert found["projector", "dead_dims"] == 1.0
    assert found["projector", "mean_diagonal"] == 0.0
    assert [(f.severity, f.measurement.site) for f in subject.findings] == [
        (Severity.ERROR, "backbone"),
        (Severity.WARNING, "projector"),
    ]
    assert [s.reason for s in subject.skips] == ["mean_diagonal_z: every dimension is dead"]


def test_rows_in_another_order_are_unrelated_views() -> None:
    rows = gaussian(400, 16)
    assert findings(cross_correlation, {"view_a": rows, "view_b": rows.flip(0)}) == [Severity.WARNING]


@pytest.mark.parametrize(("rows", "width"), [(16, 8), (64, 2048), (1000, 8)])
def test_views_of_gaussian_rows_are_silent(rows: int, width: int) -> None:
    clean = gaussian(rows, width)
    for scale in (1.0, 1e-3):
        views = {"view_a": scale * clean, "view_b": scale * (clean + gaussian(rows, width, seed=4))}
        assert all(finding != Severity.ERROR for finding in findings(cross_correlation, views))
        if scale == 1.0:
            assert findings(cross_correlation, views) == []


def test_edges_are_said() -> None:
    pair = {"view_a": gaussian(20, 1), "view_b": gaussian(20, 1)}
    assert reasons(results(cross_correlation, pair)) == ["off_diagonal_excess: one dimension"]
    assert reasons(results(cross_correlation, {k: v[:15] for k, v in pair.items()})) == ["finite rows 15 < 16"]
    mixed = {"view_a": gaussian(20, 4), "view_b": gaussian(20, 3)}
    assert reasons(results(cross_correlation, mixed)) == ["views of widths 4 and 3"]
    assert measured(cross_correlation, pair)["mean_diagonal"].evidence["few_rows"] is False
    assert reasons(results(cross_correlation, {"features": gaussian(20, 4)}))[0].startswith("nothing to accept")


def test_a_stack_of_views_and_batches_give_the_same() -> None:
    stack = gaussian(5000, 3, 4) + 3.0 * gaussian(5000, 1, 4, seed=1) + 100.0
    found = measured(cross_correlation, {"views": stack})
    a, b = stack[:, 0].numpy(), stack[:, 1].numpy()
    expected = np.mean([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(4)])
    assert found["mean_diagonal"].value == pytest.approx(expected, rel=1e-5)
