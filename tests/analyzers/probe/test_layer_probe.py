"""Readouts against scikit-learn and the definitions written out densely."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from collapse_cli import kernels
from collapse_cli.analyzers.probe.layer_probe import layer_probe
from collapse_cli.kernels.batches import row_hash
from tests.analyzers.probe.depth import Arrays, layers, subject
from tests.views import at


def gaussian_classes(
    distance: float, *, rows: int = 400, width: int = 12, classes: int = 4, seed: int = 0
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % classes
    means = distance * torch.randn(classes, width, generator=generator, dtype=torch.float64)
    noise = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    return {"features": noise + means[labels] + 5.0, "labels": labels}


def measured(points: list[Arrays], batches: int = 1) -> dict[tuple[str, str], float]:
    return {key: found.value for key, found in at(layer_probe.run(layers(layer_probe, points, batches))).items()}


def halves(rows: int) -> np.ndarray:
    """Which rows are in the second fold: the lowest bit of the hash of the row."""
    return ((row_hash(torch.arange(rows), 0x5EED_F01D) & 1) == 1).numpy()


def dense_ridge_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """The hat matrix of each fold written out, the penalty of least GCV, scikit-learn's ridge on the other fold."""
    second = halves(len(labels))
    hits = 0
    for fitted in (second, ~second):
        x, y = features[fitted], np.eye(labels.max() + 1)[labels[fitted]]
        centred = x - x.mean(0)
        largest = np.linalg.norm(centred, 2) ** 2
        best = (np.inf, 0.0)
        for penalty in largest * 10.0 ** np.linspace(-7, 2, 19):
            hat = centred @ np.linalg.solve(centred.T @ centred + penalty * np.eye(x.shape[1]), centred.T) + 1 / len(x)
            residual = np.square(y - hat @ y).sum()
            best = min(best, (len(x) * residual / (len(x) - np.trace(hat)) ** 2, penalty))
        predicted = Ridge(alpha=best[1]).fit(x, y).predict(features[~fitted]).argmax(1)
        hits += int((predicted == labels[~fitted]).sum())
    return hits / len(labels)


@pytest.mark.parametrize("distance", [0.0, 0.2, 0.5])
def test_ridge_accuracy_is_that_of_scikit_learn_with_the_penalty_of_least_gcv(distance: float) -> None:
    arrays = gaussian_classes(distance)
    expected = dense_ridge_accuracy(arrays["features"].numpy(), arrays["labels"].numpy())
    found = measured([arrays])
    assert found["ridge_accuracy", "layers.0"] == pytest.approx(expected, abs=1e-12)


def test_the_score_of_generalised_cross_validation_is_that_of_the_hat_matrix() -> None:
    arrays = gaussian_classes(0.5, rows=60)
    x, y = arrays["features"].numpy(), np.eye(4)[arrays["labels"].numpy()]
    x, centred = x - x.mean(0), y - y.mean(0)
    eigenvalues, directions = np.linalg.eigh(x.T @ x)
    energies = np.square(directions.T @ x.T @ centred).sum(1)
    penalties = torch.tensor([0.1, 10.0, 1000.0], dtype=torch.float64)
    found = kernels.probes.generalised_cross_validation(
        torch.tensor(eigenvalues),
        torch.tensor(energies),
        penalties,
        count=60,
        variance=float(np.square(centred).sum()),
    )
    for value, penalty in zip(found.tolist(), penalties.tolist(), strict=True):
        hat = x @ np.linalg.inv(x.T @ x + penalty * np.eye(12)) @ x.T + 1 / 60
        expected = 60 * np.square(y - hat @ y).sum() / (60 - np.trace(hat)) ** 2
        assert value == pytest.approx(expected, rel=1e-9)


