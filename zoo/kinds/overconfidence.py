"""Overconfidence: wrong labels learned by heart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from zoo.case import Case, Kind, Level, Outcome, View
from zoo.data import images
from zoo.nets import perceptron
from zoo.training import accuracy, fit_classifier
from zoo.writing import write_dump

_WIDTHS = {"shallow": (192,), "deep": (128, 96)}
#: Training rows, share of their labels replaced at random, steps, rate and decay.
_RECIPES: dict[Level, tuple[int, float, int, float, float]] = {
    "healthy": (1100, 0.0, 250, 5e-3, 1e-2),
    "mild": (250, 0.3, 400, 1e-2, 0.0),
    "collapsed": (250, 0.8, 400, 2e-2, 0.0),
}
#: One layer is surer of less.
_SHALLOW_NOISE = 0.5
#: Rows that are held out; all data sets have 1,797 or more.
_HELD_OUT = 600


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """Adam on a few rows; the dump has rows with their true labels that were not trained on."""
    data, (count, noise, steps, rate, decay) = images(case.data), _RECIPES[case.level]
    x, y = torch.cat([data.held_x, data.x]), torch.cat([data.held_y, data.y])
    held_x, held_y = x[:_HELD_OUT], y[:_HELD_OUT]
    x, y = x[_HELD_OUT:][:count], y[_HELD_OUT:][:count]
    if case.level == "mild" and case.architecture == "shallow":
        noise = _SHALLOW_NOISE
    said = torch.where(torch.rand(len(y)) < noise, torch.randint(10, y.shape), y)
    model = perceptron(data.pixels, widths=_WIDTHS[case.architecture])
    steering = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay, foreach=True)
    fit_classifier(model, x, said, steering, steps)
    with torch.no_grad():
        logits = model(held_x)
    write_dump(folder / "dump", {"logits": logits, "labels": held_y}, {"split": "test"})
    nats, scaled = _loss(logits, held_y), min(_loss(logits / 1.1**power, held_y) for power in range(-20, 60))
    right = accuracy(model, held_x, held_y)
    return {"outcome": nats - scaled, "accuracy": right, "loss": nats, "fitted": accuracy(model, x, said)}


def _loss(logits: Tensor, y: Tensor) -> float:
    return functional.cross_entropy(logits.double(), y).item()


KIND = Kind(
    name="overconfidence",
    title="Overconfidence",
    cause="Wrong labels fitted to zero loss without decay (Zhang et al. 2017, Understanding deep learning requires "
    "rethinking generalization; Guo et al. 2017, On Calibration of Modern Neural Networks).",
    architectures=tuple(_WIDTHS),
    data=("digits", "shapes"),
    outcome=Outcome(
        "nats of held-out loss that one temperature takes away", healthy=0.1, mild=0.15, collapsed=1.5, better="lower"
    ),
    views={"dump": View(signs=("confidence/*",))},
    make=make,
)
