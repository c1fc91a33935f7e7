"""Rank collapse of weights: depth without skips under weight decay."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.training import accuracy, batches, descend, kept
from zoo.writing import write_weights

#: Widths of the hidden layers.
_WIDTHS = {"square": (64, 64, 64), "tapered": (96, 80, 64, 48)}
#: Decay of each level: the healthy one is that of common recipes, the others leave three directions and one.
_DECAY = {
    "digits": {"healthy": 1e-4, "mild": 0.125, "collapsed": 0.18},
    "shapes": {"healthy": 1e-4, "mild": 0.105, "collapsed": 0.145},
}
_STEPS, _RISE = 450, 200


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """Linear layers without skips, descent with momentum; float64, lest rounding refill the spectrum.

    Decay rises over the first steps: at once it leads to the solution of zeros, another illness.
    """
    data, decay = images(case.data), _DECAY[case.data][case.level]
    widths = (data.pixels, *_WIDTHS[case.architecture])
    model = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(widths)), nn.Linear(widths[-1], 10))
    model, x = model.double(), data.x.double()
    steering = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.0, foreach=True)
    following, taken = batches(len(x), 256), 0

    def loss() -> Tensor:
        nonlocal taken
        taken += 1
        steering.param_groups[0]["weight_decay"] = decay * min(taken / _RISE, 1.0)
        chosen = following()
        return functional.cross_entropy(model(x[chosen]), data.y[chosen])

    descend(steering, loss, _STEPS)
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
    outcome=Outcome("held-out accuracy, share of the way from chance", healthy=0.8, mild=0.77, collapsed=0.4),
    views={"weights": View(signs=("effective-rank/*", "stable-rank/*"))},
    make=make,
)
