"""Drift of representations: fine-tuning on a narrow task at a rate that keeps the features, or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.nets import Stack, perceptron
from zoo.training import fit_classifier
from zoo.writing import write_dump

_WIDTHS = {"perceptron": (128, 64), "deep": (128, 96, 64)}
#: Rates of fine-tuning; what is deeper bears less.
_RATE = {
    "healthy": {"perceptron": 3e-4, "deep": 3e-4},
    "mild": {"perceptron": 0.05, "deep": 0.02},
    "collapsed": {"perceptron": 0.2, "deep": 0.15},
}
CLASSES, STEPS = 10, 60


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """Features of half of the held-out rows before and after; neighbours of the other half tell."""
    data = images(case.data)
    model = perceptron(data.pixels, widths=_WIDTHS[case.architecture])
    fit_classifier(model, data.x, data.y, torch.optim.Adam(model.parameters(), lr=3e-3, foreach=True), 200)
    shown, told = slice(0, None, 2), slice(1, None, 2)
    known = []
    for place, name in enumerate(("0-before", "1-after")):
        if place:
            rate = _RATE[case.level][case.architecture]
            steering = torch.optim.Adam(model.parameters(), lr=rate, foreach=True)
            fit_classifier(model, data.x, (data.y >= CLASSES // 2).long(), steering, STEPS)
        rows = {"features": _features(model, data.held_x[shown]), "labels": data.held_y[shown]}
        write_dump(folder / "pair" / name, rows, {"step": str(place * STEPS)})
        known.append(_neighbours(model, (data.x, data.y), (data.held_x[told], data.held_y[told])))
    chance = 1 / CLASSES
    return {"outcome": (known[1] - chance) / (known[0] - chance), "before": known[0], "after": known[1]}


@torch.no_grad()
def _features(model: Stack, x: Tensor) -> Tensor:
    return model.features(x)


@torch.no_grad()
def _neighbours(model: Stack, known: tuple[Tensor, Tensor], asked: tuple[Tensor, Tensor]) -> float:
    """Accuracy of five nearest neighbours in the features."""
    near = torch.cdist(_features(model, asked[0]), _features(model, known[0])).topk(5, largest=False).indices
    return (known[1][near].mode(1).values == asked[1]).double().mean().item()


KIND = Kind(
    name="representation-drift",
    title="Lost representations",
    cause="Fine-tuning at a huge rate on a task that needs two classes: features that told ten apart are distorted "
    "(Kumar et al. 2022, Fine-tuning can distort pretrained features).",
    architectures=tuple(_WIDTHS),
    data=("digits", "shapes"),
    outcome=Outcome(
        "accuracy of neighbours among the old classes, share of that before", healthy=0.85, mild=0.8, collapsed=0.3
    ),
    views={"pair": View(signs=("representation-drift/*",), how="diff")},
    make=make,
)
