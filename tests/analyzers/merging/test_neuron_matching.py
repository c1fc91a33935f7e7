import numpy as np
import pytest
import torch
from scipy.linalg import orth
from scipy.optimize import linear_sum_assignment

from collapse_cli.analyzers.merging.neuron_matching import neuron_matching
from collapse_cli.engine.comparison import Lineup, analyse_together
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump
from collapse_cli.sources.memory import memory_checkpoint
from collapse_cli.sources.paired import paired_dump
from tests.views import at, reasons, values


def of_dumps(x: np.ndarray, y: np.ndarray):  # type: ignore[no-untyped-def]
    labels = np.arange(len(x)) % 3
    dumps = [memory_dump({"features": rows, "labels": labels}, metadata={}) for rows in (x, y)]
    pair = paired_dump(*dumps)
    analysis = analyse_dump(pair, [neuron_matching])
    assert not analysis.failures
    return analysis


def of_weights(a: np.ndarray, b: np.ndarray):  # type: ignore[no-untyped-def]
    members = tuple(memory_checkpoint({"fc1.weight": torch.from_numpy(w)}) for w in (a, b))
    analysis = analyse_together(Lineup("pair", members, ("A", "B")), [neuron_matching])
    assert not analysis.failures
    return analysis


def test_permuted_rotated_and_independent_units_read_as_published() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 128))
    same = values(of_dumps(x, x[:, rng.permutation(128)] + 0.1 * rng.normal(size=x.shape)).measurements)
    assert same["matched_correlation"] == pytest.approx(0.995, abs=1e-3)
    assert same["best_correlation"] == pytest.approx(0.995, abs=1e-3)
    assert same["matched_share"] == 1
    other = at(of_dumps(x, rng.normal(size=x.shape)).measurements)
    found = {metric: m for (metric, _), m in other.items()}
    assert found["matched_correlation"].value == pytest.approx(0.085, abs=0.003)
    assert found["best_correlation"].value == pytest.approx(0.091, abs=0.003)
    assert found["matched_share"].value == 0
    for metric in ("matched_correlation", "best_correlation"):
        assert found[metric].null == pytest.approx(found[metric].value, rel=0.03)
    turned = values(of_dumps(x, x @ orth(rng.normal(size=(128, 128)))).measurements)
    assert turned["matched_correlation"] == pytest.approx(0.257, abs=0.01)
    assert turned["best_correlation"] == pytest.approx(0.268, abs=0.01)
    assert turned["matched_share"] < 0.02


def test_correlations_and_assignment_are_those_of_numpy_and_scipy() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(900, 20)) * 3 + 7
    y = np.hstack([x[:, :12] @ rng.normal(size=(12, 12)), rng.normal(size=(900, 5))]) - 4
    found = values(of_dumps(x, y).measurements)
    table = np.abs(np.corrcoef(x.T, y.T)[:20, 20:])
    rows, columns = linear_sum_assignment(-table)
    assert found["matched_correlation"] == pytest.approx(table[rows, columns].mean(), rel=1e-9)
    assert found["best_correlation"] == pytest.approx(table.max(1).mean(), rel=1e-9)
    assert found["matched_share"] == pytest.approx((table[rows, columns] > 0.5).mean())


def test_constant_units_are_dropped_and_the_null_is_that_of_all_rows() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 3000, 30))
    whole = at(of_dumps(x, y).measurements)["matched_correlation", "output"]
    # 2,048 rows are shuffled, and what they show is scaled to 3,000
    assert whole.null == pytest.approx(whole.value, rel=0.1)
    x[:, 4:8], y[:, 1] = 2.5, 0.0
    dropped = at(of_dumps(x, y).measurements)["matched_correlation", "output"]
    assert dropped.evidence["constant_units"] == [4, 1]
    assert dropped.evidence["matched"] == 26


@pytest.mark.parametrize("axis", ["outputs", "inputs"])
@pytest.mark.parametrize("shape", [(48, 32), (32, 48), (40, 40)])
def test_a_permuted_weight_is_put_back(shape: tuple[int, int], axis: str) -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(size=shape)
    order = rng.permutation(shape[0 if axis == "outputs" else 1])
    b = a[order] if axis == "outputs" else a[:, order]
    found = at(of_weights(a, b).measurements)
    alignment = found["singular_alignment", "fc1.weight"]
    assert alignment.value == pytest.approx(1, abs=1e-9)
    assert alignment.evidence["axis"] == axis
    assert alignment.evidence["moved"] == (order != np.arange(order.size)).sum()
    assert found["distance_reduction", "fc1.weight"].value == pytest.approx(1, abs=1e-12)
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    p, t, qt = np.linalg.svd(b, full_matrices=False)
    u, vt, p, qt = u[:, s >= 0.3 * s[0]], vt[s >= 0.3 * s[0]], p[:, t >= 0.3 * t[0]], qt[t >= 0.3 * t[0]]
    assert alignment.evidence["in_place"] == pytest.approx(((u.T @ p) * (vt @ qt.T)).sum() / u.shape[1], abs=1e-9)
    assert alignment.evidence["vectors"] == u.shape[1]


def test_unrelated_weights_gain_no_more_than_their_null() -> None:
    a, b = np.random.default_rng(4).normal(size=(2, 64, 48))
    found = at(of_weights(a, b).measurements)
    reduction = found["distance_reduction", "fc1.weight"]
    order = linear_sum_assignment(-(a @ b.T))[1]
    columns = linear_sum_assignment(-(a.T @ b))[1]
    nearest = min(((a - b[order]) ** 2).sum(), ((a - b[:, columns]) ** 2).sum())
    assert reduction.value == pytest.approx(1 - nearest / ((a - b) ** 2).sum(), rel=1e-9)
    assert reduction.null == pytest.approx(reduction.value, rel=0.2)
    alignment = found["singular_alignment", "fc1.weight"]
    assert abs(alignment.evidence["in_place"]) < 0.05
    assert alignment.value == pytest.approx(alignment.null, abs=0.06)
    assert alignment.value > 0.2


def test_a_fine_tuned_weight_stays_where_it_is() -> None:
    rng = np.random.default_rng(5)
    a = rng.normal(size=(64, 32))
    for b in (a.copy(), a + 0.05 * rng.normal(size=a.shape)):
        analysis = of_weights(a, b)
        found = at(analysis.measurements)
        assert found["distance_reduction", "fc1.weight"].value == 0
        assert found["singular_alignment", "fc1.weight"].evidence["moved"] == 0
        assert found["singular_alignment", "fc1.weight"].value == pytest.approx(1, abs=0.03)
        assert [s.site for s in analysis.skips if "merge_residual" in s.reason] == ["#model"]


def test_what_cannot_be_matched_is_skipped() -> None:
    rng = np.random.default_rng(6)
    assert reasons(of_dumps(*rng.normal(size=(2, 400, 8))).skips) == ["400 rows < 500"]
    a = rng.normal(size=(16, 16))
    assert any("all zero" in reason for reason in reasons(of_weights(a, np.zeros_like(a)).skips))
    wide = np.zeros((1030, 1030))
    np.fill_diagonal(wide, 1.0)
    assert any("both sides > 1,024" in reason for reason in reasons(of_weights(wide, wide).skips))
