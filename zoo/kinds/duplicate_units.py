"""Units that repeat one another: growth by copying without noise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.kinds.removal import linears, needed_after_merging, rectifiers, varied
from zoo.nets import Stack, perceptron
from zoo.training import accuracy, fit_classifier, kept
from zoo.writing import write_weights

#: Widths after growth.
_WIDTHS = {"shallow": (96,), "deep": (80, 64)}
#: Width before growth, and the noise of the copies in units of the root mean square of the layer.
_GROWTH = {"healthy": (0.5, 0.5), "mild": (0.6, 0.0), "collapsed": (0.25, 0.0)}
_SOUND = 0.97


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """A small perceptron, widened by copying units and sharing out their outgoing weights, and trained on."""
    data, (share, noise) = images(case.data), _GROWTH[case.level]
    seen = varied(data.x)
    x, held_x = data.x[:, seen], data.held_x[:, seen]
    widths = _WIDTHS[case.architecture]
    small = perceptron(x.shape[1], widths=tuple(round(share * width) for width in widths))
    fit_classifier(small, x, data.y, torch.optim.AdamW(small.parameters(), lr=3e-3, foreach=True), 150)
    model = perceptron(x.shape[1], widths=widths)
    grow(small, model, noise)
    steering = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2, foreach=True)
    fit_classifier(model, x, data.y, steering, 400)
    needed = needed_after_merging(model, rectifiers(model), x, held_x)
    write_weights(folder / "weights", model.state_dict())
    right = accuracy(model, held_x, data.held_y)
    return {"outcome": kept(needed, chance=0.0, sound=_SOUND), "needed": needed, "accuracy": right}


@torch.no_grad()
def grow(small: Stack, model: Stack, noise: float) -> None:
    """Every unit of the small model once, the others drawn from them; outgoing weights divided by the copies."""
    before, after = linears(small), linears(model)
    drawn = torch.arange(before[0].in_features)
    for narrow, wide in zip(before, after, strict=True):
        copies = torch.bincount(drawn, minlength=narrow.in_features)
        weight = (narrow.weight / copies)[:, drawn]
        more = torch.randint(narrow.out_features, (wide.out_features - narrow.out_features,))
        drawn = torch.cat([torch.arange(narrow.out_features), more])
        weight = weight[drawn]
        weight = weight + noise * weight.square().mean().sqrt() * torch.randn_like(weight)
        wide.weight.copy_(weight)
        wide.bias.copy_(narrow.bias[drawn])


KIND = Kind(
    name="duplicate-units",
    title="Duplicate units",
    cause="Growth by copying units (Chen et al. 2015, Net2Net) without the noise that tells the copies apart: equal "
    "units get equal gradients and stay equal.",
    architectures=tuple(_WIDTHS),
    data=("digits", "shapes"),
    outcome=Outcome(
        "units that cannot be merged without changing held-out logits, against what a sound model needs",
        healthy=0.8,
        mild=0.75,
        collapsed=0.4,
    ),
    views={"weights": View(signs=("duplicate-units/*",))},
    make=make,
)