def test_neighbour_accuracy_is_that_of_scikit_learn_without_the_row_itself() -> None:
    arrays = gaussian_classes(0.4, rows=200)
    features, labels = arrays["features"].numpy(), arrays["labels"].numpy()
    hits = 0
    for row in range(200):
        others = np.arange(200) != row
        model = KNeighborsClassifier(10, metric="cosine").fit(features[others], labels[others])
        hits += int(model.predict(features[row : row + 1])[0] == labels[row])
    assert measured([arrays])["knn_accuracy", "layers.0"] == pytest.approx(hits / 200, abs=1e-12)


def test_nearest_mean_leaves_each_row_out_of_its_own() -> None:
    arrays = gaussian_classes(0.3, rows=240)
    features, labels = arrays["features"].numpy(), arrays["labels"].numpy()
    hits = 0
    for row in range(240):
        others = np.arange(240) != row
        means = [features[others & (labels == k)].mean(0) for k in range(4)]
        hits += int(np.argmin([np.linalg.norm(features[row] - mean) for mean in means]) == labels[row])
    assert measured([arrays])["centroid_accuracy", "layers.0"] == pytest.approx(hits / 240, abs=1e-12)


def test_factor_share_is_the_share_of_the_sums_of_squares() -> None:
    arrays = gaussian_classes(0.5)
    features, labels = arrays["features"].numpy(), arrays["labels"].numpy()
    groups = torch.arange(400) // 10

    def share(of: np.ndarray) -> float:
        within = sum(np.square(features[of == k] - features[of == k].mean(0)).sum() for k in np.unique(of))
        return float(1 - within / np.square(features - features.mean(0)).sum())

    results = at(layer_probe.run(layers(layer_probe, [arrays | {"groups": groups}])))
    found = results["factor_share", "layers.0"]
    assert found.value == pytest.approx(share(labels), rel=1e-10)
    assert found.null == pytest.approx(3 / 399)
    assert found.evidence["group_share"] == pytest.approx(share(groups.numpy()), rel=1e-10)


def duplicated_objects(*, width: int = 60, objects: int = 100, copies: int = 8) -> dict[str, torch.Tensor]:
    """Rows that all but repeat their object; the label of an object is a coin, which no feature knows."""
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(objects, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 2, (objects,), generator=generator).repeat_interleave(copies)
    noise = 0.01 * torch.randn(objects * copies, width, generator=generator, dtype=torch.float64)
    return {"features": centres.repeat_interleave(copies, 0) + noise, "labels": labels}


