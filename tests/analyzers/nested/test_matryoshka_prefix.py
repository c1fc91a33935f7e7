import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from collapse_cli.analyzers.nested.matryoshka_prefix import matryoshka_prefix
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump
from tests.views import at, reasons, values


def analysed(*shards: dict[str, np.ndarray]):  # type: ignore[no-untyped-def]
    analysis = analyse_dump(memory_dump(*shards, metadata={}), [matryoshka_prefix])
    assert not analysis.failures
    return analysis


def halving(rows: int, width: int, seed: int = 0) -> np.ndarray:
    """Rows whose feature j has variance exactly 2^−j, j from 1."""
    drawn = np.random.default_rng(seed).standard_normal((rows, width))
    drawn = (drawn - drawn.mean(0)) / drawn.std(0)
    return drawn * 2.0 ** (-np.arange(1, width + 1) / 2)


def turned(rows: np.ndarray) -> np.ndarray:
    return rows @ np.linalg.qr(np.random.default_rng(9).standard_normal((rows.shape[1],) * 2))[0]


def lists(rows: np.ndarray) -> np.ndarray:
    return NearestNeighbors(n_neighbors=10).fit(rows).kneighbors(return_distance=False)


def agreement(rows: np.ndarray, others: np.ndarray) -> float:
    pairs = zip(lists(rows), lists(others), strict=True)
    return float(np.mean([len(set(a) & set(b)) / 10 for a, b in pairs]))


def test_variances_that_halve_are_nested_in_closed_form() -> None:
    found = at(analysed({"features": halving(400, 64)}).measurements)
    for m in (8, 16, 32):
        energy = found["prefix_energy", f"output#prefix={m}"]
        assert energy.value == pytest.approx((1 - 2.0**-m) / (1 - 2.0**-64), rel=1e-9)
        assert energy.null == m / 64
    assert found["prefix_energy", "output#prefix=8"].value == pytest.approx(0.9961, abs=1e-4)
    assert found["nestedness_z", "output"].value > 3.0
    assert found["sufficient_width", "output"].value == 16.0


def test_turned_axes_are_not_nested() -> None:
    rows = np.random.default_rng(1).standard_normal((500, 64))
    for features in (rows, turned(rows)):
        found = at(analysed({"features": features}).measurements)
        assert found["prefix_energy", "output#prefix=16"].value == pytest.approx(16 / 64, abs=0.03)
        assert abs(found["nestedness_z", "output"].value) < 4.0
        assert found["nestedness", "output"].value == pytest.approx(0.0, abs=0.03)
        assert found["sufficient_width", "output"].value == 64.0
    # the same with a strong spectrum: the order is lost, principal components find it again
    found = at(analysed({"features": turned(halving(500, 64))}).measurements)
    assert abs(found["nestedness_z", "output"].value) < 4.0
    assert found["pca_gap", "output"].value > 0.2


def test_agreement_is_that_of_neighbour_lists_of_scikit_learn() -> None:
    rows = halving(300, 40, seed=2) + 5.0
    found = at(analysed({"features": rows}).measurements)
    assert found["prefix_quality", "output#prefix=8"].value == pytest.approx(agreement(rows[:, :8], rows), abs=1e-12)
    scores = PCA().fit_transform(turned(rows))
    found = at(analysed({"features": turned(rows)}).measurements)
    measured = found["pca_gap", "output"].evidence["principal"]
    assert measured == pytest.approx([agreement(scores[:, :m], rows) for m in (8, 16, 32)], abs=2e-3)


def test_with_labels_quality_is_leave_one_out_accuracy() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, 150)
    rows = rng.standard_normal((150, 24))
    rows[:, 10] += 3.0 * labels
    found = at(analysed({"features": rows, "labels": labels}).measurements)

    def accuracy(chosen: np.ndarray) -> float:
        # nine neighbours cannot tie; ten of two classes can, and then the smaller label wins in both
        guessed = cross_val_predict(KNeighborsClassifier(10), chosen, labels, cv=LeaveOneOut())
        return float((guessed == labels).mean())

    assert found["prefix_quality", "output#prefix=8"].evidence["full_quality"] == accuracy(rows)
    for m in (8, 16):
        ratio = found["prefix_quality", f"output#prefix={m}"].value
        assert ratio == pytest.approx(accuracy(rows[:, :m]) / accuracy(rows), abs=1e-12)
    assert found["sufficient_width", "output"].value == 16.0


def test_principal_components_of_more_features_than_rows() -> None:
    rows = np.random.default_rng(4).standard_normal((120, 200))
    found = at(analysed({"features": rows}).measurements)
    scores = PCA().fit_transform(rows)
    expected = [agreement(scores[:, :m], rows) for m in (8, 16, 32, 64, 128)]
    assert found["pca_gap", "output"].evidence["principal"] == pytest.approx(expected, abs=2e-3)


def test_grid_pairs_early_layers_with_short_prefixes() -> None:
    last = halving(200, 32)
    first = np.random.default_rng(5).standard_normal((200, 32))
    found = at(analysed({"layers.0/features": first, "layers.1/features": last}).measurements)
    gap = found["grid_gap", "#layers"]
    # two layers, widths 8 16 32: the first layer goes with the first 8 features, the last with all
    assert gap.evidence["cells"] == ["layers.0[:8]", "layers.1[:32]"]
    assert gap.value == pytest.approx(1.0 - agreement(first[:, :8], last), abs=1e-12)
    assert ("nestedness", "layers.1") in found
    assert ("nestedness", "layers.0") not in found


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (halving(200, 15), "width 15 < 16"),
        (halving(99, 16), "99 rows < 100"),
        (np.full((200, 32), 0.1), "all rows are equal"),
    ],
)
def test_what_does_not_apply_is_said(features: np.ndarray, says: str) -> None:
    analysis = analysed({"features": features})
    assert values(analysis.measurements) == {}
    assert says in reasons(analysis.skips)[0]


def test_one_hook_point_has_no_grid() -> None:
    assert any("grid_gap" in reason for reason in reasons(analysed({"features": halving(200, 16)}).skips))


def test_labels_of_one_class_or_of_none_are_not_used() -> None:
    for labels in (np.zeros(200, dtype=int), np.full(200, -1)):
        found = at(analysed({"features": halving(200, 16), "labels": labels}).measurements)
        assert found["nestedness", "output"].evidence["quality"] == "mutual 10-NN"


def test_streamed_and_whole_agree() -> None:
    rows = halving(2500, 16)
    whole = {key: m.value for key, m in at(analysed({"features": rows}).measurements).items()}
    streamed = at(analysed({"features": rows[:1100]}, {"features": rows[1100:]}).measurements)
    assert {key: m.value for key, m in streamed.items()} == {k: pytest.approx(v, rel=1e-9) for k, v in whole.items()}
