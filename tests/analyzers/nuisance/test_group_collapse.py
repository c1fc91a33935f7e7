import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import silhouette_score
from sklearn.neighbors import NearestNeighbors

from collapse_cli.analyzers.nuisance.group_collapse import group_collapse
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump
from tests.views import reasons, values


def analysed(features: np.ndarray, groups: np.ndarray, labels: np.ndarray | None = None):  # type: ignore[no-untyped-def]
    arrays = {"features": features, "groups": groups} | ({} if labels is None else {"labels": labels})
    analysis = analyse_dump(memory_dump(arrays, metadata={}), [group_collapse])
    assert not analysis.failures
    return analysis


def mixed(rows: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features that know a little of five unequal groups and of three classes."""
    rng = np.random.default_rng(seed)
    groups, labels = rng.choice(5, rows, p=[0.3, 0.25, 0.2, 0.15, 0.1]), rng.integers(0, 3, rows)
    features = rng.standard_normal((rows, 10)) + rng.standard_normal((5, 10))[groups]
    return features + rng.standard_normal((3, 10))[labels] + 4.0, groups, labels


def test_agrees_with_scikit_learn_and_the_definitions() -> None:
    features, groups, labels = mixed()
    found = values(analysed(features, groups, labels).measurements)
    assert found["group_silhouette"] == pytest.approx(silhouette_score(features, groups), abs=1e-9)
    total = np.square(features - features.mean(0)).sum()
    within = sum(np.square(features[groups == g] - features[groups == g].mean(0)).sum() for g in range(5))
    assert found["group_variance_share"] == pytest.approx(1 - within / total, rel=1e-9)
    lists = NearestNeighbors(n_neighbors=10, metric="cosine").fit(features).kneighbors(return_distance=False)
    for metric, of in (("group_purity_lift", groups), ("label_purity_lift", labels)):
        counts = np.bincount(of)
        chance = (counts * (counts - 1)).sum() / (400 * 399)
        assert found[metric] == pytest.approx(((of[lists] == of[:, None]).mean() - chance) / (1 - chance), rel=1e-9)
    assert found["group_minus_label"] == pytest.approx(found["group_purity_lift"] - found["label_purity_lift"])
    counts = np.bincount(labels)
    chance = (counts * (counts - 1)).sum() / (400 * 399)
    error = np.sqrt(chance * (1 - chance) / 400) / (1 - chance)
    assert found["label_purity_lift_z"] == pytest.approx(found["label_purity_lift"] / error, rel=1e-9)


def test_groups_left_out_are_those_of_a_ridge_that_is_fitted_again() -> None:
    features, groups, labels = mixed(seed=3)
    by_name = {m.metric: m for m in analysed(features, groups, labels).measurements}
    penalty = 1e-3 * np.square(features - features.mean(0)).sum() / 10
    right = 0
    for group in range(5):
        rest = groups != group
        fitted = Ridge(alpha=penalty).fit(features[rest], np.eye(3)[labels[rest]])
        right += int((fitted.predict(features[~rest]).argmax(1) == labels[~rest]).sum())
    gap = by_name["leave_group_out_gap"]
    assert gap.evidence["accuracy_across"] == right / 400
    assert gap.value == gap.evidence["accuracy_within"] - right / 400


def test_class_clusters_with_random_groups_and_the_reverse() -> None:
    rng = np.random.default_rng(0)
    first, second = np.arange(600) % 5, rng.integers(0, 4, 600)
    features = 20 * rng.standard_normal((5, 12))[first] + 0.1 * rng.standard_normal((600, 12))
    by_class = values(analysed(features, second, first).measurements)
    assert by_class["label_purity_lift"] == 1.0
    assert by_class["group_purity_lift"] == pytest.approx(0.0, abs=0.05)
    assert by_class["group_minus_label_z"] < -3
    assert by_class["leave_group_out_gap"] == 0.0
    by_group = values(analysed(features, first, second).measurements)
    assert by_group["group_purity_lift"] == 1.0
    assert by_group["label_purity_lift"] == pytest.approx(0.0, abs=0.05)
    assert by_group["group_minus_label_z"] > 3
    assert by_group["label_purity_lift_z"] < 3
    assert by_group["group_silhouette"] > 0.9
    assert by_group["group_variance_share"] > 0.99


def test_a_class_that_turns_round_between_groups_does_not_carry_over() -> None:
    rng = np.random.default_rng(1)
    groups, labels = np.arange(600) % 3, rng.integers(0, 2, 600)
    features = rng.standard_normal((600, 8))
    features[np.arange(600), groups] += 8.0 * (2 * labels - 1)
    # of each group another axis carries the class: with the group unseen nothing is known
    by_name = values(analysed(features, groups, labels).measurements)
    assert by_name["leave_group_out_gap"] > 0.3


def test_noise_stands_at_the_nulls() -> None:
    rng = np.random.default_rng(2)
    analysis = analysed(rng.standard_normal((2000, 16)), np.arange(2000) % 4, rng.integers(0, 3, 2000))
    by_name = {m.metric: m for m in analysis.measurements}
    assert by_name["group_variance_share"].value == pytest.approx(by_name["group_variance_share"].null, rel=0.5)
    for metric in ("group_purity_lift", "label_purity_lift", "group_minus_label", "group_silhouette"):
        assert by_name[metric].value == pytest.approx(0.0, abs=0.02)
    assert by_name["leave_group_out_gap"].value == pytest.approx(0.0, abs=0.06)
    assert abs(by_name["group_minus_label_z"].value) < 3


@pytest.mark.parametrize(
    ("groups", "labels", "says"),
    [
        (np.arange(90) % 2, None, "2 groups of 30 rows < 3"),
        (np.arange(90) % 4, None, "groups of 30 rows"),
        (np.arange(120) % 4, None, "no labels"),
        (np.arange(120) % 4, np.arange(120) % 4, "confounded"),
        (np.arange(120) % 4, np.arange(120), "class of its own"),
        (np.arange(120) % 4, np.zeros(120, dtype=int), "no labels of two classes"),
        (np.arange(120) % 4, np.full(120, -1), "no labels"),
    ],
)
def test_what_does_not_apply_is_said(groups: np.ndarray, labels: np.ndarray | None, says: str) -> None:
    features = np.random.default_rng(0).standard_normal((groups.size, 6))
    assert any(says in reason for reason in reasons(analysed(features, groups, labels).skips))


def test_equal_rows_are_not_measured() -> None:
    analysis = analysed(np.full((200, 5), 0.1), np.arange(200) % 4, np.arange(200) % 3)
    assert values(analysis.measurements) == {}
    assert reasons(analysis.skips) == ["all rows are equal"]


def test_unlabelled_rows_take_no_part() -> None:
    features, groups, labels = mixed()
    extra = np.concatenate((features, np.random.default_rng(5).standard_normal((60, 10))))
    found = values(analysed(extra, np.r_[groups, groups[:60]], np.r_[labels, np.full(60, -100)]).measurements)
    expected = values(analysed(features, groups, labels).measurements)
    for metric in ("group_purity_lift", "label_purity_lift", "group_silhouette", "leave_group_out_gap"):
        assert found[metric] == expected[metric]


def test_streamed_and_whole_agree() -> None:
    features, groups, labels = mixed(1000)
    parts = [
        {"features": features[s], "groups": groups[s], "labels": labels[s]} for s in (slice(0, 300), slice(300, None))
    ]
    streamed = values(analyse_dump(memory_dump(*parts, metadata={}), [group_collapse]).measurements)
    whole = values(analysed(features, groups, labels).measurements)
    assert streamed == {name: pytest.approx(value, rel=1e-9) for name, value in whole.items()}
