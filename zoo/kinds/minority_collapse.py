"""Minority collapse: rare classes under strong decay."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from zoo.case import Case, Kind, Level, Outcome, View
from zoo.data import Images, images
from zoo.nets import Stack, perceptron, through
from zoo.training import accuracy, descend, kept
from zoo.writing import write_dump, write_weights

#: Widths of the hidden layers.
_WIDTHS = {"shallow": (96,), "deep": (64, 48)}
#: Training rows of the classes 5-9 (the classes 0-4 have 100 each), and the decay.
_RECIPES: dict[Level, tuple[tuple[int, ...], float]] = {
    "healthy": ((50,) * 5, 5e-4),
    "mild": ((90, 90, 2, 2, 2), 0.04),
    "collapsed": ((2,) * 5, 0.05),
}


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """Full-batch descent with momentum; rows of the dump are held out."""
    data, (rare, decay) = images(case.data), _RECIPES[case.level]
    counts = torch.tensor((100,) * 5 + rare)
    model = perceptron(data.pixels, widths=_WIDTHS[case.architecture])
    _train(model, *_long_tailed(data, counts), decay)
    is_rare = data.held_y >= 5
    common, few = (accuracy(model, data.held_x[part], data.held_y[part]) for part in (~is_rare, is_rare))
    write_weights(folder / "weights", dict(model.state_dict()) | {"head.class_counts": counts})
    with torch.no_grad():
        rows = through(model, data.held_x)
        site = f"layers.{len(model.layers) - 1}"
        rows |= {"labels": data.held_y, f"{site}/logits": model(data.held_x)}
    whole = {"head_weight": model.head.weight, "head_bias": model.head.bias, "class_counts": counts}
    whole = {f"{site}/{role}": tensor for role, tensor in whole.items()}
    write_dump(folder / "dump", rows, {"weight_decay": str(decay)}, whole=whole)
    return {"outcome": kept(few, chance=0.0, sound=0.95), "rare": few, "common": common}


def _long_tailed(data: Images, counts: Tensor) -> tuple[Tensor, Tensor]:
    chosen = torch.cat(
        [
            (data.y == label).nonzero().flatten()[torch.randperm(int((data.y == label).sum()))[:count]]
            for label, count in enumerate(counts.tolist())
        ]
    )
    return data.x[chosen], data.y[chosen]


def _train(model: Stack, x: Tensor, y: Tensor, decay: float) -> None:
    steering = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=decay, foreach=True)
    descend(steering, lambda: functional.cross_entropy(model(x), y), 500)
    model.eval()


KIND = Kind(
    name="minority-collapse",
    title="Minority collapse",
    cause="A few training rows for half of the classes under weight decay: below a critical size the optimum gives "
    "rare classes one class vector (Fang et al. 2021, Exploring Deep Neural Networks via Layer-Peeled Model).",
    architectures=tuple(_WIDTHS),
    data=("digits", "shapes"),
    outcome=Outcome(
        "held-out accuracy on the rare classes, share of a sound model's", healthy=0.8, mild=0.75, collapsed=0.2
    ),
    views={
        "weights": View(signs=("minority-collapse/*", "imbalanced-geometry/*")),
        "dump": View(signs=("minority-collapse/*", "imbalanced-geometry/*")),
    },
    make=make,
)
