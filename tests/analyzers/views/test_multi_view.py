import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.views.multi_view import collapsed, multi_view
from collapse_cli.core.finding import Severity
from collapse_cli.kernels import view_stack
from tests.contract.examples import judged
from tests.view_dumps import findings, measured, results
from tests.views import reasons


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def related(samples: int, views: int, width: int, noise: float = 0.6) -> torch.Tensor:
    return gaussian(samples, 1, width) + noise * gaussian(samples, views, width, seed=1)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_every_metric_against_its_definition() -> None:
    stack = related(1000, 3, 6) + 0.5
    found = {metric: m.value for metric, m in measured(multi_view, {"views": stack}).items()}
    x, z = stack.numpy(), unit(stack.numpy())
    pairs = [(0, 1), (0, 2), (1, 2)]
    alignment = np.mean([((z[:, i] - z[:, j]) ** 2).sum(1).mean() for i, j in pairs])
    assert found["multi_alignment"] == pytest.approx(alignment, rel=1e-10)
    first, second = np.triu_indices(1000, 1)
    spread = [math.log(np.exp(-2 * ((z[first, v] - z[second, v]) ** 2).sum(1)).mean()) for v in range(3)]
    assert found["view_uniformity"] == pytest.approx(np.mean(spread), abs=1e-10)
    sigma = np.linalg.svd(x.reshape(-1, 6), compute_uv=False)
    shares = sigma / sigma.sum() + 1e-7
    rank = math.exp(-(shares * np.log(shares)).sum())
    assert 0.5 < found["rank_utilisation"] < 1.0
    assert measured(multi_view, {"views": stack})["rank_utilisation"].evidence["rank"] == pytest.approx(rank, rel=1e-8)
    grand = x.reshape(-1, 6).mean(0)
    between = 3 * ((x.mean(1) - grand) ** 2).sum() / ((x - grand) ** 2).sum()
    assert found["between_share"] == pytest.approx(between, rel=1e-10)
    wrong = 0.0
    for v in range(3):
        distances = ((z[:, v][:, None] - z[:, (v + 1) % 3][None]) ** 2).sum(2)
        wrong += (distances < np.diag(distances)[:, None]).sum() / (1000 * 999) / 3
    assert found["misordered_share"] == pytest.approx(wrong, abs=1e-9)


def test_copies_of_white_samples_use_everything() -> None:
    rows = gaussian(1500, 1, 64)
    found = {metric: m.value for metric, m in measured(multi_view, {"views": rows.repeat(1, 4, 1)}).items()}
    assert found["multi_alignment"] == pytest.approx(0.0, abs=1e-12)
    assert found["view_uniformity"] == pytest.approx(-3.8752, abs=5e-3)
    assert found["rank_utilisation"] == pytest.approx(1.0, abs=2e-3)
    assert found["between_share"] == pytest.approx(1.0, abs=1e-12)
    assert found["misordered_share"] == 0.0


def test_unrelated_views_stand_at_the_nulls_and_are_said() -> None:
    stacks = [gaussian(1000, 4, 8, seed=s) for s in range(8)]
    found = [measured(multi_view, {"views": stack}) for stack in stacks]
    shares = [f["between_share"] for f in found]
    assert np.mean([m.value for m in shares]) == pytest.approx(shares[0].null, abs=0.003)
    assert shares[0].null == pytest.approx(0.25, abs=1e-3)
    assert all(abs(f["between_share_z"].value) < 4 for f in found)
    assert all(abs(f["misordered_share_z"].value) < 4 for f in found)
    assert findings(multi_view, {"views": stacks[0]}) == [Severity.WARNING, Severity.WARNING]


def test_standard_errors_are_the_spread_over_draws() -> None:
    draws = [gaussian(200, 3, 5, seed=s) * torch.tensor([4.0, 2.0, 1.0, 1.0, 1.0]) for s in range(80)]
    found = [view_stack.between_share(stack) for stack in draws]
    shares = [f[0] for f in found if f is not None]
    chance, error = view_stack.between_share_null(200, 3, np.mean([f[1] for f in found if f is not None]))
    assert np.mean(shares) == pytest.approx(chance, abs=4 * error / math.sqrt(80))
    assert np.std(shares) == pytest.approx(error, rel=0.3)
    order = [view_stack.misordered_share(torch.tensor(unit(stack.numpy()))) for stack in draws]
    assert np.mean(order) == pytest.approx(0.5, abs=0.02)
    assert np.std(order) < 1.1 / math.sqrt(12 * 200)


def test_one_point_is_found() -> None:
    subject = judged(multi_view, collapsed())
    found = {m.metric: m.value for m in subject.measurements}
    assert found["multi_alignment"] == pytest.approx(0.0, abs=1e-12)
    assert found["view_uniformity"] == pytest.approx(0.0, abs=1e-12)
    assert found["rank_utilisation"] == pytest.approx(1 / 15.98, rel=1e-2)
    assert found["misordered_share"] == 0.5
    assert {f.measurement.metric for f in subject.findings} == {"view_uniformity", "misordered_share_z"}
    assert [s.reason for s in subject.skips] == ["between_share, between_share_z: nothing varies"]


@pytest.mark.parametrize(("rank", "expected"), [(2, [Severity.WARNING]), (6, [Severity.WARNING]), (60, [])])
def test_dimensional_collapse_is_found(rank: int, expected: list[Severity]) -> None:
    stack = related(1000, 2, rank) @ gaussian(rank, 200, seed=3)
    assert findings(multi_view, {"views": stack}) == expected
    assert findings(multi_view, {"view_a": stack[:, 0], "view_b": stack[:, 1]}) == expected


@pytest.mark.parametrize("width", [8, 200])
def test_views_of_gaussian_samples_are_silent(width: int) -> None:
    assert findings(multi_view, {"views": related(1000, 3, width, noise=1.5).float()}) == []


def test_edges_are_said() -> None:
    assert reasons(results(multi_view, {"views": gaussian(999, 2, 4)})) == ["finite rows 999 < 1,000"]
    assert reasons(results(multi_view, {"views": gaussian(1000, 1, 4)}))[0].startswith("nothing to accept")
    mixed = {"view_a": gaussian(1000, 4), "view_b": gaussian(1000, 3)}
    assert reasons(results(multi_view, mixed)) == ["views of widths 4 and 3"]
    found = measured(multi_view, {"views": torch.zeros(1000, 2, 4)})
    assert found["view_uniformity"].value == found["rank_utilisation"].value == 0.0
    one = measured(multi_view, {"views": related(1000, 2, 1)})
    assert one["rank_utilisation"].value == pytest.approx(1.0, rel=1e-3)
