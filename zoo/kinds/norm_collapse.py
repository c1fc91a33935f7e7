"""Normalisation that switched channels off: too strong a penalty on the gains of batch norm."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.kinds.removal import needed_after_removal, rectifiers
from zoo.nets import Stack, convolutional, perceptron
from zoo.training import accuracy, batches, descend, kept
from zoo.writing import write_weights

#: Weight of the absolute sum of the gains.
_PENALTY = {
    "perceptron": {"healthy": 1e-5, "mild": 0.028, "collapsed": 0.06},
    "convolutional": {"healthy": 1e-5, "mild": 0.07, "collapsed": 0.15},
}
_STEPS = {"perceptron": 400, "convolutional": 200}
#: Share of the channels that sound models need.
_SOUND = {"perceptron": 0.97, "convolutional": 1.0}


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """A network with batch norm, descent with momentum, gains drawn to zero by the proximal step of the penalty."""
    data = images(case.data)
    model, channels = _model(case.architecture, data.side)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    following, penalty = batches(len(data.x), 64), _PENALTY[case.architecture][case.level]
    steering = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4, foreach=True)

    def shrink() -> None:
        # what momentum makes of one step
        step = steering.param_groups[0]["lr"] * penalty / (1 - 0.9)
        for norm in norms:
            norm.weight.data = functional.softshrink(norm.weight.data, step)

    def loss() -> Tensor:
        shrink()
        chosen = following()
        return functional.cross_entropy(model(data.x[chosen]), data.y[chosen])

    # without a schedule, lest the last step be one without the penalty
    descend(steering, loss, _STEPS[case.architecture], is_cosine=False)
    shrink()
    right = accuracy(model, data.held_x, data.held_y)
    needed = needed_after_removal(model, channels, data.x, data.held_x)
    write_weights(folder / "weights", model.state_dict())
    return {
        "outcome": kept(needed, chance=0.0, sound=_SOUND[case.architecture]),
        "needed": needed,
        "accuracy": right,
        "off": torch.cat([norm.weight for norm in norms]).eq(0).double().mean().item(),
    }


def _model(architecture: str, side: int) -> tuple[Stack, list[nn.Module]]:
    """The network, and the layers that put out its normalised channels."""
    if architecture == "perceptron":
        model = perceptron(side**2, widths=(96, 64), is_normed=True)
        return model, rectifiers(model)
    model = convolutional(side, channels=(16, 32))
    return model, rectifiers(model)[:2]


KIND = Kind(
    name="norm-collapse",
    title="Normalisation switched channels off",
    cause="Too strong a penalty on the gains of batch norm: with a fitting one channels are pruned on purpose (Liu et "
    "al. 2017, Learning efficient convolutional networks through network slimming).",
    architectures=("perceptron", "convolutional"),
    data=("digits", "shapes"),
    outcome=Outcome(
        "channels that cannot be removed without changing held-out logits, against what a sound model needs",
        healthy=0.8,
        mild=0.75,
        collapsed=0.4,
    ),
    views={"weights": View(signs=("normalization-scale/*",))},
    make=make,
)
