import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.views.predictor_alignment import collapsed, predictor_alignment
from collapse_cli.core.finding import Severity
from collapse_cli.kernels.predictor import small_eigenvalue_null
from tests.contract.examples import judged
from tests.view_dumps import findings, measured, results
from tests.views import reasons


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def graded(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    """λ = 1/i."""
    return gaussian(rows, width, seed=seed) / torch.arange(1, width + 1).double().sqrt()


def root(features: torch.Tensor) -> torch.Tensor:
    values, vectors = np.linalg.eigh((features.T @ features / len(features)).numpy())
    return torch.tensor(vectors * np.sqrt(values.clip(0)) @ vectors.T)


def test_every_metric_against_its_definition() -> None:
    x, w = graded(400, 12) + 0.2, gaussian(12, 12, seed=1) + 2 * torch.eye(12)
    found = {k: m.value for k, m in measured(predictor_alignment, {"features": x, "head_weight": w}).items()}
    f, p = (x.T @ x / 400).numpy(), w.numpy()
    values, vectors = np.linalg.eigh(f)
    images = [p @ vectors[:, j] for j in range(12)]
    cosines = np.array([abs(vectors[:, j] @ y) / np.linalg.norm(y) for j, y in enumerate(images)])
    assert found["eigen_alignment"] == pytest.approx((values * cosines).sum() / values.sum(), rel=1e-9)
    norm = np.linalg.norm
    assert found["commutator"] == pytest.approx(norm(f @ p - p @ f) / norm(f) / norm(p), rel=1e-9)
    assert found["asymmetry"] == pytest.approx(norm(p - p.T) / norm(p), rel=1e-9)
    along = [vectors[:, j] @ y for j, y in enumerate(images)]
    assert found["spectrum_match"] == pytest.approx(np.corrcoef(along, np.sqrt(values))[0, 1], rel=1e-9)


def test_small_eigenvalues_are_counted_against_the_largest() -> None:
    x = gaussian(500, 8) * torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.02, 0.02, 0.02])
    found = measured(predictor_alignment, {"features": x, "head_weight": torch.eye(8)})
    assert found["small_eigen_share"].value == 3 / 8


def test_random_predictors_stand_at_the_nulls() -> None:
    features = graded(5000, 64)
    found = [
        measured(predictor_alignment, {"features": features, "head_weight": gaussian(64, 64, seed=s + 1)})
        for s in range(24)
    ]
    for metric, tolerance in (("eigen_alignment", 0.09), ("commutator", 0.03), ("asymmetry", 0.01)):
        mean = np.mean([f[metric].value for f in found])
        assert mean == pytest.approx(found[0][metric].null, rel=tolerance), metric
    assert found[0]["eigen_alignment"].null == pytest.approx(0.0997, abs=5e-5)
    assert found[0]["commutator"].null == pytest.approx(0.1565, abs=2e-3)
    assert np.std([f["eigen_alignment_z"].value for f in found]) == pytest.approx(1.0, abs=0.4)
    assert np.mean([f["spectrum_match"].value for f in found]) == pytest.approx(0.0, abs=3 / math.sqrt(64 * 24))
    assert findings(predictor_alignment, {"features": features, "head_weight": gaussian(64, 64, seed=1)}) == [
        Severity.WARNING
    ]


def test_the_root_of_the_second_moment_is_aligned() -> None:
    features = graded(640, 32)
    views = {"features": features, "head_weight": root(features)}
    found = {k: m.value for k, m in measured(predictor_alignment, views).items()}
    assert found["eigen_alignment"] == pytest.approx(1.0, abs=1e-9)
    assert found["commutator"] == pytest.approx(0.0, abs=1e-9)
    assert found["asymmetry"] == pytest.approx(0.0, abs=1e-9)
    assert found["spectrum_match"] == pytest.approx(1.0, abs=1e-9)
    assert findings(predictor_alignment, views) == []


@pytest.mark.parametrize(("rows", "width"), [(16, 8), (100, 300), (1000, 64)])
def test_isotropic_features_are_silent_whatever_the_predictor(rows: int, width: int) -> None:
    arrays = {"features": gaussian(rows, width).float(), "head_weight": gaussian(width, width, seed=1)}
    assert findings(predictor_alignment, arrays) == []
    assert any("isotropic" in reason for reason in reasons(results(predictor_alignment, arrays)))
    identity = arrays | {"head_weight": torch.eye(width)}
    assert findings(predictor_alignment, identity) == []


def test_share_of_small_eigenvalues_by_chance() -> None:
    for rows, width in ((40, 100), (100, 100), (400, 50)):
        values = np.linalg.eigvalsh(np.cov(gaussian(rows, width).numpy().T, ddof=0, bias=True))
        expected = (values < 1e-3 * values[-1]).mean()
        assert small_eigenvalue_null(rows, width, 1e-3) == pytest.approx(expected, abs=0.02)


def test_zero_features_are_an_error_and_a_random_predictor_a_warning() -> None:
    subject = judged(predictor_alignment, collapsed())
    assert [(f.severity, f.measurement.metric) for f in subject.findings] == [
        (Severity.ERROR, "small_eigen_share"),
        (Severity.WARNING, "eigen_alignment_z"),
    ]


def test_edges_are_said() -> None:
    features = graded(100, 6)
    for weight in (gaussian(5, 6), gaussian(6, 5)):
        found = results(predictor_alignment, {"features": features, "head_weight": weight})
        assert not any(hasattr(result, "value") for result in found)
    few = {"features": features[:15], "head_weight": torch.eye(6)}
    assert reasons(results(predictor_alignment, few)) == ["finite rows 15 < 16"]
    for weight, reason in (
        (torch.zeros(6, 6), "all metrics but small_eigen_share: the predictor is zero"),
        (torch.full((6, 6), math.nan), "head_weight is not finite"),
        (torch.eye(6), "spectrum_match: all eigenvalues, or all strengths of the predictor, are equal"),
    ):
        assert reasons(results(predictor_alignment, {"features": features, "head_weight": weight})) == [reason]
