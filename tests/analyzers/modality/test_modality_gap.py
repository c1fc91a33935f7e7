import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.linear_model import RidgeClassifier

from collapse_cli.analyzers.modality.modality_gap import modality_gap
from collapse_cli.core.report import Skip
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump
from tests.views import reasons, values


def measured(left: np.ndarray, right: np.ndarray, metadata: dict[str, str] | None = None) -> dict[str, float]:
    return values(analysed(left, right, metadata).measurements)


def analysed(left: np.ndarray, right: np.ndarray, metadata: dict[str, str] | None = None):  # type: ignore[no-untyped-def]
    analysis = analyse_dump(
        memory_dump({"modality_a": left, "modality_b": right}, metadata=metadata or {}), [modality_gap]
    )
    assert not analysis.failures
    return analysis


def cloud(rows: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, width))


def units(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_agrees_with_the_definitions_written_out_on_dense_matrices() -> None:
    left, right = cloud(1200, 12, 0) + 0.5, cloud(1200, 12, 1) * np.linspace(0.5, 2, 12) - 0.2
    right += 0.7 * left
    found = measured(left, right)
    a, b = units(left), units(right)
    off = ~np.eye(1200, dtype=bool)
    delta = a.mean(0) - b.mean(0)
    assert found["centroid_gap"] == pytest.approx(np.linalg.norm(delta), rel=1e-10)
    # with the diagonal left out, in the form of distances 1 − (cos + 1)/2
    across = 1 - ((a * b).sum(1).mean() + 1) / 2
    inside = [1 - ((x @ x.T)[off].mean() + 1) / 2 for x in (a, b)]
    assert found["rmg"] == pytest.approx(across / (across + sum(inside) / 2), rel=1e-9)
    pooled = np.concatenate((a, b))
    # of the pooled rows: between the centroids over all
    between = np.square(delta).sum() / 4
    assert found["gap_variance_share"] == pytest.approx(between / pooled.var(0).sum(), rel=1e-9)
    squares = cdist(a, b, "sqeuclidean")
    assert found["cross_uniformity"] == pytest.approx(math.log(np.exp(-2 * squares[off]).mean()), rel=1e-9)
    nearest = np.where(off, squares, np.inf).min(1)
    assert found["relative_alignment"] == pytest.approx((np.diag(squares) - nearest).mean(), rel=1e-9)
    # another split than the analyzer's: the accuracies of 1,200 held-out rows differ by a few standard errors of .012
    side = np.repeat((1, -1), 600)
    judge = RidgeClassifier(alpha=1e-3).fit(np.concatenate((a[::2], b[::2])), side)
    assert found["separability"] == pytest.approx(judge.score(np.concatenate((a[1::2], b[1::2])), side), abs=0.04)


def test_identical_modalities_have_no_gap() -> None:
    rows = cloud(1024, 8, 0)
    found = measured(rows, rows)
    assert found["centroid_gap"] == pytest.approx(0.0, abs=1e-12)
    assert found["rmg"] == pytest.approx(0.0, abs=1e-12)
    assert found["separability"] == 0.5
    assert found["relative_alignment"] < 0.0


def test_independent_uniform_modalities_stand_at_their_nulls() -> None:
    analysis = analysed(cloud(4000, 32, 0), cloud(4000, 32, 1))
    by_name = {m.metric: m for m in analysis.measurements}
    assert by_name["rmg"].value == pytest.approx(0.5, abs=2e-3)
    assert by_name["separability"].value == pytest.approx(0.5, abs=4 / math.sqrt(8 * 4000))
    assert by_name["cross_uniformity"].value == pytest.approx(by_name["cross_uniformity"].null, abs=5e-3)
    assert by_name["gap_variance_share"].value < 4 * by_name["gap_variance_share"].null
    assert by_name["centroid_gap"].value == pytest.approx(by_name["centroid_gap"].null, rel=0.5)
    assert by_name["relative_alignment"].value > 0.0


def test_opposite_poles_are_as_far_apart_as_can_be() -> None:
    pole = np.tile(np.eye(6)[0], (1000, 1))
    found = measured(pole, -pole)
    assert found["centroid_gap"] == pytest.approx(2.0, abs=1e-12)
    assert found["rmg"] == pytest.approx(1.0, abs=1e-12)
    assert found["separability"] == 1.0
    assert found["gap_variance_share"] == pytest.approx(1.0, abs=1e-12)
    assert found["cross_uniformity"] == pytest.approx(-8.0, abs=1e-12)
    assert found["relative_alignment"] == pytest.approx(0.0, abs=1e-12)


def test_equal_centroids_with_different_covariances_separate_no_line() -> None:
    left, right = cloud(3000, 4, 0), cloud(3000, 4, 1)
    left[:, :2] *= 5
    right[:, 2:] *= 5
    found = measured(left, right)
    assert found["centroid_gap"] < 0.1
    assert found["separability"] == pytest.approx(0.5, abs=0.04)


def test_everything_on_one_point_has_no_relative_gap_and_says_so() -> None:
    rows = np.ones((1000, 8), dtype=np.float32)
    analysis = analysed(rows, rows)
    assert "rmg" not in values(analysis.measurements)
    assert any("0/0" in reason for reason in reasons(analysis.skips))
    assert values(analysis.measurements)["cross_uniformity"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("left", "right", "metadata", "says"),
    [
        (cloud(999, 8, 0), cloud(999, 8, 1), {}, "999 rows < 1,000"),
        (cloud(1000, 8, 0), cloud(1000, 9, 1), {}, "widths 8 and 9"),
        (np.zeros((1000, 8)), cloud(1000, 8, 1), {}, "zero"),
        (cloud(1000, 8, 0), cloud(1000, 8, 1), {"paired": "false"}, "rows not paired"),
    ],
)
def test_what_does_not_apply_is_said(left: np.ndarray, right: np.ndarray, metadata: dict[str, str], says: str) -> None:
    analysis = analysed(left, right, metadata)
    assert any(isinstance(s, Skip) and says in s.reason for s in analysis.skips)
    found = values(analysis.measurements)
    assert "rmg" not in found
    assert "relative_alignment" not in found
    assert bool(found) == ("paired" in metadata)


def test_zero_rows_are_left_out_of_directions() -> None:
    left, right = cloud(1100, 8, 0) + 1, cloud(1100, 8, 1) - 1
    left[:50] = 0.0
    expected = np.linalg.norm(units(left[50:]).mean(0) - units(right).mean(0))
    assert measured(left, right)["centroid_gap"] == pytest.approx(expected, rel=1e-10)


def test_streamed_and_whole_agree() -> None:
    left, right = cloud(5000, 6, 0) + 0.3, cloud(5000, 6, 1)
    parts = [{"modality_a": left[i : i + 1700], "modality_b": right[i : i + 1700]} for i in range(0, 5000, 1700)]
    streamed = values(analyse_dump(memory_dump(*parts, metadata={}), [modality_gap]).measurements)
    assert streamed == {name: pytest.approx(value, rel=1e-9) for name, value in measured(left, right).items()}
