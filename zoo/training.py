"""The loop that all kinds train with, and the figures of a classifier."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["accuracy", "batches", "descend", "fit_classifier", "kept"]


def batches(count: int, batch: int) -> Callable[[], Tensor]:
    """Indices of the next batch: shuffled epochs without the incomplete last one."""
    order: list[Tensor] = []

    def following() -> Tensor:
        if not order:
            order.extend(torch.randperm(count).split(batch)[: max(count // batch, 1)])
        return order.pop()

    return following


def descend(
    steering: torch.optim.Optimizer, loss: Callable[[], Tensor], steps: int, *, is_cosine: bool = True
) -> float:
    """`steps` steps on a loss, with a cosine schedule unless told otherwise; returns the last loss."""
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(steering, steps) if is_cosine else None
    value = torch.zeros(())
    for _ in range(steps):
        value = loss()
        steering.zero_grad()
        value.backward()
        steering.step()
        if rates is not None:
            rates.step()
    return float(value.detach())


def fit_classifier(
    model: nn.Module, x: Tensor, y: Tensor, steering: torch.optim.Optimizer, steps: int, *, batch: int = 64
) -> float:
    """Cross-entropy training in place; the model is left in evaluation mode. Returns the last loss."""
    following = batches(len(x), batch)

    def loss() -> Tensor:
        chosen = following()
        return functional.cross_entropy(model(x[chosen]), y[chosen])

    model.train()
    last = descend(steering, loss, steps)
    model.eval()
    return last


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of right answers in evaluation mode."""
    model.eval()
    return (model(x).argmax(1) == y).double().mean().item()


def kept(value: float, *, chance: float, sound: float = 1.0) -> float:
    """How much of the way from chance to what a sound model reaches is left: 1 sound, 0 chance."""
    return (value - chance) / (sound - chance)
