"""Structure inside classes against scikit-learn, definitions in numpy and closed forms."""

import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from collapse_cli.analyzers.neural_collapse.subclass_collapse import collapsed, subclass_collapse
from collapse_cli.kernels import subclasses
from tests.contract.examples import analysed
from tests.neural_collapse import as_numpy, found, measured, rows_of, within


def blobs(*, gap: float, seed: int = 0, count: int = 60, noise: float = 0.1) -> dict[str, torch.Tensor]:
    """Two classes far apart, each two blobs, named by the fine labels."""
    generator = torch.Generator().manual_seed(seed)
    labels, fine = torch.arange(2 * count) % 2, torch.arange(2 * count) // 2 % 2
    rows = noise * torch.randn(2 * count, 6, generator=generator, dtype=torch.float64)
    rows[:, 0] += 10.0 * labels
    rows[:, 1] += gap * (2.0 * fine - 1.0)
    return {"features": rows, "labels": labels, "fine_labels": fine}


def test_two_points_per_class() -> None:
    got = found(measured(subclass_collapse, **blobs(gap=1.0, noise=0.0)))
    # all spread is along one axis, and two means explain all of it
    assert got["cluster_gain"].value == pytest.approx(math.pi / 2, rel=1e-12)
    assert got["fine_purity_lift"].value == pytest.approx(1.0, rel=1e-12)
    assert got["fine_purity_lift_z"].value > 10


def test_purity_is_counted_within_the_class() -> None:
    arrays = blobs(gap=0.05)
    got = found(measured(subclass_collapse, **arrays))["fine_purity_lift"]
    x, y, fine = (arrays[name].numpy() for name in ("features", "labels", "fine_labels"))
    hits, chance = [], []
    for k in (0, 1):
        rows, names = x[y == k], fine[y == k]
        distance = ((rows[:, None] - rows) ** 2).sum(2)
        np.fill_diagonal(distance, np.inf)
        hits.append((names[distance.argsort(1)[:, :10]] == names[:, None]).mean())
        sizes, n = np.bincount(names), len(names)
        chance.append((sizes * (sizes - 1)).sum() / (n * (n - 1)))
    purity, c = np.mean(hits), np.mean(chance)
    assert got.evidence["chance"] == pytest.approx(c, rel=1e-12)
    assert got.value == pytest.approx((purity - c) / (1 - c), rel=1e-12)


def test_shuffled_fine_labels_are_standard_normal() -> None:
    scores = []
    for seed in range(20):
        arrays = blobs(gap=0.0, seed=seed)
        scores.append(found(measured(subclass_collapse, **arrays))["fine_purity_lift_z"].value)
    assert abs(np.mean(scores)) < 0.7
    assert 0.6 < np.std(scores) < 1.5


@pytest.mark.parametrize("width", [3, 40])
def test_two_means_are_those_of_scikit_learn(width: int) -> None:
    rows = blobs(gap=1.0)["features"][::2]
    rows = torch.nn.functional.pad(rows, (0, width)) - rows.new_zeros(1)
    rows = rows - rows.mean(0)
    fitted = KMeans(2, n_init=10, random_state=0).fit(rows.numpy())
    share = subclasses.two_cluster_share(rows, generator=torch.Generator().manual_seed(0))
    assert share is not None
    assert share[0] == pytest.approx(1 - fitted.inertia_ / float(rows.square().sum()), rel=1e-6)
    values = np.linalg.eigvalsh(np.cov(rows.numpy().T))
    assert share[1] == pytest.approx(values[-1] / values.sum(), rel=1e-9)


def test_one_gaussian_gains_nothing() -> None:
    # an elongated one: in few dimensions of equal strength the best split fits the sample
    generator = torch.Generator().manual_seed(4)
    gains = []
    for _ in range(20):
        rows = torch.randn(400, 8, generator=generator, dtype=torch.float64) * torch.tensor([3.0] + [1.0] * 7).double()
        share, top = subclasses.two_cluster_share(rows - rows.mean(0), generator=generator) or (0.0, 1.0)
        gains.append(share / (2 / math.pi * top))
    assert np.mean(gains) == pytest.approx(1.0, abs=0.05)


def test_intra_share_is_a_ratio_of_traces() -> None:
    x, y = rows_of("imbalanced")
    got = found(measured(subclass_collapse, features=x, labels=y))["intra_share"]
    dense, labels = as_numpy(x, y)
    total = np.trace((dense - dense.mean(0)).T @ (dense - dense.mean(0))) / len(dense)
    assert got.value == pytest.approx(np.trace(within(dense, labels)) / total, rel=1e-9)
    assert got.null == pytest.approx((533 - 5) / (533 - 1))


def test_collapsed_classes_are_one_gaussian() -> None:
    got = found(analysed(subclass_collapse, collapsed()))
    assert abs(got["fine_purity_lift"].value) < 0.1
    assert got["cluster_gain"].value < 1.45


def test_degenerate_dumps_are_skipped() -> None:
    labels = torch.arange(60) % 2
    none = measured(subclass_collapse, features=torch.randn(60, 4), labels=labels)
    assert [skip.reason for skip in none.skips] == ["fine_purity_lift, fine_purity_lift_z: no fine_labels"]
    points = measured(subclass_collapse, features=torch.eye(2)[labels], labels=labels, fine_labels=labels)
    assert found(points)["intra_share"].value == pytest.approx(0.0, abs=1e-15)
    reasons = [skip.reason for skip in points.skips]
    assert reasons[0] == "cluster_gain: every class is one point"
    assert reasons[1].endswith("no class of 20 rows has two fine labels")
    equal = measured(subclass_collapse, features=torch.full((60, 4), 0.1, dtype=torch.float64), labels=labels)
    assert [skip.reason for skip in equal.skips] == ["all rows are equal"]
    few = measured(subclass_collapse, features=torch.randn(20, 4), labels=torch.arange(20) % 2)
    assert "no class with 20 rows" in few.skips[0].reason
