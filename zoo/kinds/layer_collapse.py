"""A layer switched off: pruning by magnitude across layers takes the one with the smallest weights whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.kinds.removal import linears
from zoo.nets import perceptron
from zoo.training import accuracy, batches, descend, kept
from zoo.writing import write_weights

#: Weights begin at 1/√fan-in: the layer behind the widest one has the smallest.
_WIDTHS = {"bulge": (48, 160, 48), "late": (48, 48, 160, 48)}
#: How many weights of that layer are left over by the threshold of all layers; half of all if healthy.
_LEFT = {"mild": {"digits": 1, "shapes": 1}, "collapsed": {"digits": 0, "shapes": 0}}


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """A perceptron with batch norm, pruned before training and trained with its mask."""
    data = images(case.data)
    model = perceptron(data.pixels, widths=_WIDTHS[case.architecture], is_normed=True)
    matrices = [layer.weight for layer in linears(model)[:-1]]
    sizes = [matrix.detach().abs() for matrix in matrices]
    if case.level == "healthy":
        threshold = torch.cat([size.flatten() for size in sizes]).median()
    else:
        weakest = min(sizes, key=lambda size: float(size.max()))
        threshold = weakest.flatten().sort(descending=True).values[_LEFT[case.level][case.data]]
    masks = [size > threshold for size in sizes]
    following = batches(len(data.x), 64)

    def loss() -> Tensor:
        _prune(matrices, masks)
        chosen = following()
        return functional.cross_entropy(model(data.x[chosen]), data.y[chosen])

    steering = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, foreach=True)
    descend(steering, loss, 400)
    _prune(matrices, masks)
    right = accuracy(model, data.held_x, data.held_y)
    write_weights(folder / "weights", model.state_dict())
    return {
        "outcome": kept(right, chance=0.1, sound=0.97),
        "accuracy": right,
        "left": min(mask.double().mean().item() for mask in masks),
    }


@torch.no_grad()
def _prune(matrices: list[Tensor], masks: list[Tensor]) -> None:
    for matrix, mask in zip(matrices, masks, strict=True):
        matrix.mul_(mask)


KIND = Kind(
    name="layer-collapse",
    title="A layer was switched off",
    cause="Global pruning by magnitude before training takes the layer with the smallest weights whole (Tanaka et al. "
    "2020, Pruning neural networks without any data by iteratively conserving synaptic flow).",
    architectures=tuple(_WIDTHS),
    data=("digits", "shapes"),
    outcome=Outcome("held-out accuracy, share of the way from chance", healthy=0.8, mild=0.75, collapsed=0.2),
    views={"weights": View(signs=("sparsity/*", "stable-rank/root_mean_square"))},
    make=make,
)
