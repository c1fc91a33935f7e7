"""Weights below the resolution of their dtype: parameters of a tiny scale, and a cast that does not know of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.nets import Stack, convolutional, perceptron
from zoo.training import accuracy, batches, descend, kept
from zoo.writing import write_weights

#: What the matrices are cast to, and the smallest number it holds.
_DTYPES = {"perceptron": (torch.float16, 2.0**-24), "convolutional": (torch.float8_e4m3fn, 2.0**-9)}
#: Root mean square of the stored matrices at initialisation in units of that number; as usual if healthy.
_SIZES = {
    "perceptron": {"mild": {"digits": 0.17, "shapes": 0.19}, "collapsed": {"digits": 0.13, "shapes": 0.14}},
    "convolutional": {"mild": {"digits": 0.46, "shapes": 0.55}, "collapsed": {"digits": 0.2, "shapes": 0.2}},
}
_STEPS = {"perceptron": 300, "convolutional": 120}
_RATE = 2e-3


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """A network whose matrices are stored small and multiplied up when used; Adam moves both alike."""
    data, (dtype, smallest) = images(case.data), _DTYPES[case.architecture]
    model = _model(case)
    gains = {name: 1.0 for name, matrix in model.named_parameters() if matrix.dim() > 1}
    if case.level != "healthy":
        size = smallest * _SIZES[case.architecture][case.level][case.data]
        gains = {name: float(model.get_parameter(name).detach().square().mean().sqrt()) / size for name in gains}
    for name, gain in gains.items():
        model.get_parameter(name).data /= gain
    steering = torch.optim.Adam(
        [{"params": [one], "lr": _RATE / gains.get(name, 1.0)} for name, one in model.named_parameters()]
    )
    following = batches(len(data.x), 64)

    def loss() -> Tensor:
        chosen = following()
        return functional.cross_entropy(functional_call(model, _used(model, gains), data.x[chosen]), data.y[chosen])

    descend(steering, loss, _STEPS[case.architecture])
    stored = {name: tensor.to(dtype) if name in gains else tensor for name, tensor in model.state_dict().items()}
    before, after = (_right(cast, gains, case) for cast in (model.state_dict(), stored))
    write_weights(folder / "weights", stored)
    return {"outcome": kept(after, chance=0.1, sound=before), "accuracy": after, "accuracy before the cast": before}


def _model(case: Case) -> Stack:
    data = images(case.data)
    return perceptron(data.pixels) if case.architecture == "perceptron" else convolutional(data.side)


def _used(model: Stack, gains: Mapping[str, float]) -> dict[str, Tensor]:
    return {name: gains.get(name, 1.0) * one for name, one in model.named_parameters()}


def _right(stored: Mapping[str, Tensor], gains: Mapping[str, float], case: Case) -> float:
    """Held-out accuracy with these tensors."""
    data, model = images(case.data), _model(case)
    model.load_state_dict({name: gains.get(name, 1.0) * tensor.float() for name, tensor in stored.items()})
    return accuracy(model, data.held_x, data.held_y)


KIND = Kind(
    name="numeric-underflow",
    title="Weights below the resolution of their dtype",
    cause="Parameters of a tiny scale cast to fp16, or to e4m3 without a scale: what is below half of the smallest "
    "number becomes zero (Micikevicius et al. 2017, Mixed precision training; 2022, FP8 formats for deep learning).",
    architectures=tuple(_DTYPES),
    data=("digits", "shapes"),
    outcome=Outcome(
        "held-out accuracy after the cast, share of the way from chance to before it",
        healthy=0.8,
        mild=0.77,
        collapsed=0.3,
    ),
    views={"weights": View(signs=("dtype-range/*",))},
    make=make,
)
