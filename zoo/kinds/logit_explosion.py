"""Logit explosion: a head trained at a rate that only the scale of its logits survives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch.nn import functional

from zoo.case import Case, Kind, Level, Outcome, View
from zoo.data import images
from zoo.nets import convolutional, perceptron
from zoo.training import accuracy, batches, descend, fit_classifier
from zoo.writing import write_dump

#: Rate of the head.
_RATE: dict[Level, float] = {"healthy": 0.05, "mild": 10.0, "collapsed": 300.0}


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """A sound classifier whose head is trained on; rows of the dump are held out."""
    data = images(case.data)
    if case.architecture == "convolutional":
        model = convolutional(data.side, channels=(6, 12))
    else:
        model = perceptron(data.pixels, widths=(96, 48))
    steering = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-2, foreach=True)
    fit_classifier(model, data.x, data.y, steering, 100)
    with torch.no_grad():
        features, held_features = model.features(data.x), model.features(data.held_x)
    head, following = torch.optim.SGD(model.head.parameters(), lr=_RATE[case.level]), batches(len(data.x), 64)

    def loss() -> torch.Tensor:
        chosen = following()
        return functional.cross_entropy(model.head(features[chosen]), data.y[chosen])

    descend(head, loss, 100, is_cosine=False)
    right = accuracy(model, data.held_x, data.held_y)
    with torch.no_grad():
        logits = model.head(held_features)
    nats = functional.cross_entropy(logits.double(), data.held_y).item()
    write_dump(folder / "dump", {"logits": logits, "labels": data.held_y}, {"split": "test"})
    return {"outcome": nats / math.log(10), "accuracy": right, "loss": nats}


KIND = Kind(
    name="logit-explosion",
    title="Logit explosion",
    cause="A head trained by descent at a huge rate without decay or a z-loss: it turns into a perceptron whose logits "
    "are of the size of the rate (Tyurin 2024, From Logistic Regression to the Perceptron Algorithm).",
    architectures=("perceptron", "convolutional"),
    data=("digits", "shapes"),
    outcome=Outcome(
        "held-out negative log-likelihood over that of a guess", healthy=0.5, mild=1.0, collapsed=20.0, better="lower"
    ),
    views={"dump": View(signs=("logit-scale/*",))},
    make=make,
)
