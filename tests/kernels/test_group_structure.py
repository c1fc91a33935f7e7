import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import silhouette_score

from collapse_cli.kernels import group_structure as module
from collapse_cli.kernels.accumulators import Batch, ClassMoments
from collapse_cli.kernels.group_structure import (
    compact_labels,
    group_gap,
    left_out_accuracy,
    mean_silhouette,
    share_within,
    variance_share,
)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def moments(rows: torch.Tensor, labels: torch.Tensor) -> ClassMoments:
    result = ClassMoments()
    result.update(Batch({"features": rows, "labels": labels}))
    return result


def test_silhouette_is_that_of_scikit_learn_with_a_row_alone_in_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = gaussian(60, 4) + 30, torch.arange(60) % 5
    labels[7] = 99
    expected = silhouette_score(rows.numpy(), labels.numpy())
    for entries in (1 << 22, 100):
        monkeypatch.setattr(module, "_TILE_ENTRIES", entries)
        assert mean_silhouette(rows, labels) == pytest.approx(expected, abs=1e-10)
    assert mean_silhouette(rows, torch.zeros(60)) is None
    assert mean_silhouette(torch.ones(10, 3), torch.arange(10) % 2) == 0.0


def test_share_of_variance_at_its_ends_and_at_any_offset() -> None:
    labels = torch.arange(90) % 3
    points = gaussian(3, 5)[labels]
    assert variance_share(moments(points, labels)) == pytest.approx(1.0, abs=1e-12)
    noise = gaussian(90, 5)
    centred = noise - torch.stack([noise[labels == k].mean(0) for k in range(3)])[labels]
    assert variance_share(moments(centred, labels)) == pytest.approx(0.0, abs=1e-12)
    expected = variance_share(moments(noise + points, labels))
    assert variance_share(moments(noise + points + 1e5, labels)) == pytest.approx(expected, rel=1e-6)
    assert variance_share(moments(torch.full((90, 5), 0.1), labels)) is None
    assert variance_share(ClassMoments()) is None


def test_share_within_forgets_the_groups() -> None:
    labels, groups = torch.arange(120) % 2, torch.arange(120) // 2 % 3
    classes = gaussian(2, 6)[labels]
    far = 100.0 * gaussian(3, 6, seed=1)[groups]
    assert share_within(classes + far, labels, groups) == pytest.approx(1.0, abs=1e-9)
    assert share_within(far, labels, groups) is None
    assert share_within(torch.zeros(120, 6), labels, groups) is None


def test_parts_left_out_without_a_new_fit_are_those_of_a_new_fit() -> None:
    # more features than rows too, where the hat matrix is nearly the identity
    for width in (6, 150):
        rows, labels, parts = gaussian(120, width) + 3, torch.arange(120) % 3, torch.arange(120) // 3 % 4
        rows[:, 0] += labels
        penalty = 1e-3 * float((rows - rows.mean(0)).square().sum()) / width
        right = 0
        for part in range(4):
            rest = (parts != part).numpy()
            fitted = Ridge(alpha=penalty).fit(rows.numpy()[rest], np.eye(3)[labels.numpy()[rest]])
            right += int((fitted.predict(rows.numpy()[~rest]).argmax(1) == labels.numpy()[~rest]).sum())
        assert left_out_accuracy(rows, labels, parts) == right / 120


def test_why_there_is_no_gap() -> None:
    rows, labels = gaussian(60, 3), torch.arange(60) % 2
    for groups, classes, says in (
        (labels, labels, "confounded"),
        (torch.zeros(60), labels, "fewer than two classes"),
        (torch.arange(60) % 3, torch.arange(60), "fewer than two classes"),
    ):
        found = group_gap((rows, classes, groups), most_rows=50, least_class_rows=5)
        assert isinstance(found, str)
        assert says in found
    assert group_gap((torch.ones(60, 3), labels, torch.arange(60) % 3), most_rows=99, least_class_rows=5) == (
        "all rows are equal"
    )


def test_a_gap_uses_no_more_rows_than_it_may() -> None:
    found = group_gap(
        (gaussian(300, 3), torch.arange(300) % 2, torch.arange(300) // 2 % 3), most_rows=100, least_class_rows=5
    )
    assert not isinstance(found, str)
    assert found[2] == 100


def test_labels_are_renumbered_in_order() -> None:
    place, count = compact_labels(torch.tensor([50, -7, 50, 3]))
    assert place.tolist() == [2, 0, 2, 1]
    assert count == 3
