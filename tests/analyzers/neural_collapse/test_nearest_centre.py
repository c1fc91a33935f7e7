"""Nearest class means and head, row by row in numpy, and closed forms on the simplex."""

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.neural_collapse.nearest_centre import nearest_centre
from tests.neural_collapse import CASES, as_numpy, class_means, found, measured, rows_of


@pytest.mark.parametrize("window", [0, 37])
@pytest.mark.parametrize("case", CASES)
def test_equals_decisions_row_by_row(case: str, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows_of(case)
    many, width, _ = CASES[case]
    generator = torch.Generator().manual_seed(5)
    full = class_means(*as_numpy(x, y))
    head = torch.tensor(full - full.mean(0)) + torch.randn(many, width, generator=generator, dtype=torch.float64)
    bias = torch.tensor(-(head.numpy() @ full.mean(0)))
    arrays = {"features": x, "labels": y, "head_weight": head, "head_bias": bias}
    got = found(measured(nearest_centre, monkeypatch, window=window, **arrays))
    rows, labels = as_numpy(x, y, rows=5)
    kept = np.unique(labels)
    means = class_means(rows, labels)
    by_head = (rows @ head.numpy().T + bias.numpy()).argmax(1)
    by_mean = kept[((rows[:, None] - means) ** 2).sum(2).argmin(1)]
    hits = []
    for i, label in enumerate(labels):
        others = labels == label
        others[i] = False
        without = means.copy()
        without[kept == label] = rows[others].mean(0)
        hits.append(kept[((rows[i] - without) ** 2).sum(1).argmin()] == label)
    agreement, accuracy = (by_head == by_mean).mean(), np.mean(hits)
    chance = sum((by_head == k).mean() * (by_mean == k).mean() for k in range(many))
    wanted = {
        "ncc_agreement": agreement,
        "agreement_kappa": (agreement - chance) / (1 - chance),
        "agreement_kappa_z": (agreement - chance) / np.sqrt(chance * (1 - chance) / len(rows)),
        "ncc_accuracy": accuracy,
        "head_minus_ncc": (by_head == labels).mean() - accuracy,
    }
    assert {name: one.value for name, one in got.items()} == pytest.approx(wanted, rel=1e-9)
    assert got["ncc_agreement"].null == pytest.approx(chance, rel=1e-9)


SIMPLEX = torch.nn.functional.pad(torch.eye(4, dtype=torch.float64) - 0.25, (0, 3))
LABELS = torch.arange(80) % 4


def test_the_simplex_with_its_own_head_and_with_one_handed_round() -> None:
    arrays = {"features": SIMPLEX[LABELS], "labels": LABELS}
    same = found(measured(nearest_centre, **arrays, head_weight=SIMPLEX))
    assert (same["ncc_agreement"].value, same["agreement_kappa"].value) == (1.0, 1.0)
    assert same["head_minus_ncc"].value == 0.0
    moved = found(measured(nearest_centre, **arrays, head_weight=SIMPLEX.roll(1, 0)))
    assert moved["ncc_agreement"].value == 0.0
    assert (moved["ncc_accuracy"].value, moved["head_minus_ncc"].value) == (1.0, -1.0)
    assert moved["agreement_kappa_z"].value < -3
    logits = found(measured(nearest_centre, **arrays, logits=SIMPLEX[LABELS] @ SIMPLEX.T))
    assert logits["ncc_agreement"].value == 1.0
    assert logits["ncc_agreement"].evidence["head"] == "logits"


def test_random_labels_are_chance_when_the_row_is_left_out() -> None:
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(1000) % 10
    got = [
        found(measured(nearest_centre, features=torch.randn(200, 64, generator=generator), labels=labels[:200]))
        for _ in range(10)
    ]
    accuracy = sum(one["ncc_accuracy"].value for one in got) / 10
    # .1 ± .007; in-sample it would be about .62
    assert accuracy == pytest.approx(0.1, abs=0.03)


def test_an_unrelated_head_is_within_three_standard_errors() -> None:
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(400) % 4
    x = torch.randn(400, 32, generator=generator)
    logits = torch.randn(400, 4, generator=generator)
    got = found(measured(nearest_centre, features=x, labels=labels, logits=logits))
    assert abs(got["agreement_kappa_z"].value) < 3


def test_without_a_head_and_with_one_class_decided_always() -> None:
    arrays = {"features": SIMPLEX[LABELS], "labels": LABELS}
    none = measured(nearest_centre, **arrays)
    assert set(found(none)) == {"ncc_accuracy"}
    assert none.skips[0].reason.endswith("no head and no logits")
    other = measured(nearest_centre, **arrays, head_weight=torch.ones(4, 5, dtype=torch.float64))
    assert "4 × 5" in other.skips[0].reason
    constant = {"features": torch.ones(80, 7), "labels": LABELS}
    equal = measured(nearest_centre, **constant, head_weight=torch.zeros(4, 7), head_bias=torch.eye(4)[0])
    assert found(equal)["ncc_agreement"].value == 1.0
    assert any("both always decide for one class" in skip.reason for skip in equal.skips)
    few = measured(nearest_centre, features=SIMPLEX[LABELS[:20]], labels=LABELS[:20], head_weight=SIMPLEX)
    assert any("agreement_kappa_z: chance leaves 15 rows" in skip.reason for skip in few.skips)
