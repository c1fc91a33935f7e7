"""The gap between two modalities: encoders that begin in cones of their own and stay there."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.training import batches, descend, kept
from zoo.writing import write_dump

#: Hidden widths of both encoders.
_HIDDEN = {"wide": (128,), "deep": (96, 96)}
#: Spread of the last bias, temperature and steps of each level; 0 leaves the bias as layers are drawn.
_RECIPE = {"healthy": (0.0, 0.2, 200), "mild": (4.0, 0.02, 60), "collapsed": (24.0, 0.02, 60)}
#: How often a partner is among the nearest ten if all goes well: half an image says so much of the other half.
_SOUND = {"digits": 0.78, "shapes": 0.56}
_ROWS = 1000


def _encoder(inputs: int, hidden: tuple[int, ...], spread: float) -> nn.Sequential:
    """Layers with batch norm and ReLU, and a linear embedding of 32 numbers."""
    blocks = [nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()) for a, b in pairwise((inputs, *hidden))]
    last = nn.Linear(hidden[-1], 32)
    if spread > 0.0:
        nn.init.normal_(last.bias, std=spread)
    return nn.Sequential(*blocks, last)


def _found(a: Tensor, b: Tensor) -> float:
    """How often the partner of a row is among the ten nearest of the other modality."""
    similarity = functional.normalize(a) @ functional.normalize(b).T
    return (similarity > similarity.diagonal()[:, None]).sum(1).lt(10).double().mean().item()


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """Encoders of the upper and the lower half of an image, trained to find the other half."""
    data, (spread, temperature, steps) = images(case.data), _RECIPE[case.level]
    half = data.pixels // 2
    upper, lower = (_encoder(half, _HIDDEN[case.architecture], spread) for _ in "ab")
    both, following = nn.ModuleList([upper, lower]), batches(len(data.x), 256)
    steering = torch.optim.AdamW(both.parameters(), lr=3e-3, weight_decay=1e-2, foreach=True)

    def loss() -> Tensor:
        x = data.x[following()]
        a, b = (functional.normalize(net(part)) for net, part in zip(both, x.split(half, 1), strict=True))
        similarity, own = a @ b.T / temperature, torch.arange(len(x))
        return (functional.cross_entropy(similarity, own) + functional.cross_entropy(similarity.T, own)) / 2

    descend(steering, loss, steps)
    both.eval()
    with torch.no_grad():
        a, b = (functional.normalize(net(part)) for net, part in zip(both, data.x[:_ROWS].split(half, 1), strict=True))
        held = [net(part) for net, part in zip(both, data.held_x.split(half, 1), strict=True)]
    write_dump(folder / "dump", {"modality_a": a, "modality_b": b}, {"paired": "true"})
    found, centred = _found(*held), _found(*(functional.normalize(x) - functional.normalize(x).mean(0) for x in held))
    chance = 10 / len(data.held_x)
    return {
        "outcome": kept(found, chance=chance, sound=_SOUND[case.data]),
        "recall_at_10": found,
        "recall_at_10_without_means": centred,
    }


KIND = Kind(
    name="modality-gap",
    title="Modality gap",
    cause="Encoders that begin in narrow cones of their own, a low temperature that leaves what is far apart alone, "
    "and an end before the cones have met (Liang et al. 2022, Mind the Gap).",
    architectures=tuple(_HIDDEN),
    data=("digits", "shapes"),
    outcome=Outcome(
        "recall at 10 of the held-out partner, the way from chance to a sound pair's",
        healthy=0.8,
        mild=0.7,
        collapsed=0.3,
    ),
    views={"dump": View(signs=("modality-gap/*",), intent="representation")},
    make=make,
)