def test_rows_of_one_group_are_never_on_both_sides() -> None:
    arrays = duplicated_objects()
    leaking = measured([arrays])["ridge_accuracy", "layers.0"]
    assert leaking > 0.75  # the object is recognised, the class is not known
    found = at(layer_probe.run(layers(layer_probe, [arrays | {"groups": torch.arange(800) // 8}], batches=3)))
    apart = found["ridge_accuracy", "layers.0"]
    # a hundred fair coins have a standard error of .05
    assert apart.value == pytest.approx(0.5, abs=0.15)
    assert apart.value < leaking - 0.1
    alone = measured([arrays | {"groups": torch.full((800,), -1)}])["ridge_accuracy", "layers.0"]
    assert alone == leaking  # rows of no group are split one by one


def test_groups_that_are_the_classes_leave_nothing_to_test() -> None:
    arrays = gaussian_classes(0.5)
    results = list(layer_probe.run(layers(layer_probe, [arrays | {"groups": arrays["labels"]}])))
    (said,) = [result for result in results if not hasattr(result, "metric")]
    assert said.site == "layers.0"
    assert said.reason == "fewer than 20 test rows per class in two classes, the rows of a group kept together"


def test_rows_in_several_batches_are_the_same_rows() -> None:
    points: list[Arrays] = [gaussian_classes(distance, seed=seed) for seed, distance in enumerate((0.2, 0.5, 0.3))]
    whole, split = measured(points), measured(points, batches=5)
    assert whole.keys() == split.keys()
    for key, value in whole.items():
        assert split[key] == pytest.approx(value, rel=1e-9), key


def test_separated_classes_are_found_by_all_and_equal_rows_by_none() -> None:
    apart = measured([gaussian_classes(20.0)])
    assert [apart[f"{name}_accuracy", "layers.0"] for name in ("ridge", "centroid", "knn")] == [1.0, 1.0, 1.0]
    labels = torch.tensor([0] * 60 + [1] * 160 + [2] * 80)
    equal = measured([{"features": torch.full((300, 8), 0.1), "labels": labels}])
    assert equal["centroid_accuracy", "layers.0"] == pytest.approx(160 / 300)
    assert equal["knn_accuracy", "layers.0"] == pytest.approx(160 / 300)
    assert equal["ridge_accuracy", "layers.0"] == pytest.approx(160 / 300)
    assert equal["ridge_accuracy_z", "layers.0"] == pytest.approx(0.0, abs=1e-9)
    assert ("factor_share", "layers.0") not in equal


def test_a_tie_of_all_rows_goes_to_the_first_of_equal_classes() -> None:
    direction = 1e3 * torch.randn(9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    equal = measured([{"features": direction.repeat(300, 1), "labels": torch.arange(300) % 3}], batches=5)
    assert equal["centroid_accuracy", "layers.0"] == pytest.approx(1 / 3)
    assert equal["knn_accuracy", "layers.0"] == pytest.approx(1 / 3)


def test_the_best_layer_and_the_series_are_named() -> None:
    points: list[Arrays] = [gaussian_classes(distance, seed=seed) for seed, distance in enumerate((0.1, 1.0, 0.2))]
    results = at(layer_probe.run(layers(layer_probe, points)))
    loss = results["last_layer_loss", "#layers"]
    accuracies = [results["ridge_accuracy", f"layers.{i}"].value for i in range(3)]
    assert loss.value == pytest.approx(accuracies[1] - accuracies[2])
    assert loss.evidence["layer"] == [0, 1, 2]
    assert loss.evidence["value"] == accuracies
    assert loss.evidence["best"] == "layers.1"
    # Blom's score of three, 0.82 standard errors (exact: 0.846)
    error = (accuracies[2] * (1 - accuracies[2]) / 400) ** 0.5
    assert loss.null == pytest.approx(0.846 * error, rel=0.05)


def test_only_the_last_layer_is_judged_and_only_at_chance() -> None:
    noise = gaussian_classes(0.0, rows=600)
    findings = subject(layer_probe, [gaussian_classes(1.0, rows=600), noise]).findings
    assert [(f.measurement.metric, f.measurement.site) for f in findings] == [("ridge_accuracy_z", "layers.1")]
    assert "held-out rows" in findings[0].message
    assert subject(layer_probe, [noise, gaussian_classes(1.0, rows=600)]).findings == ()


def test_rare_classes_are_not_judged_by_accuracy() -> None:
    arrays = gaussian_classes(0.0, rows=1200)
    labels = (torch.arange(1200) % 20 == 0).long()
    result = subject(layer_probe, [{"features": arrays["features"], "labels": labels}])
    assert result.findings == ()
    assert any("ridge_accuracy_z" in skip.reason for skip in result.skips)


@pytest.mark.parametrize("labels", [torch.zeros(200).long(), torch.arange(200) % 50, torch.full((200,), -1)])
def test_too_few_rows_of_a_class_are_a_stated_skip(labels: torch.Tensor) -> None:
    result = subject(layer_probe, [{"features": torch.randn(200, 4), "labels": labels}])
    assert result.measurements == ()
    assert "fewer than 20 test rows per class" in result.skips[0].reason


def test_small_classes_are_counted_and_not_tested() -> None:
    arrays = gaussian_classes(1.0)
    labels = arrays["labels"].clone()
    labels[:5] = 7
    found = at(layer_probe.run(layers(layer_probe, [arrays | {"labels": labels}])))["ridge_accuracy", "layers.0"]
    assert (found.evidence["classes"], found.evidence["small_classes"], found.evidence["tested"]) == (4, 1, 395)
