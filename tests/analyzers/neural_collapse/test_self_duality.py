"""Head against class means, by the definitions over all rows, and closed forms on the simplex."""

import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.neural_collapse.self_duality import self_duality
from collapse_cli.kernels import neural_collapse
from tests.neural_collapse import CASES, as_numpy, centred, class_means, found, measured, rows_of, structure_error


def cosines(w: np.ndarray, m: np.ndarray) -> np.ndarray:
    return (w * m).sum(1) / np.linalg.norm(w, axis=1) / np.linalg.norm(m, axis=1)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("window", [0, 37])
@pytest.mark.parametrize("case", CASES)
def test_equals_the_dense_definitions(case: str, window: int, dense: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not dense:
        monkeypatch.setattr(neural_collapse, "_DENSE_CLASSES", 1)
    x, y = rows_of(case)
    many, width, _ = CASES[case]
    head = torch.randn(many, width, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    bias = torch.linspace(-1.0, 1.0, many, dtype=torch.float64)
    arrays = {"features": x, "labels": y, "head_weight": head, "head_bias": bias}
    got = found(measured(self_duality, monkeypatch, window=window, **arrays))
    kept_x, kept_y = as_numpy(x, y, rows=5)
    means, kept = class_means(kept_x, kept_y), np.unique(kept_y)
    m, w = centred(means), head.numpy()[kept]
    aligned = cosines(w, m)
    wanted = {
        "self_duality_error": structure_error(m, w),
        "papyan_nc3": ((w / np.linalg.norm(w) - m / np.linalg.norm(m)) ** 2).sum(),
        "duality_cos": aligned.mean(),
        "duality_cos_z": aligned.mean() * math.sqrt(len(kept) * width),
        "uniform_duality_var": aligned.var(ddof=1),
        "mean_logit_offset": np.linalg.norm(w @ means.mean(0) + bias.numpy()[kept]) / np.linalg.norm(w @ m.T),
    }
    assert {name: one.value for name, one in got.items()} == pytest.approx(wanted, rel=1e-9)
    shifted = structure_error(m, w - w.mean(0))
    assert got["self_duality_error"].evidence["centred_head"] == pytest.approx(shifted, rel=1e-9)


SIMPLEX = torch.nn.functional.pad(torch.eye(4, dtype=torch.float64) - 0.25, (0, 3))
LABELS = torch.arange(40) % 4


def test_a_head_of_class_means_and_one_handed_round() -> None:
    same = found(measured(self_duality, features=SIMPLEX[LABELS], labels=LABELS, head_weight=7.0 * SIMPLEX))
    wanted = {"self_duality_error": 0.0, "papyan_nc3": 0.0, "duality_cos": 1.0, "uniform_duality_var": 0.0}
    assert {name: same[name].value for name in wanted} == pytest.approx(wanted, abs=1e-12)
    assert same["mean_logit_offset"].value == pytest.approx(0.0, abs=1e-12)
    moved = found(measured(self_duality, features=SIMPLEX[LABELS], labels=LABELS, head_weight=SIMPLEX.roll(1, 0)))
    # every cosine of a simplex is −1/(K−1)
    assert moved["duality_cos"].value == pytest.approx(-1 / 3, rel=1e-12)
    assert moved["papyan_nc3"].value == pytest.approx(2 + 2 / 3, rel=1e-12)


def test_a_random_head_meets_the_nulls() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(300) % 30
    means = torch.randn(30, 48, generator=generator, dtype=torch.float64)
    runs = []
    for _ in range(20):
        head = torch.randn(30, 48, generator=generator, dtype=torch.float64)
        runs.append(found(measured(self_duality, features=means[labels], labels=labels, head_weight=head)))
    for name in ("self_duality_error", "papyan_nc3", "uniform_duality_var"):
        mean = sum(run[name].value for run in runs) / 20
        assert mean == pytest.approx(runs[0][name].null, rel=0.1), name
    scores = np.array([run["duality_cos_z"].value for run in runs])
    assert abs(scores.mean()) < 0.7
    assert 0.6 < scores.std() < 1.4


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (torch.ones(4, 6), "head_weight is 4 × 6 and the features are 7 wide"),
        (torch.ones(3, 7), "head_weight has 3 rows and the labels go from 0 to 3"),
        (torch.full((4, 7), math.inf), "head_weight is not finite"),
        (torch.zeros(4, 7), "the head is zero"),
    ],
)
def test_a_head_that_does_not_fit_is_a_skip(head: torch.Tensor, reason: str) -> None:
    analysis = measured(self_duality, features=SIMPLEX[LABELS], labels=LABELS, head_weight=head.double())
    assert not analysis.failures
    assert reason in [skip.reason for skip in analysis.skips]


def test_equal_means_and_an_orthogonal_head() -> None:
    equal = measured(
        self_duality, features=torch.full((40, 7), 0.1, dtype=torch.float64), labels=LABELS, head_weight=SIMPLEX
    )
    assert [skip.reason for skip in equal.skips] == ["all class means are equal"]
    beside = torch.zeros(4, 7, dtype=torch.float64)
    beside[:, 5] = 1.0
    got = measured(self_duality, features=SIMPLEX[LABELS], labels=LABELS, head_weight=beside)
    assert found(got)["self_duality_error"].value == pytest.approx(math.sqrt(2.0))
    assert "mean_logit_offset" not in found(got)
