"""Dumps of classifiers of the digits: neural collapse reached or not, rare classes merged, layers that died."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch
from dump_store import captured, facts, through, written
from torch import Tensor, nn
from training import Digits, Schedule, accuracy, digits, seeded, train


class Classifier(nn.Module):
    """Blocks `layers.N` of a linear layer, batch norm if asked for, and ReLU; then a linear `head`."""

    def __init__(self, *widths: int, classes: int = 10, is_normed: bool = False) -> None:
        super().__init__()
        norm = nn.BatchNorm1d if is_normed else nn.Identity
        blocks = (nn.Sequential(nn.Linear(a, b), norm(b), nn.ReLU()) for a, b in pairwise(widths))
        self.layers = nn.Sequential(*blocks)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, N × classes."""
        return self.head(self.layers(x))


def balanced(y: Tensor, each: int) -> Tensor:
    """Indices of the first `each` samples of every class."""
    return torch.cat([(y == label).nonzero().flatten()[:each] for label in y.unique()])


def whole_classifier(model: Classifier, counts: Tensor) -> dict[str, Tensor]:
    """The head at the site of the last block, with the training samples of each class."""
    site = f"layers.{len(model.layers) - 1}"
    return {
        f"{site}/head_weight": model.head.weight,
        f"{site}/head_bias": model.head.bias,
        f"{site}/class_counts": counts,
    }


def staged(path: Path, schedule: Schedule, *, seed: int) -> str:
    """A classifier of four blocks trained as long as the schedule says; 400 training rows, 40 of each class."""
    seeded(seed)
    sample, model = digits(), Classifier(64, 64, 64, 64, 64, is_normed=True)
    train(model, sample.x, sample.y, schedule)
    held_out = f"accuracy {accuracy(model, sample.held_x, sample.held_y):.3f}"
    rows = balanced(sample.y, 40)
    return written(
        path,
        {**through(model.layers, sample.x[rows]), "labels": sample.y[rows]},
        facts(path, seed=seed, held_out=held_out, split="train"),
        whole_classifier(model, sample.y.bincount()),
    )


def nc_terminal(folder: Path) -> str:
    """Descent with decay long after the last training error: features of a class fall onto their mean."""
    schedule = Schedule(steps=4000, rate=0.05, decay=2e-3, batch=128, optimiser="sgd", momentum=0.9)
    return staged(folder / "nc_terminal", schedule, seed=21)


def nc_early_stopped(folder: Path) -> str:
    """The same classifier after six epochs."""
    schedule = Schedule(steps=60, rate=0.05, decay=2e-3, batch=128, optimiser="sgd", momentum=0.9)
    return staged(folder / "nc_early_stopped", schedule, seed=21)


def long_tailed(sample: Digits, frequent: int, rare: int) -> tuple[Tensor, Tensor]:
    """Indices and class counts of a training set whose classes 0-4 are frequent and 5-9 rare."""
    counts = torch.tensor([frequent] * 5 + [rare] * 5)
    kept = [(sample.y == label).nonzero().flatten()[:count] for label, count in enumerate(counts.tolist())]
    return torch.cat(kept), counts


def minority_collapse(folder: Path) -> str:
    """Five classes with 130 training samples, five with 3, strong decay; rows are the held-out digits."""
    seeded(22)
    sample, path = digits(), folder / "minority_collapse"
    kept, counts = long_tailed(sample, 130, 3)
    model = Classifier(64, 128)
    schedule = Schedule(steps=1500, rate=0.1, decay=0.1, batch=0, optimiser="sgd", momentum=0.9, cosine=False)
    train(model, sample.x[kept], sample.y[kept], schedule)
    common = sample.held_y < 5
    held_out = (
        f"accuracy {accuracy(model, sample.held_x[common], sample.held_y[common]):.3f} common, "
        f"{accuracy(model, sample.held_x[~common], sample.held_y[~common]):.3f} rare"
    )
    return written(
        path,
        {**through(model.layers, sample.held_x), "labels": sample.held_y},
        facts(path, seed=22, held_out=held_out, split="test") | {"weight_decay": str(schedule.decay)},
        whole_classifier(model, counts),
    )


def constant_rows(folder: Path) -> str:
    """A trained classifier whose last block died in a spike of the rate: the embedding is its bias."""
    seeded(23)
    sample, path = digits(), folder / "constant_rows"
    model = Classifier(64, 64, 64, classes=32)
    train(model, sample.x, sample.y, Schedule(steps=400, rate=1e-3))
    train(model, sample.x, sample.y, Schedule(steps=200, rate=3.0, optimiser="sgd", momentum=0.9, cosine=False))
    held_out = f"accuracy {accuracy(model, sample.held_x, sample.held_y):.3f}"
    metadata = facts(path, seed=23, held_out=held_out, split="test")
    return captured(path, model, (sample.held_x, {"labels": sample.held_y}), ["layers.1", "head"], metadata)


def two_clusters(folder: Path) -> str:
    """Digits told apart by parity alone, far into the terminal phase: two points are left of ten classes."""
    seeded(24)
    sample, path = digits(), folder / "two_clusters"
    model = Classifier(64, 128, 64, 64, classes=2, is_normed=True)
    schedule = Schedule(steps=6000, rate=0.05, decay=5e-3, batch=128, optimiser="sgd", momentum=0.9)
    train(model, sample.x, sample.y % 2, schedule)
    held_out = f"accuracy {accuracy(model, sample.held_x, sample.held_y % 2):.3f} in parity"
    rows = balanced(sample.y, 40)
    metadata = facts(path, seed=24, held_out=held_out, split="train")
    return captured(path, model, (sample.x[rows], {"labels": sample.y[rows]}), ["layers.2"], metadata)
