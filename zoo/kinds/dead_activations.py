"""Dead activations: a rate spike that switches rectified units off for good."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.nets import perceptron, through
from zoo.training import accuracy, fit_classifier, kept
from zoo.writing import write_dump

_WIDTHS = {"shallow": (64, 32), "deep": (64, 48, 32)}
#: Rates of a spike that some units survive, and of one that none does.
_MILD = {("shallow", "digits"): 0.57, ("shallow", "shapes"): 0.52, ("deep", "digits"): 0.25, ("deep", "shapes"): 0.21}
_COLLAPSED = 6.0
_ROWS = 1100


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """Adam, twenty steps of descent at a large rate on the way, Adam again; rows of the dump are training rows."""
    data = images(case.data)
    model = perceptron(data.pixels, widths=_WIDTHS[case.architecture])
    _fit(model, data.x, data.y, 100)
    if case.level != "healthy":
        rate = _COLLAPSED if case.level == "collapsed" else _MILD[case.architecture, case.data]
        spike = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        fit_classifier(model, data.x, data.y, spike, 20)
    _fit(model, data.x, data.y, 100)
    right = accuracy(model, data.held_x, data.held_y)
    with torch.no_grad():
        rows = through(model, data.x[:_ROWS])
    firing = [(part > 0).any(0).double().mean().item() for part in rows.values()]
    write_dump(folder / "dump", rows | {"labels": data.y[:_ROWS]}, {"split": "train", "activation": "relu"})
    return {"outcome": kept(right, chance=0.1, sound=0.93), "accuracy": right, "least firing": min(firing)}


def _fit(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    steering = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=1e-2, foreach=True)
    fit_classifier(model, x, y, steering, steps)


KIND = Kind(
    name="dead-activations",
    title="Units that never fire",
    cause="A spike of the rate without warm-up pushes the biases of rectified units so far down that none fires again "
    "(Lu et al. 2019, Dying ReLU and Initialization).",
    architectures=tuple(_WIDTHS),
    data=("digits", "shapes"),
    outcome=Outcome("held-out accuracy, share of the way from chance", healthy=0.8, mild=0.75, collapsed=0.2),
    views={"dump": View(signs=("dead-activations/*",), intent="classifier")},
    make=make,
)
