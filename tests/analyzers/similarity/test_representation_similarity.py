import math

import numpy as np
import pytest
from scipy.linalg import orth, svdvals
from scipy.spatial import procrustes
from sklearn.linear_model import LinearRegression
from sklearn.neighbors import NearestNeighbors

from collapse_cli.analyzers.similarity.representation_similarity import representation_similarity
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump
from collapse_cli.sources.paired import paired_dump
from tests.views import reasons, values


def analysed(x: np.ndarray, y: np.ndarray, labels: np.ndarray | None = None, other: np.ndarray | None = None):  # type: ignore[no-untyped-def]
    before, after = {"features": x}, {"features": y}
    if labels is not None:
        before["labels"], after["labels"] = labels, labels if other is None else other
    pair = paired_dump(memory_dump(before, metadata={}), memory_dump(after, metadata={}))
    analysis = analyse_dump(pair, [representation_similarity])
    assert not analysis.failures
    return analysis


def test_debiased_cka_is_that_of_u_centred_grams() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 12)) + 5
    y = np.hstack([x[:, :5] ** 2, rng.normal(size=(200, 20))])
    (cka,) = [m for m in analysed(x, y).measurements if m.metric == "cka"]

    def u_centred(rows: np.ndarray) -> np.ndarray:
        gram, n = rows @ rows.T, len(rows)
        np.fill_diagonal(gram, 0)
        row, total = gram.sum(0), gram.sum()
        gram = gram - row / (n - 2) - row[:, None] / (n - 2) + total / ((n - 1) * (n - 2))
        np.fill_diagonal(gram, 0)
        return gram

    k, q = u_centred(x), u_centred(y)
    assert cka.value == pytest.approx((k * q).sum() / math.sqrt((k * k).sum() * (q * q).sum()), abs=1e-10)


def test_independent_noise_reads_as_the_nulls_say() -> None:
    rng = np.random.default_rng(0)
    draws = [analysed(*rng.normal(size=(2, 200, 50))).measurements for _ in range(4)]
    by_name = {m.metric: m for m in draws[0]}
    means = {name: np.mean([values(draw)[name] for draw in draws]) for name in by_name}
    assert means["cka"] == pytest.approx(0.0, abs=0.02)
    assert by_name["cka"].evidence["biased"] == pytest.approx(50 / 250, abs=0.01)
    assert means["procrustes"] == pytest.approx(0.414, abs=0.01)
    assert by_name["procrustes"].null == pytest.approx(8 / (3 * math.pi) * math.sqrt(50 / 199), rel=1e-6)
    assert means["mutual_neighbours"] == pytest.approx(10 / 199, abs=0.01)
    assert means["relative_cosine"] == pytest.approx(0.0, abs=0.02)
    assert means["linear_r2"] == pytest.approx(0.0, abs=0.02)
    assert means["concatenation_gain"] == pytest.approx(by_name["concatenation_gain"].null, rel=0.01)


def test_procrustes_of_many_rows_is_that_of_scipy() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 4000, 50))
    by_name = {m.metric: m for m in analysed(x, y).measurements}
    _, _, disparity = procrustes(x, y)
    assert by_name["procrustes"].value == pytest.approx(math.sqrt(1 - disparity), rel=1e-9)
    assert by_name["procrustes"].value == pytest.approx(0.0943, abs=0.004)


def test_rotation_scale_and_shift_change_nothing() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(300, 12)) + 2
    turn = orth(rng.normal(size=(12, 12)))
    found = values(analysed(x, 7 * x @ turn - 3).measurements)
    assert found["mutual_neighbours"] < 1  # cosines are about the origin
    centred = values(analysed(x - x.mean(0), 7 * (x - x.mean(0)) @ turn).measurements)
    for metric in ("cka", "procrustes", "mutual_neighbours", "relative_cosine", "linear_r2"):
        assert centred[metric] == pytest.approx(1.0, abs=1e-6), metric
        assert metric == "mutual_neighbours" or found[metric] == pytest.approx(1.0, abs=1e-6), metric
    copy = values(analysed(x, x.copy()).measurements)
    assert copy["concatenation_gain"] == pytest.approx(1.0, abs=1e-9)
    assert values(analysed(x, x * 3).measurements)["concatenation_gain"] == pytest.approx(1.0, abs=1e-9)


def test_a_common_offset_does_not_make_unrelated_rows_alike() -> None:
    x, y = np.random.default_rng(3).normal(size=(2, 400, 30))
    assert abs(values(analysed(x + 2, y + 2).measurements)["relative_cosine"]) < 0.03


def test_neighbours_are_those_of_scikit_learn_and_widths_may_differ() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(300, 10))
    y = np.hstack([x + rng.normal(size=x.shape), rng.normal(size=(300, 3))])
    found = values(analysed(x, y).measurements)
    lists = [
        NearestNeighbors(n_neighbors=10, metric="cosine").fit(rows).kneighbors(return_distance=False) for rows in (x, y)
    ]
    assert found["mutual_neighbours"] == pytest.approx(
        np.mean([len(set(a) & set(b)) / 10 for a, b in zip(*lists, strict=True)]), abs=1e-12
    )
    assert "class_subspace_overlap" not in found


def test_linear_r2_is_what_the_map_explains_on_new_rows() -> None:
    rng = np.random.default_rng(5)
    x, weight = rng.normal(size=(3000, 10)), rng.normal(size=(10, 6))
    y = np.hstack([x @ weight, 2 * rng.normal(size=(3000, 6))])
    (found,) = [m for m in analysed(x, y).measurements if m.metric == "linear_r2"]
    halves = [(slice(0, 1500), slice(1500, None)), (slice(1500, None), slice(0, 1500))]
    weighted = 1 - np.mean(
        [
            ((y[b] - LinearRegression().fit(x[a], y[a]).predict(x[b])) ** 2).sum() / ((y[b] - y[a].mean(0)) ** 2).sum()
            for a, b in halves
        ]
    )
    assert found.value == pytest.approx(weighted, abs=0.02)
    assert found.evidence["backwards"] == pytest.approx(
        np.mean([LinearRegression().fit(y[a], x[a]).score(y[b], x[b]) for a, b in halves]), abs=0.02
    )


def test_class_subspaces_by_singular_value_decomposition() -> None:
    rng = np.random.default_rng(6)
    labels = np.repeat([3, 8], 150)
    x = rng.normal(size=(300, 20)) * np.linspace(3, 0.1, 20)
    y = x + 0.5 * rng.normal(size=x.shape)
    (found,) = [m for m in analysed(x, y, labels).measurements if m.metric == "class_subspace_overlap"]
    expected = []
    for label in (3, 8):
        bases = [
            np.linalg.svd(rows[labels == label] - rows[labels == label].mean(0), full_matrices=False)[2][:8]
            for rows in (x, y)
        ]
        expected.append((svdvals(bases[0] @ bases[1].T) ** 2).sum() / 8)
    assert found.value == pytest.approx(np.mean(expected), rel=1e-9)
    assert (found.null, found.evidence["classes"]) == (8 / 20, 2)


def test_what_cannot_be_compared_is_skipped() -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(300, 6))
    assert reasons(analysed(x[:40], x[:40]).skips) == ["40 rows < 50"]
    assert reasons(analysed(x, np.ones_like(x)).skips) == ["all rows of the second dump are equal"]
    labels = rng.integers(0, 5, size=300)
    assert "rows not paired" in reasons(analysed(x, x, labels, rng.permutation(labels)).skips)[0]
    few = analysed(x, x, labels, np.where(np.arange(300) < 9, (labels + 1) % 5, labels))
    assert "cka" in values(few.measurements)
