"""Units that died: a spike of the rate without warm-up, and the decay that then shrinks what no gradient holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch.nn import functional

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.kinds.removal import needed_after_removal, rectifiers, varied
from zoo.nets import perceptron
from zoo.training import accuracy, batches, descend, fit_classifier, kept
from zoo.writing import write_weights

_WIDTHS = {"tapered": (128, 64), "deep": (96, 96, 48)}
#: Rate of Adam in the first three steps.
_SPIKE = {
    "tapered": {"mild": {"digits": 0.042, "shapes": 0.032}, "collapsed": {"digits": 0.095, "shapes": 0.09}},
    "deep": {"mild": {"digits": 0.037, "shapes": 0.029}, "collapsed": {"digits": 0.095, "shapes": 0.09}},
}
#: Share of the units that sound models need, about the same for both widths and data sets.
_SOUND = 0.95


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """A perceptron with ReLU on the pixels that vary; the healthy one is trained with momentum from the first step."""
    data = images(case.data)
    seen = varied(data.x)
    x, held_x = data.x[:, seen], data.held_x[:, seen]
    model = perceptron(x.shape[1], widths=_WIDTHS[case.architecture])
    is_healthy = case.level == "healthy"
    steering = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4 if is_healthy else 1e-2, foreach=True
    )
    if is_healthy:
        fit_classifier(model, x, data.y, steering, 600)
    else:
        following = batches(len(x), 64)

        def loss() -> torch.Tensor:
            chosen = following()
            return functional.cross_entropy(model(x[chosen]), data.y[chosen])

        spike = torch.optim.AdamW(model.parameters(), lr=_SPIKE[case.architecture][case.level][case.data], foreach=True)
        descend(spike, loss, 3, is_cosine=False)
        # (1 − 0.1·0.01/(1 − 0.9))^1000 = 4e-5 of a weight without gradient is left
        descend(steering, loss, 1000, is_cosine=False)
    right = accuracy(model, held_x, data.held_y)
    needed = needed_after_removal(model, rectifiers(model), x, held_x)
    write_weights(folder / "weights", model.state_dict())
    return {"outcome": kept(needed, chance=0.0, sound=_SOUND), "needed": needed, "accuracy": right}


KIND = Kind(
    name="dead-units",
    title="Dead units",
    cause="A rate without warm-up pushes ReLU units out of reach of the data, and weight decay shrinks what no "
    "gradient holds (Lu et al. 2019, Dying ReLU and initialization).",
    architectures=tuple(_WIDTHS),
    data=("digits", "shapes"),
    outcome=Outcome(
        "units that cannot be removed without changing held-out logits, against what a sound model needs",
        healthy=0.8,
        mild=0.75,
        collapsed=0.45,
    ),
    views={"weights": View(signs=("dead-units/*",))},
    make=make,
)
