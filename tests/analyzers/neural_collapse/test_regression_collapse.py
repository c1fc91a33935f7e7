"""Regression features against definitions in numpy, scipy and the closed-form optimum."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.optimize import minimize_scalar
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

from collapse_cli.analyzers.neural_collapse.regression_collapse import collapsed, regression_collapse
from collapse_cli.kernels import regression_geometry
from tests.contract.examples import analysed
from tests.neural_collapse import found, measured


def regression(*, count: int = 300, width: int = 10, offset: float = 0.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = (
        torch.randn(count, 3, generator=generator, dtype=torch.float64)
        @ torch.diag(torch.tensor([2.0, 1, 0.5])).double()
    )
    image = torch.randn(3, width, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, width, generator=generator, dtype=torch.float64)
    head = torch.randn(3, width, generator=generator, dtype=torch.float64)
    return {"features": targets @ image + 0.8 * noise + offset, "targets": targets, "head_weight": head}


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("window", [0, 41])
def test_equals_the_definitions(offset: float, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = regression(offset=offset)
    got = found(measured(regression_collapse, monkeypatch, window=window, **arrays))
    x, y, w = (arrays[name].numpy() for name in ("features", "targets", "head_weight"))
    h = x - x.mean(0)
    h /= np.linalg.norm(h, axis=1, keepdims=True)
    principal = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][:3].T
    rows = np.linalg.qr(w.T)[0]
    near, far = pdist(x), pdist(y)
    ranked = squareform(near) + np.diag(np.full(300, np.inf))
    order = ranked.argsort(1)[:, :5]
    graph = csr_matrix((np.ones(1500), (np.repeat(np.arange(300), 5), order.ravel())), shape=(300, 300))
    gram, root = w @ w.T, np.real(sqrtm(np.cov(y.T)))

    def distance(shift: float) -> float:
        ideal = root - shift * np.eye(3)
        return float(np.linalg.norm(gram / np.linalg.norm(gram) - ideal / np.linalg.norm(ideal)) ** 2)

    top = float(np.linalg.eigvalsh(root)[0])
    correlation = spearmanr(near, far).statistic
    wanted = {
        "nrc1": ((h - h @ principal @ principal.T) ** 2).sum(1).mean(),
        "nrc2": ((h - h @ rows @ rows.T) ** 2).sum(1).mean(),
        "nrc3": min(distance(0.0), minimize_scalar(distance, bounds=(0, top), method="bounded").fun),
        "ordinality": correlation,
        "ordinality_z": correlation * np.sqrt(300),
        "nn_target_gap": squareform(far)[np.arange(300), order[:, 0]].mean() / far.mean(),
        "components": connected_components(graph, directed=False)[0],
    }
    assert {name: one.value for name, one in got.items()} == pytest.approx(wanted, rel=2e-6)


def test_the_regularised_optimum_has_no_third_error() -> None:
    # WWᵀ is proportional to Σ^½ − √γI at the optimum, √γ = √(λ_Wλ_H)
    generator = np.random.default_rng(0)
    root = np.diag([0.5, 0.2, 0.1]) + 0.02
    turned = np.linalg.qr(generator.normal(size=(8, 3)))[0].T
    head = 3.0 * np.real(sqrtm(root - 0.02 * np.eye(3))) @ turned
    got = regression_geometry.gram_distance(torch.tensor(head), torch.tensor(root @ root))
    assert got is not None
    assert got[0] < 1e-10
    assert got[1] == pytest.approx(0.02, abs=1e-5)


def test_a_linear_image_of_the_targets_is_in_order_and_collapsed() -> None:
    targets = torch.randn(250, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(9, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    arrays = {"features": targets @ turn.T, "targets": targets, "head_weight": turn.T.contiguous()}
    got = {name: one.value for name, one in found(measured(regression_collapse, **arrays)).items()}
    assert got["ordinality"] == pytest.approx(1.0, abs=1e-9)
    assert (got["nrc1"], got["nrc2"]) == pytest.approx((0.0, 0.0), abs=1e-20)
    assert got["nn_target_gap"] < 0.3


def test_features_without_targets_are_chance() -> None:
    got = found(analysed(regression_collapse, collapsed()))
    assert abs(got["ordinality_z"].value) < 3
    assert got["nn_target_gap"].value == pytest.approx(1.0, abs=0.15)
    assert got["nrc2"].value == pytest.approx(1 - 3 / 16, abs=0.03)


def test_two_clouds_are_two_components() -> None:
    arrays = regression(count=200)
    arrays["features"][:80] += 1e3
    assert found(measured(regression_collapse, **arrays))["components"].value == 2


def test_one_target_and_many_rows_are_read_from_a_seeded_choice() -> None:
    arrays = regression(count=1600)
    got = found(measured(regression_collapse, features=arrays["features"], targets=arrays["targets"][:, 0].clone()))
    assert got["ordinality"].evidence["compared"] == 1414
    assert set(got) == {"nrc1", "ordinality", "ordinality_z", "nn_target_gap", "components"}


def test_degenerate_dumps_are_skipped() -> None:
    arrays = regression()
    few = measured(regression_collapse, **regression(count=100))
    assert [skip.reason for skip in few.skips] == ["100 rows < 200"]
    for name in ("features", "targets"):
        same = {**arrays, name: torch.full_like(arrays[name], 0.1)}
        assert [s.reason for s in measured(regression_collapse, **same).skips] == ["all rows are equal, or all targets"]
    narrow = measured(regression_collapse, features=arrays["features"][:, :3].clone(), targets=arrays["targets"])
    assert "nrc1, nrc2, nrc3: 3 targets ≥ 3 features" in [skip.reason for skip in narrow.skips]
    zero = measured(regression_collapse, **{**arrays, "head_weight": torch.zeros(3, 10, dtype=torch.float64)})
    assert "nrc2, nrc3: the head is zero" in [skip.reason for skip in zero.skips]
