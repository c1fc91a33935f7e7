import numpy as np
import pytest
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from collapse_cli.analyzers.nuisance.preprocessing_audit import preprocessing_audit
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump
from tests.views import reasons, values

RECIPES = {"preprocessing": "view_a: resize; view_b: resize, normalise"}


def analysed(left: np.ndarray, right: np.ndarray, metadata: dict[str, str] | None = None, **more: np.ndarray):  # type: ignore[no-untyped-def]
    dump = memory_dump({"view_a": left, "view_b": right, **more}, metadata=RECIPES if metadata is None else metadata)
    analysis = analyse_dump(dump, [preprocessing_audit])
    assert not analysis.failures
    return analysis


def cloud(rows: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width))


def test_equal_pixels_change_nothing() -> None:
    rows, labels = cloud(300, 12) + 0.4, np.arange(300) % 3
    found = values(analysed(rows, rows, labels=labels).measurements)
    expected = {"paired_cosine": 1, "centroid_shift": 0, "paired_cka_debiased": 1, "knn_overlap": 1, "rank_ratio": 1}
    assert found == {k: pytest.approx(v, abs=1e-9) for k, v in {**expected, "accuracy_shift": 0}.items()}


def test_debiased_cka_is_that_of_the_published_implementations() -> None:
    rng = np.random.default_rng(0)
    left = rng.normal(size=(500, 40)) + 5
    right = np.concatenate([left[:, :10] @ rng.normal(size=(10, 30)), rng.normal(size=(500, 20))], axis=1) - 3
    analysis = analysed(left, right)
    assert values(analysis.measurements)["paired_cka_debiased"] == pytest.approx(0.40064227187, abs=1e-10)
    assert any("different width" in reason for reason in reasons(analysis.skips))


def test_agrees_with_the_definitions_written_out() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 200)
    right = cloud(200, 10, 2) + 1.5 * labels[:, None]
    left = 0.5 * right + 0.7 * cloud(200, 10, 3) + 2.0
    by_name = {m.metric: m for m in analysed(left, right, labels=labels).measurements}
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (left, right))
    cosines = a @ b.T
    assert by_name["paired_cosine"].value == pytest.approx(np.diag(cosines).mean(), rel=1e-9)
    assert by_name["paired_cosine"].null == pytest.approx(cosines[~np.eye(200, dtype=bool)].mean(), rel=1e-9)
    spread = (left.var(0, ddof=1).sum() + right.var(0, ddof=1).sum()) / 2
    shift = np.linalg.norm(left.mean(0) - right.mean(0)) / np.sqrt(spread)
    assert by_name["centroid_shift"].value == pytest.approx(shift, rel=1e-9)
    ranks = []
    for view in (left, right):
        shares = np.linalg.svd(view, compute_uv=False)
        shares /= shares.sum()
        ranks.append(np.exp(-(shares * np.log(shares)).sum()))
    # RankMe adds 1e-7 to every share
    assert by_name["rank_ratio"].value == pytest.approx(ranks[0] / ranks[1], rel=1e-5)
    lists = [
        NearestNeighbors(n_neighbors=10, metric="cosine").fit(x).kneighbors(return_distance=False)
        for x in (left, right)
    ]
    overlap = np.mean([len(set(p) & set(q)) / 10 for p, q in zip(*lists, strict=True)])
    assert by_name["knn_overlap"].value == pytest.approx(overlap, abs=1e-12)
    judge = KNeighborsClassifier(10, metric="cosine")
    accuracy = [(cross_val_predict(judge, x, labels, cv=LeaveOneOut()) == labels).mean() for x in (left, right)]
    assert by_name["accuracy_shift"].value == pytest.approx(accuracy[0] - accuracy[1], abs=1e-12)
    assert accuracy[0] != accuracy[1]


def test_a_missing_normalisation_shows_as_a_cone() -> None:
    right = cloud(300, 32)
    found = values(analysed(0.02 * right + 5.0, right).measurements)
    assert found["paired_cosine"] < 0.3
    assert found["rank_ratio"] < 0.3
    assert found["centroid_shift"] > 3.0
    # nothing is lost but the position
    assert found["paired_cka_debiased"] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize(
    ("rows", "metadata", "says"),
    [
        (200, {}, "no preprocessing metadata"),
        (200, {"preprocessing": "resize 224, ImageNet mean"}, "views are augmentations"),
        (200, RECIPES | {"paired": "false"}, "rows are not paired"),
        (99, RECIPES, "99 rows < 100"),
    ],
)
def test_what_does_not_apply_is_said(rows: int, metadata: dict[str, str], says: str) -> None:
    analysis = analysed(cloud(rows, 8), cloud(rows, 8, 1), metadata)
    assert values(analysis.measurements) == {}
    assert says in reasons(analysis.skips)[0]


@pytest.mark.parametrize("recipes", ["bilinear | bicubic", "raw vs normalised", "size 64; size 224"])
def test_two_recipes_may_be_named_in_several_ways(recipes: str) -> None:
    assert values(analysed(cloud(120, 8), cloud(120, 8), {"preprocessing": recipes}).measurements)


def test_a_constant_view_is_not_measured() -> None:
    assert reasons(analysed(np.full((150, 8), 0.1), cloud(150, 8)).skips) == ["all rows of a view are equal"]


def test_labels_of_one_class_give_no_accuracy() -> None:
    analysis = analysed(cloud(150, 8), cloud(150, 8, 1), labels=np.zeros(150, dtype=int))
    assert any("accuracy_shift" in reason for reason in reasons(analysis.skips))


def test_a_stack_of_views_is_read_like_two_views() -> None:
    left, right = cloud(150, 8), cloud(150, 8, 1)
    analysis = analyse_dump(memory_dump({"views": np.stack((left, right), 1)}, metadata=RECIPES), [preprocessing_audit])
    assert not analysis.failures
    assert values(analysis.measurements) == values(analysed(left, right).measurements)


def test_streamed_and_whole_agree() -> None:
    left, right = cloud(400, 8) + 1, cloud(400, 8, 1)
    parts = [{"view_a": left[s], "view_b": right[s]} for s in (slice(0, 150), slice(150, None))]
    streamed = values(analyse_dump(memory_dump(*parts, metadata=RECIPES), [preprocessing_audit]).measurements)
    assert streamed == {k: pytest.approx(v, rel=1e-9) for k, v in values(analysed(left, right).measurements).items()}
