"""Divergence: a rate beyond what the curvature allows, in all or in a few of ten classifiers trained side by side."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.training import batches, descend, kept
from zoo.writing import write_weights

_WIDTHS = {"shallow": (32,), "deep": (32, 24)}
#: The rate of a sound model, and the factor that leads beyond the curvature; a rare class has so many times fewer
#: samples.
_RATE, _TOO_LARGE = 0.02, 30.0
#: How many classes are rare if the collapse is to be mild.
_RARE = 4
_SOUND = {"digits": 0.95, "shapes": 0.85}


class OneAgainstAll(nn.Module):
    """A small perceptron for each class: rows of pixels → logits."""

    def __init__(self, widths: tuple[int, ...], classes: int = 10) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(
                *(nn.Sequential(nn.Linear(a, b), nn.LeakyReLU(0.2)) for a, b in pairwise(widths)),
                nn.Linear(widths[-1], 1),
            )
            for _ in range(classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits, N × classes."""
        return torch.cat([branch(x) for branch in self.branches], 1)


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """Squared errors, momentum; the rate of a class grows as its samples get fewer, without a bound."""
    data = images(case.data)
    model = OneAgainstAll((data.pixels, *_WIDTHS[case.architecture]))
    base = _RATE * (_TOO_LARGE if case.level == "collapsed" else 1.0)
    is_rare = [case.level == "mild" and label < _RARE for label in range(10)]
    steering = torch.optim.SGD(
        [
            {"params": list(branch.parameters()), "lr": base * (_TOO_LARGE if rare else 1.0)}
            for branch, rare in zip(model.branches, is_rare, strict=True)
        ],
        momentum=0.9,
        foreach=True,
    )
    chosen = torch.tensor([not is_rare[label] or place % 30 == 0 for place, label in enumerate(data.y.tolist())])
    x, y = data.x[chosen], data.y[chosen]
    following = batches(len(x), 64)

    def loss() -> Tensor:
        batch = following()
        target = 2 * torch.nn.functional.one_hot(y[batch], 10) - 1
        return (model(x[batch]) - target).square().mean(0).sum()

    descend(steering, loss, 300)
    with torch.no_grad():
        logits = model(data.held_x)
    right = (logits.nan_to_num(-torch.inf, -torch.inf, -torch.inf).argmax(1) == data.held_y).double().mean().item()
    write_weights(folder / "weights", model.state_dict())
    finite = torch.stack([torch.stack([p.isfinite().all() for p in b.parameters()]).all() for b in model.branches])
    return {
        "outcome": kept(right, chance=0.1, sound=_SOUND[case.data]),
        "accuracy": right,
        "finite branches": finite.double().mean().item(),
    }


KIND = Kind(
    name="divergence",
    title="Training diverged",
    cause="A rate beyond two over the largest curvature (LeCun et al. 1998, Efficient BackProp), of all classifiers "
    "or, as rates were scaled up with the rarity of a class, of those of the rare classes.",
    architectures=tuple(_WIDTHS),
    data=("digits", "shapes"),
    outcome=Outcome("held-out accuracy, share of the way from chance", healthy=0.8, mild=0.75, collapsed=0.2),
    views={"weights": View(signs=("non-finite/*",))},
    make=make,
)
