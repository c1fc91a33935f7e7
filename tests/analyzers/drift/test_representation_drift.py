import math

import numpy as np
import pytest
from scipy.linalg import orth, orthogonal_procrustes, sqrtm
from scipy.spatial.distance import pdist
from sklearn.neighbors import NearestNeighbors

from collapse_cli.analyzers.drift.representation_drift import representation_drift
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump
from collapse_cli.sources.paired import paired_dump
from tests.views import reasons, values


def analysed(x: np.ndarray, y: np.ndarray, **roles: np.ndarray):  # type: ignore[no-untyped-def]
    pair = paired_dump(
        memory_dump({"features": x, **roles}, metadata={}), memory_dump({"features": y, **roles}, metadata={})
    )
    analysis = analyse_dump(pair, [representation_drift])
    assert not analysis.failures
    return analysis


def classes(seed: int = 0, count: int = 400, width: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    return rng.normal(size=(4, width))[labels] + rng.normal(size=(count, width)) + 1, labels


UNMOVED = {
    "class_mean_shift": 0,
    "neighbour_retention": 1,
    "neighbour_classes": 1,
    "prototype_change": 0,
    "group_shrinkage": 1,
    "kernel_velocity": 0,
    "frechet_shift": 0,
}


def test_a_copy_and_a_rotated_copy_have_not_moved() -> None:
    x, labels = classes()
    groups = np.arange(400) // 4 % 5
    turn = orth(np.random.default_rng(1).normal(size=(12, 12)))
    for after in (x.copy(), x @ turn):
        found = values(analysed(x, after, labels=labels, groups=groups).measurements)
        assert found == pytest.approx(UNMOVED, abs=1e-6)


def test_shifts_are_those_after_the_rotation_of_scipy() -> None:
    x, labels = classes()
    rng = np.random.default_rng(2)
    y = (x + rng.normal(size=(4, 12))[labels] + 0.3 * rng.normal(size=x.shape)) @ orth(rng.normal(size=(12, 12)))
    by_name = {m.metric: m for m in analysed(x, y, labels=labels).measurements}
    turned = y @ orthogonal_procrustes(y, x)[0]
    expected = [
        np.linalg.norm(turned[labels == k].mean(0) - x[labels == k].mean(0))
        / math.sqrt(np.cov(x[labels == k].T, ddof=0).trace())
        for k in range(4)
    ]
    shift = by_name["class_mean_shift"]
    assert shift.value == pytest.approx(np.mean(expected), rel=1e-9)
    assert (shift.null, shift.evidence["moved_most"]) == (pytest.approx(math.sqrt(2 / 100)), int(np.argmax(expected)))
    one, two = np.cov(x.T), np.cov(turned.T)
    distance = ((x.mean(0) - turned.mean(0)) ** 2).sum() + np.trace(
        one + two - 2 * sqrtm(sqrtm(one) @ two @ sqrtm(one)).real
    )
    assert by_name["frechet_shift"].value == pytest.approx(distance / np.trace(one), rel=1e-6)
    means = [np.stack([rows[labels == k].mean(0) for k in range(4)]) for rows in (x, y)]
    cosines = [(m @ m.T) / np.outer(*[np.linalg.norm(m, axis=1)] * 2) for m in means]
    assert by_name["prototype_change"].value == pytest.approx(np.linalg.norm(cosines[1] - cosines[0]) / 4, rel=1e-9)


def test_nulls_are_what_two_draws_give() -> None:
    rng = np.random.default_rng(3)
    labels = np.arange(200) % 4
    found = [analysed(*rng.normal(size=(2, 200, 32)), labels=labels).measurements for _ in range(5)]
    # without the rotation, which overfits unrelated rows: the two draws themselves
    draws = [rng.normal(size=(2, 50, 32)) for _ in range(50)]
    measured = np.mean([np.linalg.norm(a.mean(0) - b.mean(0)) / math.sqrt(32) for a, b in draws])
    (null,) = {m.null for m in found[0] if m.metric == "class_mean_shift"}
    assert null == pytest.approx(0.2)
    assert measured == pytest.approx(null, rel=0.05)
    by_name = {m.metric: m for m in found[0]}
    assert by_name["neighbour_retention"].null == pytest.approx(10 / 199)
    assert np.mean([values(one)["neighbour_retention"] for one in found]) == pytest.approx(10 / 199, rel=0.15)
    assert np.mean([values(one)["kernel_velocity"] for one in found]) == pytest.approx(1, abs=0.03)


def test_frechet_null_of_two_draws() -> None:
    x = np.random.default_rng(4).normal(size=(500, 32))
    by_name = {m.metric: m for m in analysed(x, x.copy()).measurements}
    assert by_name["frechet_shift"].null * np.cov(x.T).trace() == pytest.approx(1.17, rel=0.05)


def test_neighbour_classes_are_those_of_scikit_learn() -> None:
    x, labels = classes()
    labels[::7] = -1
    y = x + 1.5 * np.random.default_rng(6).normal(size=x.shape)
    analysis = analysed(x, y, labels=labels)
    (found,) = [m for m in analysis.measurements if m.metric == "neighbour_classes"]
    known = labels >= 0
    purity = []
    for rows in (x, y):
        near = NearestNeighbors(n_neighbors=11, metric="cosine").fit(rows).kneighbors(rows)[1][:, 1:]
        purity.append((labels[near] == labels[:, None])[known].mean())
    counts = np.bincount(labels[known])
    chance = (counts * (counts - 1)).sum() / known.sum() / 399
    assert found.value == pytest.approx((purity[1] - chance) / (purity[0] - chance), rel=1e-9)
    assert (found.null, found.evidence["chance"]) == (1, pytest.approx(chance))
    assert 0.3 < found.value < 0.9


def test_rows_that_became_equal_tell_no_class() -> None:
    x, labels = classes()
    analysis = analysed(x, np.ones_like(x), labels=labels)
    found = values(analysis.measurements)
    assert set(found) == {"neighbour_retention", "neighbour_classes"}
    # the order among equal rows is drawn: a share of 4,000 neighbours
    assert found["neighbour_classes"] == pytest.approx(0, abs=0.1)
    assert reasons(analysis.skips) == ["all rows of the second dump are equal"]


def test_classes_that_were_not_told_cannot_be_lost() -> None:
    x, labels = classes()
    analysis = analysed(x, x, labels=np.random.default_rng(7).permutation(labels))
    assert "neighbour_classes: neighbourhoods before tell nothing of the classes" in reasons(analysis.skips)


def test_one_contracted_group_is_found_and_the_others_stay() -> None:
    x, labels = classes()
    groups = np.arange(400) // 4 % 10
    y = x.copy()
    y[groups == 7] = x[groups == 7].mean(0) + 0.1 * (x[groups == 7] - x[groups == 7].mean(0))
    (found,) = [m for m in analysed(x, y, labels=labels, groups=groups).measurements if m.metric == "group_shrinkage"]
    assert found.evidence["group"] == 7
    assert found.value == pytest.approx(0.1 / (pdist(y).mean() / pdist(x).mean()), rel=1e-9)
    assert found.evidence["median"] == pytest.approx(pdist(x).mean() / pdist(y).mean(), rel=1e-9)
    everything = values(analysed(x, 0.1 * x, labels=labels, groups=groups).measurements)
    assert everything["group_shrinkage"] == pytest.approx(1)
    nested = analysed(x, y, labels=labels, groups=labels * 2 + np.arange(400) // 4 % 2)
    assert "group_shrinkage: every group lies within one class" in reasons(nested.skips)


def test_batches_do_not_matter() -> None:
    x, labels = classes(count=3000)
    y = x + np.random.default_rng(5).normal(size=x.shape)
    whole = values(analysed(x, y, labels=labels).measurements)
    dumps = [memory_dump({"features": rows, "labels": labels}, metadata={}) for rows in (x, y)]
    pair = paired_dump(*dumps)
    windows = pair.batches
    pair.batches = lambda site, roles, rows=0: windows(site, roles, 700)  # type: ignore[method-assign]
    parts = values(analyse_dump(pair, [representation_drift]).measurements)
    assert parts == pytest.approx(whole, rel=1e-9)


def test_what_cannot_be_had_is_skipped() -> None:
    x, labels = classes()
    assert reasons(analysed(x[:20], x[:20]).skips) == ["20 rows < 50"]
    said = " ".join(reasons(analysed(x[:80], x[:80, :5]).skips))
    for metric in ("neighbour_retention", "class_mean_shift", "frechet_shift", "prototype_change", "group_shrinkage"):
        assert metric in said
    assert reasons(analysed(np.ones_like(x), x, labels=labels).skips) == ["all rows of the first dump are equal"]
    point = np.where(labels[:, None] >= 0, x[labels], x)  # every class is one point
    assert "class_mean_shift: no class of 5 rows with any spread" in reasons(analysed(point, x, labels=labels).skips)
