"""Invariance where equivariance was wanted: the predictor of the moved view ignores the motion."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.nets import Stack, perceptron
from zoo.training import accuracy, batches, descend, fit_classifier, kept
from zoo.writing import write_dump

_WIDTHS = {"perceptron": (96, 64), "wide": (128,)}
#: Weight of the plain distance of the two views, 10 being that of the prediction.
_INVARIANCE = {"healthy": 0.0, "mild": 10.0, "collapsed": 60.0}
#: What a head reads of sound embeddings: in which third the sideways motion lies.
_SOUND = {"digits": 0.9, "shapes": 0.75}
_NUMBERS, _VIEWS, _OBJECTS = 16, 8, 120


def _moved(x: Tensor, side: int, motion: Tensor) -> Tensor:
    """Images turned by at most 45° and moved by at most two fifths of half their side."""
    turn, right, down = 0.785 * motion[:, 0], 0.4 * motion[:, 1], 0.4 * motion[:, 2]
    rows = (torch.stack([turn.cos(), -turn.sin(), right], 1), torch.stack([turn.sin(), turn.cos(), down], 1))
    places = functional.affine_grid(torch.stack(rows, 1), [len(x), 1, side, side], align_corners=False)
    return functional.grid_sample(x.view(-1, 1, side, side), places, align_corners=False).flatten(1)


def _loss(a: Tensor, b: Tensor, predicted: Tensor, invariance: float) -> Tensor:
    """Prediction and invariance, with the variance and covariance terms of VICReg on either view."""
    terms = 10 * functional.mse_loss(predicted, b) + invariance * functional.mse_loss(a, b)
    for view in (a, b):
        centred = view - view.mean(0)
        covariance = centred.T @ centred / (len(view) - 1)
        variance = covariance.diagonal()
        terms = terms + 12.5 * torch.relu(1 - (variance + 1e-4).sqrt()).mean()
        terms = terms + (covariance.square().sum() - variance.square().sum()) / view.shape[1]
    return terms


@torch.no_grad()
def _embedded(model: Stack, predictor: nn.Module, x: Tensor, side: int) -> dict[str, Tensor]:
    """Eight motions of each image, as the rows of a dump."""
    objects = torch.arange(len(x)).repeat_interleave(_VIEWS)
    motion = 2 * torch.rand(len(objects), 3) - 1
    a, b = model(x[objects]), model(_moved(x[objects], side, motion))
    return {
        "encoder/view_a": a,
        "encoder/view_b": b,
        "encoder/transformation": motion,
        "encoder/groups": objects,
        "encoder.predictor/features": predictor(torch.cat([a, motion], 1)),
    }


def _readable(seen: Mapping[str, Tensor], held: Mapping[str, Tensor]) -> float:
    """How often a small head, trained on pairs of other images, tells left, middle and right of a sideways motion."""
    head = nn.Sequential(nn.BatchNorm1d(2 * _NUMBERS), nn.Linear(2 * _NUMBERS, 64), nn.ReLU(), nn.Linear(64, 3))
    (x, y), (held_x, held_y) = (
        (
            torch.cat([rows["encoder/view_a"], rows["encoder/view_b"]], 1),
            (1.5 * rows["encoder/transformation"][:, 1]).round().long() + 1,
        )
        for rows in (seen, held)
    )
    fit_classifier(head, x, y, torch.optim.AdamW(head.parameters(), lr=1e-2, foreach=True), 150, batch=128)
    return accuracy(head, held_x, held_y)


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """An encoder and a predictor of the embedding of the moved image from that of the image and the motion."""
    data, invariance = images(case.data), _INVARIANCE[case.level]
    model = perceptron(data.pixels, widths=_WIDTHS[case.architecture], classes=_NUMBERS, is_normed=True)
    predictor = nn.Sequential(nn.Linear(_NUMBERS + 3, 64), nn.ReLU(), nn.Linear(64, _NUMBERS))
    both, following = nn.ModuleList([model, predictor]), batches(len(data.x), 128)
    steering = torch.optim.AdamW(both.parameters(), lr=5e-3, weight_decay=1e-4, foreach=True)

    def loss() -> Tensor:
        x = data.x[following()]
        motion = 2 * torch.rand(len(x), 3) - 1
        a, b = model(x), model(_moved(x, data.side, motion))
        return _loss(a, b, predictor(torch.cat([a, motion], 1)), invariance)

    both.train()
    descend(steering, loss, 300)
    both.eval()
    seen = _embedded(model, predictor, data.x[:300], data.side)
    held = _embedded(model, predictor, data.held_x[:_OBJECTS], data.side)
    write_dump(folder / "dump", held)
    right = _readable(seen, held)
    return {"outcome": kept(right, chance=1 / 3, sound=_SOUND[case.data]), "accuracy_of_motion": right}


KIND = Kind(
    name="equivariance-collapse",
    title="Equivariance collapse",
    cause="The two views are also pulled together: the motion between them leaves the embedding, and a predictor that "
    "ignores it predicts well (Garrido, Najman & LeCun 2023, Split Invariant Equivariant representations).",
    architectures=tuple(_WIDTHS),
    data=("digits", "shapes"),
    outcome=Outcome(
        "held-out accuracy of a head that reads the motion, the way from chance to that of sound embeddings",
        healthy=0.8,
        mild=0.7,
        collapsed=0.25,
    ),
    views={"dump": View(signs=("equivariance-collapse/*",), intent="representation")},
    make=make,
)
