"""Prediction collapse: adaptation by entropy minimisation to a stream of few classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from zoo.case import Case, Kind, Level, Outcome, View
from zoo.data import images
from zoo.nets import Stack, convolutional, perceptron
from zoo.training import accuracy, batches, descend, fit_classifier, kept
from zoo.writing import write_dump

#: How many of the ten classes are in the stream, and the rate of the adaptation.
_STREAMS: dict[Level, tuple[int, float]] = {"healthy": (10, 1e-4), "mild": (5, 0.03), "collapsed": (1, 0.2)}
#: Batch norm holds a convolutional net back.
_CONVOLUTIONAL: dict[Level, tuple[int, float]] = _STREAMS | {"mild": (4, 0.04)}


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """A sound classifier, adapted without labels to darker and noisier rows; the dump has these rows of all classes."""
    data, is_convolutional = images(case.data), case.architecture == "convolutional"
    classes, rate = (_CONVOLUTIONAL if is_convolutional else _STREAMS)[case.level]
    model = convolutional(data.side, channels=(6, 12)) if is_convolutional else perceptron(data.pixels, widths=(96, 48))
    steering = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-2)
    fit_classifier(model, data.x, data.y, steering, 150)
    shifted = 0.9 * data.held_x + 0.05 * torch.randn(data.held_x.shape)
    before = accuracy(model, shifted, data.held_y)
    _adapt(model, shifted[data.held_y < classes], rate)
    right = accuracy(model, shifted, data.held_y)
    with torch.no_grad():
        features, logits = model.features(shifted), model(shifted)
    site = f"layers.{len(model.layers) - 1}"
    rows = {f"{site}/features": features, f"{site}/logits": logits, "labels": data.held_y}
    whole = {f"{site}/head_weight": model.head.weight, f"{site}/head_bias": model.head.bias}
    write_dump(folder / "dump", rows, {"split": "test"}, whole=whole)
    return {"outcome": kept(right, chance=0.1, sound=0.9), "accuracy": right, "before": before}


def _adapt(model: Stack, x: Tensor, rate: float) -> None:
    """Steps on the mean entropy of the predictions, by all parameters."""
    steering, following = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9), batches(len(x), 64)

    def entropy() -> Tensor:
        logits = model(x[following()]).log_softmax(1)
        return -(logits.exp() * logits).sum(1).mean()

    model.train()
    descend(steering, entropy, 80, is_cosine=False)
    model.eval()


KIND = Kind(
    name="prediction-collapse",
    title="Prediction collapse",
    cause="Adaptation at test time by entropy minimisation (Wang et al. 2021, Tent) to a stream in which classes do "
    "not mix: all answers become those of the stream (Gong et al. 2022, NOTE: Robust Continual Test-time Adaptation "
    "Against Temporal Correlation).",
    architectures=("perceptron", "convolutional"),
    data=("digits", "shapes"),
    outcome=Outcome(
        "held-out accuracy after adaptation, share of the way from chance", healthy=0.8, mild=0.75, collapsed=0.25
    ),
    views={"dump": View(signs=("prediction-collapse/*",), intent="classifier")},
    make=make,
)
