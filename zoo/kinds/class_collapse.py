"""Class collapse: features that were told superclasses only, trained until the classes inside them merge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from zoo.case import Case, Kind, Level, Outcome, View
from zoo.data import images
from zoo.nets import Stack, perceptron, through
from zoo.training import fit_classifier, kept
from zoo.writing import write_dump

#: Widths of the hidden layers.
_WIDTHS = {"shallow": (96, 48), "deep": (64, 64, 64, 48)}
#: The superclass of each class.
_TOLD: dict[Level, tuple[int, ...]] = {
    "healthy": tuple(range(10)),
    "mild": (0, 1, 2, 3, 4, 0, 1, 2, 3, 4),
    "collapsed": (0, 1, 0, 1, 0, 1, 0, 1, 0, 1),
}
_EACH = 60


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """Descent with decay far into the terminal phase; rows of the dump are training rows."""
    data, told = images(case.data), torch.tensor(_TOLD[case.level])
    model = perceptron(data.pixels, widths=_WIDTHS[case.architecture], classes=int(told.max()) + 1, is_normed=True)
    decay = 5e-4 if case.level == "healthy" else 2e-2
    steering = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=decay, foreach=True)
    fit_classifier(model, data.x, told[data.y], steering, 150 if case.level == "healthy" else 800, batch=128)
    read = _neighbours(model, data.x, data.y, data.held_x, data.held_y)
    rows = torch.cat([(data.y == label).nonzero().flatten()[:_EACH] for label in range(10)])
    with torch.no_grad():
        arrays = through(model, data.x[rows])
    last = f"layers.{len(model.layers) - 1}/features"
    write_dump(folder / "dump", {last: arrays[last], "labels": data.y[rows]}, {"split": "train"})
    return {"outcome": kept(read, chance=0.1, sound=0.97), "neighbours": read}


@torch.no_grad()
def _neighbours(model: Stack, x: Tensor, y: Tensor, held_x: Tensor, held_y: Tensor) -> float:
    """Share of held-out rows whose class is the majority of the five nearest training rows."""
    nearest = torch.cdist(model.features(held_x), model.features(x)).topk(5, largest=False).indices
    return (y[nearest].mode(1).values == held_y).double().mean().item()


KIND = Kind(
    name="class-collapse",
    title="Classes merged",
    cause="Features trained on superclasses with decay far beyond the last error: what does not help to tell "
    "superclasses is lost (Papyan, Han & Donoho 2020; Chen et al. 2022, Perfectly Balanced: Improving Transfer and "
    "Robustness of Supervised Contrastive Learning).",
    architectures=tuple(_WIDTHS),
    data=("digits", "shapes"),
    outcome=Outcome(
        "held-out accuracy of neighbours in feature space on the ten classes, share of the way from chance",
        healthy=0.8,
        mild=0.75,
        collapsed=0.4,
    ),
    views={"dump": View(signs=("variability/*", "class-means/*", "pair-margin/*"), intent="classifier")},
    make=make,
)
