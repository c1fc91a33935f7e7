"""Rank collapse of weights: depth without skips under weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.training import accuracy, fit_classifier, kept
from zoo.writing import write_weights

#: Widths of the hidden layers.
_WIDTHS = {"square": (64, 64, 64), "tapered": (96, 80, 64, 48)}
#: Decay of each level; the healthy one is that of common recipes.
_DECAY = {"healthy": 1e-4, "mild": 0.035, "collapsed": 0.06}


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """Linear layers without skips, descent with momentum; float64, lest rounding refill the spectrum."""
    data = images(case.data)
    widths = (data.pixels, *_WIDTHS[case.architecture])
    model = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(widths)), nn.Linear(widths[-1], 10))
    model = model.double()
    steering = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=_DECAY[case.level], foreach=True)
    fit_classifier(model, data.x.double(), data.y, steering, 600, batch=256)
    right = accuracy(model, data.held_x.double(), data.held_y)
    *layers, head = (layer.float() for layer in model if isinstance(layer, nn.Linear))
    tensors = {f"layers.{place}.weight": layer.weight for place, layer in enumerate(layers)}
    write_weights(folder / "weights", tensors | {"head.weight": head.weight, "head.bias": head.bias})
    return {"outcome": kept(right, chance=0.1, sound=0.95), "accuracy": right}


KIND = Kind(
    name="rank-collapse",
    title="Rank collapse of weights",
    cause="Linear layers without skips under weight decay: what the loss does not hold shrinks to nothing "
    "(Galanti et al. 2022, SGD and weight decay provably induce a low-rank bias).",
    architectures=tuple(_WIDTHS),
    data=("digits", "shapes"),
    outcome=Outcome("held-out accuracy, share of the way from chance", healthy=0.8, mild=0.75, collapsed=0.45),
    views={"weights": View(signs=("effective-rank/*", "stable-rank/*"))},
    make=make,
)
