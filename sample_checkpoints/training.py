"""What all recipes share: the seeded start, the digits, and the training loop of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Digits:
    """The 1,797 8×8 digits of scikit-learn, pixels in [0, 1]: 1,347 to train on, 450 held out."""

    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor


@dataclass(frozen=True, slots=True)
class Schedule:
    """An optimiser and how long it runs; `batch` 0 is the full set."""

    steps: int
    rate: float
    decay: float = 0.0
    batch: int = 64
    optimiser: Literal["adamw", "sgd"] = "adamw"
    momentum: float = 0.0
    cosine: bool = True


def seeded(seed: int) -> None:
    """The state every recipe starts from: one thread, deterministic kernels, the seed."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)


def digits() -> Digits:
    """The digits, split once and for all by a stratified draw with seed 0."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    x, held_x, y, held_y = train_test_split(pixels / 16, labels, test_size=450, random_state=0, stratify=labels)
    return Digits(
        torch.tensor(x, dtype=torch.float32),
        torch.tensor(y, dtype=torch.int64),
        torch.tensor(held_x, dtype=torch.float32),
        torch.tensor(held_y, dtype=torch.int64),
    )


def optimiser(model: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    """The optimiser a schedule names. AdamW decays weights apart from the gradient, SGD as part of it."""
    if schedule.optimiser == "adamw":
        return torch.optim.AdamW(model.parameters(), lr=schedule.rate, weight_decay=schedule.decay, foreach=True)
    return torch.optim.SGD(
        model.parameters(),
        lr=schedule.rate,
        weight_decay=schedule.decay,
        momentum=schedule.momentum,
        foreach=True,
    )


def batches(count: int, batch: int) -> Callable[[], Tensor]:
    """Indices of the next batch: shuffled epochs without the incomplete last one."""
    order: list[Tensor] = []

    def following() -> Tensor:
        if not order:
            order.extend(torch.randperm(count).split(batch)[: count // batch])
        return order.pop()

    return following


def train(model: nn.Module, x: Tensor, y: Tensor, schedule: Schedule) -> torch.optim.Optimizer:
    """Cross-entropy training in place; returns the optimiser with its state."""
    steering = optimiser(model, schedule)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(steering, schedule.steps, eta_min=schedule.rate * 0.02)
    following = batches(len(x), schedule.batch or len(x))
    model.train()
    for _ in range(schedule.steps):
        chosen = following() if schedule.batch else slice(None)
        loss = functional.cross_entropy(model(x[chosen]), y[chosen])
        steering.zero_grad()
        loss.backward()
        steering.step()
        if schedule.cosine:
            rates.step()
    model.eval()
    return steering


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers in evaluation mode."""
    model.eval()
    return (model(x).argmax(1) == y).float().mean().item()
