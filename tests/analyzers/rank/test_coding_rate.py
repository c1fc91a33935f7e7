import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.rank.coding_rate import coding_rate
from tests.analyzers.rank.dumps import found, nulls, severities, skipped, split


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def determinant_rate(rows: np.ndarray, weights: np.ndarray) -> float:
    """½ ln det(I + D/(wε²) ZᵀΠZ), w the sum of the weights, as the paper writes it."""
    width = rows.shape[1]
    inner = np.eye(width) + width / (weights.sum() * 0.5) * (rows.T * weights) @ rows
    return 0.5 * float(np.linalg.slogdet(inner)[1])


def by_definition(features: torch.Tensor, weights: np.ndarray) -> tuple[float, float]:
    rows = features.double().numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    rate = determinant_rate(rows, np.ones(len(rows)))
    parts = sum(column.sum() / len(rows) * determinant_rate(rows, column) for column in weights.T)
    return rate, rate - parts


@pytest.mark.parametrize("shape", [(120, 9), (30, 40)])
def test_rates_by_their_definition(shape: tuple[int, int]) -> None:
    features, labels = gaussian(*shape) + 0.3, torch.arange(shape[0]) % 3
    rate, reduction = by_definition(features, np.eye(3)[labels.numpy()])
    values = found(coding_rate, features, labels=labels)
    rank = min(shape)
    assert values["coding_rate_share"] == pytest.approx(rate / (rank / 2 * math.log1p(2 * shape[1] / rank)), rel=1e-9)
    assert values["rate_reduction"] == pytest.approx(reduction, rel=1e-8)


def test_soft_assignments_by_their_definition() -> None:
    features, weights = gaussian(80, 6), torch.softmax(2 * gaussian(80, 3, seed=1), 1)
    _, reduction = by_definition(features, weights.numpy())
    assert found(coding_rate, features, assignments=weights)["rate_reduction"] == pytest.approx(reduction, rel=1e-8)
    assert "soft" in skipped(coding_rate, features, assignments=weights)


def test_orthogonal_classes_and_classes_of_one_direction() -> None:
    axes, labels = torch.eye(32).repeat(4, 1), (torch.arange(32) // 8).repeat(4)
    values = found(coding_rate, axes, labels=labels)
    assert values["rate_reduction"] == pytest.approx(8.7889, abs=1e-4)
    assert values["rate_reduction_share"] == pytest.approx(1.0, rel=1e-12)
    assert values["coding_rate_share"] == pytest.approx(1.0, rel=1e-12)
    collapsed = torch.eye(32)[labels * 8]
    assert found(coding_rate, collapsed, labels=labels)["rate_reduction"] == pytest.approx(3.5792, abs=1e-4)


def test_equal_rows_fill_one_direction_and_gain_nothing() -> None:
    labels = torch.arange(200) % 2
    values = found(coding_rate, torch.ones(200, 32), labels=labels)
    assert values["coding_rate_share"] * 16 * math.log1p(2) == pytest.approx(0.5 * math.log1p(64), rel=1e-9)
    assert values["rate_reduction"] == pytest.approx(0.0, abs=1e-9)
    assert severities(coding_rate, torch.ones(200, 32), labels=labels) == {"warning"}


def test_null_and_its_error_are_what_random_labels_save() -> None:
    drawn = []
    for seed in range(20):
        features, labels = gaussian(600, 8, seed=seed), torch.arange(600) % 3
        drawn.append(found(coding_rate, features, labels=labels)["rate_reduction_z"])
    assert np.mean(drawn) == pytest.approx(0.0, abs=0.8)
    # the null itself is a mean of 4 draws: √(1 + 1/4)
    assert np.std(drawn) == pytest.approx(1.1, abs=0.5)
    features, labels = gaussian(4000, 32), np.arange(4000) % 4
    chance = nulls(coding_rate, features, labels=torch.tensor(labels))["rate_reduction"]
    dealt = np.random.default_rng(1).permutation(labels)
    assert chance == pytest.approx(by_definition(features, np.eye(4)[dealt])[1], rel=0.06)
    # (K−1)D(D−1)/(4N(1+ε²)²) of unit rows, D(D+1) of rows of any norm
    assert chance == pytest.approx(3 * 32 * 31 / (4 * 4000 * 2.25), rel=0.04)


def test_random_features_without_labels_are_no_finding() -> None:
    assert severities(coding_rate, gaussian(200, 64)) == set()
    assert "no labels" in skipped(coding_rate, gaussian(200, 64))


def test_classes_that_are_few_small_or_missing() -> None:
    features = gaussian(60, 4)
    one = torch.zeros(60, dtype=torch.int64)
    assert "1 classes" in skipped(coding_rate, features, labels=one)
    assert "0 classes" in skipped(coding_rate, features, labels=one - 100)
    # the third class has 4 rows and stays out, with its rows
    labels = torch.tensor([0] * 30 + [1] * 26 + [2] * 4)
    assert found(coding_rate, features, labels=labels)["rate_reduction"] == pytest.approx(
        found(coding_rate, features[:56], labels=labels[:56])["rate_reduction"], rel=1e-12
    )
    assert "fewer than 2·40" in skipped(coding_rate, gaussian(60, 40), labels=labels)
    assert "fewer than 10" in skipped(coding_rate, torch.zeros(60, 4), labels=labels)
    assert "fewer than 10" in skipped(coding_rate, features[:9], labels=labels[:9])


def test_in_batches_as_in_one() -> None:
    features, labels = gaussian(200, 12) + 1.0, torch.arange(200) % 5
    assert split(coding_rate, features, labels=labels) == pytest.approx(
        found(coding_rate, features, labels=labels), rel=1e-8
    )
