"""Embeddings of two views: complete collapse without what holds them apart, dimensional collapse under decay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.case import Case, Kind, Outcome, View
from zoo.data import Images, images
from zoo.nets import perceptron
from zoo.training import batches, descend, kept
from zoo.writing import write_dump

#: Rows of a dump: what analyzers of views ask for.
_ROWS = 1000
#: What VICReg and a contrast reach with these nets on either data set, and chance.
_SOUND, _CHANCE = 0.9, 0.1


@dataclass(frozen=True, slots=True)
class _Augmentation:
    """Random changes of an image: a shift of at most one pixel, noise, and the share of pixels kept."""

    side: int
    noise: float = 0.05
    kept: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """A view of each row."""
        size, steps = self.side + 2, torch.arange(self.side)
        padded = functional.pad(x.view(-1, self.side, self.side), [1] * 4).flatten(1)
        corner = torch.randint(3, (2, len(x), 1, 1))
        moved = padded.gather(1, ((corner[0] + steps[:, None]) * size + corner[1] + steps).flatten(1))
        return moved * (torch.rand_like(moved) < self.kept) + self.noise * torch.randn_like(moved)


def _trained(
    model: nn.Module,
    data: Images,
    view: _Augmentation,
    loss: Callable[[Tensor, Tensor], Tensor],
    steering: torch.optim.Optimizer,
) -> None:
    """300 steps on two views of each image; the model is left in evaluation mode."""
    following = batches(len(data.x), 128)

    def of_batch() -> Tensor:
        x = data.x[following()]
        return loss(model(view(x)), model(view(x)))

    model.train()
    descend(steering, of_batch, 300)
    model.eval()


@torch.no_grad()
def _written(folder: Path, model: nn.Module, data: Images, view: _Augmentation) -> tuple[Tensor, Tensor]:
    """Embeddings to train neighbours on and of held-out images; the first thousand and two views of them written."""
    embedded, x = model(data.x), data.x[:_ROWS]
    rows = {"features": embedded[:_ROWS], "view_a": model(view(x)), "view_b": model(view(x)), "labels": data.y[:_ROWS]}
    write_dump(folder, rows)
    return embedded, model(data.held_x)


def _neighbour_accuracy(embedded: Tensor, held: Tensor, data: Images) -> float:
    """Held-out accuracy of the five nearest neighbours by cosine."""
    from sklearn.neighbors import KNeighborsClassifier

    neighbours = KNeighborsClassifier(5, metric="cosine").fit(embedded.numpy(), data.y.numpy())
    return float(neighbours.score(held.numpy(), data.held_y.numpy()))


# --- complete collapse -----------------------------------------------------------------------------------------------

#: Hidden widths, and the decay of each level.
_NORMED = {"perceptron": (96, 64), "deep": (96, 96, 64)}
_SHRINKING = {
    "perceptron": {"healthy": 1e-4, "mild": 0.0435, "collapsed": 0.06},
    "deep": {"healthy": 1e-4, "mild": 0.039, "collapsed": 0.055},
}


def _vicreg(a: Tensor, b: Tensor, spread: float) -> Tensor:
    """Invariance, variance and covariance (Bardes, Ponce & LeCun 2022), the last two times `spread`."""
    terms = 5 * functional.mse_loss(a, b)
    for view in (a, b):
        centred = view - view.mean(0)
        covariance = centred.T @ centred / (len(view) - 1)
        variance = covariance.diagonal()
        hinge = torch.relu(1 - (variance + 1e-4).sqrt()).mean()
        redundancy = (covariance.square().sum() - variance.square().sum()) / view.shape[1]
        terms = terms + spread * (12.5 * hinge + redundancy)
    return terms


def make_complete(case: Case, folder: Path) -> Mapping[str, float]:
    """VICReg, or its invariance term alone with gradients through both views."""
    data = images(case.data)
    model = perceptron(data.pixels, widths=_NORMED[case.architecture], classes=32, is_normed=True)
    decay, view = _SHRINKING[case.architecture][case.level], _Augmentation(data.side)
    steering = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=decay, foreach=True)
    spread = 1.0 if case.level == "healthy" else 0.0
    _trained(model, data, view, lambda a, b: _vicreg(a, b, spread), steering)
    embedded, held = _written(folder / "dump", model, data, view)
    stored = _neighbour_accuracy(embedded.bfloat16().float(), held.bfloat16().float(), data)
    exact = _neighbour_accuracy(embedded, held, data)
    return {"outcome": kept(stored, chance=_CHANCE, sound=_SOUND), "accuracy": stored, "accuracy_in_float32": exact}


COMPLETE = Kind(
    name="complete-collapse",
    title="Complete collapse of the features",
    cause="Two views are pulled together and nothing keeps images apart, neither a variance term nor a stop-gradient "
    "with a predictor: under weight decay all embeddings become one vector (Chen & He 2021, Exploring Simple Siamese "
    "Representation Learning). Healthy: VICReg (Bardes, Ponce & LeCun 2022).",
    architectures=tuple(_NORMED),
    data=("digits", "shapes"),
    outcome=Outcome(
        "held-out 5-NN accuracy of the embeddings as bfloat16, the way from chance to VICReg's",
        healthy=0.8,
        mild=0.75,
        collapsed=0.25,
    ),
    views={
        "dump": View(
            signs=(
                "constant-features/*",
                "effective-rank-features/rank_one_over_rounding",
                "alignment-uniformity/uniformity",
                "variance-covariance/vicreg_variance",
            ),
            intent="representation",
        )
    },
    make=make_complete,
)


# --- dimensional collapse --------------------------------------------------------------------------------------------

#: Widths of the linear layers, and the decay of each level.
_LINEAR = {"square": (64, 64, 64), "tapered": (96, 64, 48)}
_DECAY = {
    "digits": {"healthy": 1e-4, "mild": 0.065, "collapsed": 0.1},
    "shapes": {"healthy": 1e-4, "mild": 0.1, "collapsed": 0.22},
}


def _contrast(a: Tensor, b: Tensor) -> Tensor:
    """Symmetric InfoNCE of squared distances, the loss that the theory of Jing et al. is of."""
    similarity = a @ b.T - a.square().sum(1, keepdim=True) / 2 - b.square().sum(1) / 2
    own = torch.arange(len(a))
    return (functional.cross_entropy(similarity, own) + functional.cross_entropy(similarity.T, own)) / 2


def make_dimensional(case: Case, folder: Path) -> Mapping[str, float]:
    """A deep linear net on a contrast; healthy with weak views and little decay."""
    data = images(case.data)
    widths = (data.pixels, *_LINEAR[case.architecture])
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
    model = nn.Sequential(nn.BatchNorm1d(data.pixels, affine=False), *layers)
    view = _Augmentation(data.side) if case.level == "healthy" else _Augmentation(data.side, noise=0.2, kept=0.8)
    decay = _DECAY[case.data][case.level]
    steering = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=decay, foreach=True)
    _trained(model, data, view, _contrast, steering)
    right = _neighbour_accuracy(*_written(folder / "dump", model, data, view), data)
    return {"outcome": kept(right, chance=_CHANCE, sound=_SOUND), "accuracy": right}


DIMENSIONAL = Kind(
    name="dimensional-collapse",
    title="Dimensional collapse of the features",
    cause="A contrast of views that share little through a deep linear net under weight decay: directions in which "
    "augmentation outweighs the data shrink to nothing, and depth shrinks the weak ones faster (Jing, Vincent, LeCun & "
    "Tian 2022, Understanding Dimensional Collapse in Contrastive Self-supervised Learning).",
    architectures=tuple(_LINEAR),
    data=("digits", "shapes"),
    outcome=Outcome(
        "held-out 5-NN accuracy, the way from chance to a sound embedding's", healthy=0.8, mild=0.75, collapsed=0.45
    ),
    views={
        "dump": View(
            signs=("rankme/*", "cross-correlation/off_diagonal_excess", "isotropy/*", "lidar/*"),
            intent="representation",
        )
    },
    make=make_dimensional,
)
