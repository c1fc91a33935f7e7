"""Parameters that the optimizer hardly moves: an ε far above the gradients."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.nets import convolutional, perceptron
from zoo.training import accuracy, fit_classifier, kept

#: ε of Adam; the common one if healthy. Gradients of the convolutions are larger, behind a batch norm.
_EPSILON = {
    "perceptron": {"mild": {"digits": 0.022, "shapes": 0.007}, "collapsed": {"digits": 0.5, "shapes": 0.5}},
    "convolutional": {"mild": {"digits": 0.18, "shapes": 0.15}, "collapsed": {"digits": 3.0, "shapes": 3.0}},
}
_STEPS = {"perceptron": 300, "convolutional": 150}


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """A classifier trained by Adam, saved with its optimizer as by PyTorch Lightning."""
    data = images(case.data)
    model = perceptron(data.pixels) if case.architecture == "perceptron" else convolutional(data.side)
    epsilon = 1e-8 if case.level == "healthy" else _EPSILON[case.architecture][case.level][case.data]
    steering = torch.optim.Adam(model.parameters(), lr=1e-3, eps=epsilon, foreach=True)
    fit_classifier(model, data.x, data.y, steering, _STEPS[case.architecture])
    right = accuracy(model, data.held_x, data.held_y)
    (folder / "run").mkdir()
    content = {
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "optimizer_states": [steering.state_dict()],
        "pytorch-lightning_version": "2.4.0",
        "global_step": _STEPS[case.architecture],
        "epoch": 0,
        "loops": {},
        "callbacks": {},
        "lr_schedulers": [],
    }
    torch.save(content, folder / "run" / "last.ckpt")
    return {"outcome": kept(right, chance=0.1, sound=0.94), "accuracy": right}


KIND = Kind(
    name="optimizer-collapse",
    title="Parameters without updates",
    cause="An ε of Adam far above the gradients, so that the steps fade (Kingma & Ba 2014; Wortsman et al. 2023, "
    "Small-scale proxies for large-scale Transformer training instabilities, section 3.4).",
    architectures=tuple(_STEPS),
    data=("digits", "shapes"),
    outcome=Outcome("held-out accuracy, share of the way from chance", healthy=0.8, mild=0.75, collapsed=0.2),
    views={"run": View(signs=("optimizer-state/*",))},
    make=make,
)
