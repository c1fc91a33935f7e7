"""Cosines against all pairs written out, a hundred ReLU layers against their recursion, predictors that are known."""

import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzer import Example
from collapse_cli.analyzers.neural_collapse.depth_collapse import depth_collapse
from tests.analyzers.probe.depth import Arrays, layers, subject
from tests.contract.examples import judged
from tests.views import at, reasons


def cone(cosine: float, *, rows: int = 64) -> dict[str, torch.Tensor]:
    """Unit rows with that cosine between any two: √c on a common axis, √(1−c) on one of their own."""
    own = math.sqrt(1.0 - cosine) * torch.eye(rows, dtype=torch.float64)
    return {"features": torch.cat([torch.full((rows, 1), math.sqrt(cosine), dtype=torch.float64), own], dim=1)}


def test_the_profile_is_the_mean_over_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    points: list[Arrays] = [
        {"features": torch.randn(50, 6, generator=generator, dtype=torch.float64) + shift} for shift in (0.0, 0.5, 2.0)
    ]
    found = at(depth_collapse.run(layers(depth_collapse, points, batches=4)))
    for layer, point in enumerate(points):
        x = point["features"].numpy()
        units = x / np.linalg.norm(x, axis=1, keepdims=True)
        expected = (units @ units.T)[~np.eye(50, dtype=bool)].mean()
        assert found["cosine_profile", f"layers.{layer}"].value == pytest.approx(expected, rel=1e-9)
    end = found["cosine_end", "#layers"]
    assert end.value == found["cosine_profile", "layers.2"].value
    assert end.null is None
    assert end.evidence["layer"] == [0, 1, 2]
    assert end.evidence["value"] == [found["cosine_profile", f"layers.{i}"].value for i in range(3)]


def test_the_slope_is_that_of_the_last_third() -> None:
    cosines = (0.9, 0.1, 0.5, 0.3, 0.5, 0.6)
    found = at(depth_collapse.run(layers(depth_collapse, [cone(c) for c in cosines])))["cosine_slope", "#layers"]
    assert found.value == pytest.approx(math.log(0.4 / 0.6) - math.log(0.5 / 0.5), rel=1e-9)
    assert found.evidence["value"] == pytest.approx(list(cosines), abs=1e-12)


def test_the_null_is_the_recursion_of_the_named_activation() -> None:
    arrays = {f"layers.{layer}/features": cone(0.3)["features"] for layer in (2, 3, 7, 22, 102)}
    analysis = judged(depth_collapse, Example(arrays, metadata={"activation": "ReLU"}))
    found = {m.metric: m for m in analysis.measurements if m.site == "#layers"}
    assert found["cosine_end"].null == pytest.approx(0.99648, abs=1e-4)
    # .95169 at layer 22 and .99648 at layer 102
    expected = (math.log(0.00352 / 0.99648) - math.log(0.04831 / 0.95169)) / 80
    assert found["cosine_slope"].null == pytest.approx(expected, rel=1e-2)


def test_random_relu_layers_do_what_their_recursion_says() -> None:
    generator = torch.Generator().manual_seed(2)
    width, features = 1024, torch.randn(24, 1024, generator=generator)
    arrays: dict[str, torch.Tensor] = {}
    for layer in range(6):
        arrays[f"layers.{layer}/features"] = features
        weight = torch.randn(width, width, generator=generator) * (2.0 / width) ** 0.5
        features = torch.relu(features @ weight)
    # before an activation: the cosine of what follows the first layer is the map of 0
    found = judged(depth_collapse, Example(arrays, metadata={"activation": "relu"})).measurements
    end = next(m for m in found if m.metric == "cosine_end")
    assert end.null == pytest.approx(end.value, abs=0.03)


def predictor(predicted: torch.Tensor, labels: torch.Tensor, features: torch.Tensor) -> list[Arrays]:
    logits = torch.nn.functional.one_hot(predicted, 4).float()
    point = {"features": features}
    return [point, point, point | {"logits": logits, "labels": labels}]


def test_a_constant_predictor_is_found_and_a_nearly_constant_one_is_not() -> None:
    labels = (torch.arange(80) % 4).clamp_max(2)
    features = torch.randn(80, 5, generator=torch.Generator().manual_seed(0))
    found = subject(depth_collapse, predictor(torch.full((80,), 2), labels, features))
    (finding,) = found.findings
    assert (finding.measurement.metric, str(finding.severity)) == ("majority_share", "warning")
    assert finding.measurement.null == pytest.approx(0.5)
    assert "class 2" in finding.message
    nearly = torch.full((80,), 2)
    nearly[7] = 1
    assert subject(depth_collapse, predictor(nearly, labels, features)).findings == ()


def test_a_nearest_neighbour_predictor_agrees_with_the_nearest_row() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(60, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (60,), generator=generator)
    cosines = torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=2)
    nearest = cosines.fill_diagonal_(-2.0).argmax(1)
    found = at(depth_collapse.run(layers(depth_collapse, predictor(labels[nearest], labels, features))))
    agreement = found["one_nn_agreement", "layers.2"]
    assert agreement.value == 1.0
    shares = [np.bincount(part.numpy(), minlength=4) / 60 for part in (labels[nearest], labels)]
    assert agreement.null == pytest.approx(shares[0] @ shares[1])


def test_what_cannot_be_said_is_skipped() -> None:
    assert reasons(depth_collapse.run(layers(depth_collapse, [cone(0.5)] * 2))) == ["fewer than 3 ordered sites: 2"]
    zero: list[Arrays] = [{"features": torch.zeros(30, 4)}] * 3
    said = "; ".join(reasons(depth_collapse.run(layers(depth_collapse, zero))))
    assert "fewer than 2 rows that are not zero" in said
    assert "no layer has logits and labels" in said
    few = predictor(torch.zeros(8).long(), torch.arange(8) % 2, torch.randn(8, 3))
    assert "8 labelled rows" in "; ".join(reasons(depth_collapse.run(layers(depth_collapse, few))))


def test_parallel_rows_have_a_finite_slope() -> None:
    found = at(depth_collapse.run(layers(depth_collapse, [{"features": torch.full((30, 4), 0.3)}] * 4)))
    assert found["cosine_end", "#layers"].value == pytest.approx(1.0)
    assert found["cosine_slope", "#layers"].value == pytest.approx(0.0, abs=1e-9)
