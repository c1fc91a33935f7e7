"""Geometry under imbalance: the closed-form optimum, the published critical sizes, and what collapse looks like."""

import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.neural_collapse.imbalanced_geometry import collapsed, healthy, imbalanced_geometry
from collapse_cli.kernels import imbalanced_frame
from collapse_cli.kernels.imbalanced_frame import Decay
from tests.contract.examples import analysed
from tests.neural_collapse import found, measured


@pytest.mark.parametrize(
    ("layers", "decay", "wanted"),
    [
        (1, 3e-3, [0.8854, 0.8379, 0.7708, 0.6759, 0.2752, 0.0]),
        (2, 5e-3, [0.9279, 0.8836, 0.8098, 0.6799, 0.0, 0.0]),
        (3, 1e-2, [0.9105, 0.8436, 0.7141, 0.0, 0.0, 0.0]),
    ],
)
def test_optimal_products_are_those_of_alternating_ridge(layers: int, decay: float, wanted: list[float]) -> None:
    sizes = torch.tensor([400.0, 200.0, 100.0, 50.0, 10.0, 4.0])
    _, products = imbalanced_frame.optimal_energies(sizes, 764.0, Decay(decay, decay, layers))
    assert products.tolist() == pytest.approx(wanted, abs=1e-4)


def test_one_layer_has_a_closed_form() -> None:
    sizes, total, weights, features = torch.tensor([400.0, 60.0, 20.0]), 480.0, 3e-3, 1e-3
    energies, products = imbalanced_frame.optimal_energies(sizes, total, Decay(weights, features))
    n = sizes.double().numpy()
    assert energies.numpy() == pytest.approx(np.sqrt(n * features / weights) - total * features, rel=1e-9)
    assert products.numpy() == pytest.approx(1 - total * np.sqrt(weights * features / n), rel=1e-9)


def test_a_root_alone_does_not_make_a_class_live() -> None:
    # the stationary point has p = .448, and zero is lower
    energies, _ = imbalanced_frame.optimal_energies(torch.tensor([400.0]), 764.0, Decay(0.03, 0.03, 2))
    assert energies.tolist() == [0.0]


def test_the_optimum_has_its_slopes() -> None:
    got = found(analysed(imbalanced_geometry, healthy()))
    wanted = {
        "orthogonal_frame_error": 0.0,
        "length_slope": 1.0,
        "shrink_slope": -0.5,
        "gof_error": 0.0,
        "minority_cosine": 0.0,
        "head_norm_count_spearman": 1.0,
        "vanished_classes": 0.0,
    }
    # the features are float32
    assert {name: one.value for name, one in got.items()} == pytest.approx(wanted, abs=2e-6)


def test_merged_and_vanished_class_vectors() -> None:
    got = found(analysed(imbalanced_geometry, collapsed()))
    assert got["minority_cosine"].value == pytest.approx(1.0, abs=1e-6)
    assert got["vanished_classes"].value == 1
    assert got["vanished_classes"].evidence["labels"] == [5]
    assert got["gof_error"].value > 0.05


def frame(sizes: list[int], *, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    many = len(sizes)
    labels = torch.repeat_interleave(torch.arange(many), torch.tensor(sizes))
    means = torch.randn(many, 12, generator=generator, dtype=torch.float64)
    rows = means[labels] + 0.1 * torch.randn(len(labels), 12, generator=generator, dtype=torch.float64)
    head = torch.randn(many, 12, generator=generator, dtype=torch.float64)
    return {"features": rows, "labels": labels, "head_weight": head}


def test_equals_its_definitions_on_random_vectors() -> None:
    sizes = [90, 60, 50, 40, 30, 20, 10]
    arrays = frame(sizes)
    got = found(measured(imbalanced_geometry, **arrays, metadata={"weight_decay": "1e-3 2e-3"}))
    x, y, w = (arrays[name].numpy() for name in ("features", "labels", "head_weight"))
    m, n = np.stack([x[y == k].mean(0) for k in range(7)]), np.array(sizes, dtype=float)
    cosines = m @ m.T / np.outer(np.linalg.norm(m, axis=1), np.linalg.norm(m, axis=1))
    off_diagonal = np.abs(cosines[~np.eye(7, dtype=bool)])
    assert got["orthogonal_frame_error"].value == pytest.approx(off_diagonal.mean(), rel=1e-9)
    ratio = np.log((w**2).sum(1) / (m**2).sum(1))
    assert got["length_slope"].value == pytest.approx(np.polyfit(np.log(n), ratio, 1)[0], rel=1e-9)
    shrunk = 1 - (w * m).sum(1)
    chosen = shrunk > 0
    slope = np.polyfit(np.log(n[chosen]), np.log(shrunk[chosen]), 1)[0]
    assert got["shrink_slope"].value == pytest.approx(slope, rel=1e-9)
    rare = w[-2:] / np.linalg.norm(w[-2:], axis=1, keepdims=True)
    assert got["minority_cosine"].value == pytest.approx(rare[0] @ rare[1], rel=1e-9)
    ideal, gram = np.diag(np.sqrt(n * 2) - 300 * 2e-3), w @ w.T
    wanted = np.linalg.norm(gram / np.linalg.norm(gram) - ideal / np.linalg.norm(ideal))
    assert got["gof_error"].value == pytest.approx(wanted, rel=1e-9)


def test_a_class_mean_at_the_origin_has_vanished() -> None:
    arrays = frame([100, 60, 40, 30])
    noise = torch.randn(40, 12, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    arrays["features"][arrays["labels"] == 2] = noise
    got = found(measured(imbalanced_geometry, **arrays))
    assert got["vanished_classes"].evidence["labels"] == [2]
    assert got["vanished_classes"].null == 0


def test_classes_below_the_critical_size_are_predicted_to_vanish() -> None:
    sizes = torch.tensor([400, 200, 100, 50, 10, 4])
    arrays = frame([6] * 6) | {"class_counts": sizes}
    got = found(measured(imbalanced_geometry, **arrays, metadata={"weight_decay": "3e-3, 3e-3"}))
    # N²λ² = 5.25
    assert got["vanished_classes"].null == 1
    assert math.isclose(got["vanished_classes"].evidence["imbalance"], 100.0)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", None),
        ("5e-4", None),
        ("5e-4, -1", None),
        ("a b c", None),
        ("1e-3, 1e-3, 2.5", None),
        ("1e-3, 1e-3, 1000", None),
        ("5e-4, 1e-5, 3", Decay(5e-4, 1e-5, 3)),
        ("[0.1, 0.2]", Decay(0.1, 0.2, 1)),
    ],
)
def test_weight_decay_is_read_from_text(text: str, wanted: Decay | None) -> None:
    assert imbalanced_frame.decay_of({"weight_decay": text}) == wanted


def test_balanced_misfit_and_empty_dumps_are_skipped() -> None:
    balanced = measured(imbalanced_geometry, **frame([20] * 4))
    assert "see class-means" in balanced.skips[0].reason
    counts = measured(imbalanced_geometry, **frame([40, 20, 10]), class_counts=torch.tensor([5, 0, 1]))
    assert "class_counts does not give" in counts.skips[0].reason
    arrays = frame([40, 20, 10])
    nothing = measured(imbalanced_geometry, **{**arrays, "head_weight": torch.zeros(3, 12, dtype=torch.float64)})
    assert found(nothing)["vanished_classes"].value == 3
