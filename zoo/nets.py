"""Architectures that several kinds train."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

__all__ = ["Stack", "convolutional", "perceptron"]


class Stack(nn.Module):
    """Blocks `layers.N` and a linear `head`: rows of pixels → logits. `features` are what the last block gives."""

    def __init__(self, blocks: list[nn.Module], width: int, classes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*blocks)
        self.head = nn.Linear(width, classes)

    def features(self, x: Tensor) -> Tensor:
        """N × width."""
        return self.layers(x)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, N × classes."""
        return self.head(self.layers(x))


def perceptron(
    pixels: int, *, widths: tuple[int, ...] = (128, 64), classes: int = 10, is_normed: bool = False
) -> Stack:
    """Linear layers, batch norm if asked for, and ReLU."""
    norm = nn.BatchNorm1d if is_normed else nn.Identity
    blocks = [nn.Sequential(nn.Linear(a, b), norm(b), nn.ReLU()) for a, b in pairwise((pixels, *widths))]
    return Stack(list(blocks), widths[-1], classes)


def convolutional(side: int, *, channels: tuple[int, int] = (12, 24), classes: int = 10) -> Stack:
    """Two 3×3 convolutions with batch norm and pooling, and a linear layer of 64."""
    a, b = channels
    blocks: list[nn.Module] = [
        nn.Sequential(nn.Unflatten(1, (1, side, side)), nn.Conv2d(1, a, 3, padding=1, bias=False), nn.BatchNorm2d(a))
        .append(nn.ReLU())
        .append(nn.MaxPool2d(2)),
        nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.Flatten()),
        nn.Sequential(nn.Linear(b * (side // 2) ** 2, 64), nn.ReLU()),
    ]
    return Stack(blocks, 64, classes)


@torch.no_grad()
def through(model: Stack, x: Tensor) -> dict[str, Tensor]:
    """What each block gives, rows × numbers, by the name of its array in a dump."""
    arrays = {}
    for place, block in enumerate(model.layers):
        x = block(x)
        arrays[f"layers.{place}/features"] = x.flatten(1)
    return arrays
