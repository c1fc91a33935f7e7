"""Features of the scanner: reconstruction spends the code on what differs between batches."""

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

#: Widths of the encoder, the last the code.
_WIDTHS = {"narrow": (96, 12), "wide": (128, 16)}
#: The share of each scanner's own mean that harmonisation leaves in the images.
_LEFT = {
    "digits": {"healthy": 0.0, "mild": 0.33, "collapsed": 1.0},
    "shapes": {"healthy": 0.0, "mild": 0.25, "collapsed": 1.0},
}
#: What a code of this size reaches without scanners.
_SOUND = {"digits": 0.85, "shapes": 0.7}
_SCANNERS = 8


def _chain(widths: tuple[int, ...]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = [nn.Linear(widths[0], widths[1])]
    for inputs, outputs in pairwise(widths[1:]):
        layers += [nn.ReLU(), nn.Linear(inputs, outputs)]
    return nn.Sequential(*layers)


def _elsewhere(codes: tuple[Tensor, Tensor], labels: tuple[Tensor, Tensor], scanners: tuple[Tensor, Tensor]) -> float:
    """Accuracy of held-out classes by the five nearest training rows of all other scanners."""
    from sklearn.neighbors import KNeighborsClassifier

    right = 0
    for scanner in range(_SCANNERS):
        others, here = scanners[0] != scanner, scanners[1] == scanner
        neighbours = KNeighborsClassifier(5, metric="cosine").fit(codes[0][others].numpy(), labels[0][others].numpy())
        right += int((neighbours.predict(codes[1][here].numpy()) == labels[1][here].numpy()).sum())
    return right / len(labels[1])


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """An auto-encoder of images from eight scanners, each with its own background and contrast."""
    data, left = images(case.data), _LEFT[case.data][case.level]
    backgrounds = 1.6 * torch.rand(_SCANNERS, data.pixels)
    contrasts = torch.linspace(0.5, 1, _SCANNERS)[torch.randperm(_SCANNERS), None]
    scanners, held_scanners = (torch.randint(_SCANNERS, (len(y),)) for y in (data.y, data.held_y))
    x = data.x * contrasts[scanners] + backgrounds[scanners]
    own = torch.stack([x[scanners == scanner].mean(0) for scanner in range(_SCANNERS)]) - x.mean(0)
    held_x = data.held_x * contrasts[held_scanners] + backgrounds[held_scanners] - (1 - left) * own[held_scanners]
    x = x - (1 - left) * own[scanners]
    widths = (data.pixels, *_WIDTHS[case.architecture])
    encoder, decoder = _chain(widths), _chain(widths[::-1])
    both, following = nn.Sequential(encoder, decoder), batches(len(x), 128)
    steering = torch.optim.AdamW(both.parameters(), lr=5e-3, foreach=True)

    def loss() -> Tensor:
        chosen = x[following()]
        return functional.mse_loss(both(chosen), chosen)

    descend(steering, loss, 400)
    with torch.no_grad():
        codes, held = encoder(x), encoder(held_x)
    write_dump(folder / "dump", {"features": held, "labels": data.held_y, "groups": held_scanners})
    right = _elsewhere((codes, held), (data.y, data.held_y), (scanners, held_scanners))
    return {"outcome": kept(right, chance=0.1, sound=_SOUND[case.data]), "accuracy_on_another_scanner": right}


KIND = Kind(
    name="group-collapse",
    title="Features tell the scanner, not the class",
    cause="Reconstruction of images from scanners with backgrounds and contrasts of their own, without harmonisation "
    "before the model: what differs most is the scanner, and the code is spent on it (batch effects: Leek et al. 2010, "
    "Tackling the widespread and critical impact of batch effects).",
    architectures=tuple(_WIDTHS),
    data=("digits", "shapes"),
    outcome=Outcome(
        "5-NN accuracy of held-out classes by rows of other scanners, the way from chance to that without scanners",
        healthy=0.8,
        mild=0.75,
        collapsed=0.3,
    ),
    views={"dump": View(signs=("group-collapse/*",), intent="representation")},
    make=make,
)
