"""What the models of the zoo learn from: small real and drawn data that need no network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

__all__ = ["IMAGES", "Images", "images"]


@dataclass(frozen=True, slots=True)
class Images:
    """Grey images as rows of side² pixels in [0, 1], of ten classes: some to train on, some held out."""

    x: Tensor
    y: Tensor
    held_x: Tensor
    held_y: Tensor
    side: int

    @property
    def pixels(self) -> int:
        """Numbers of one image."""
        return self.side**2


def images(name: str) -> Images:
    """The data set of that name."""
    return IMAGES[name]()


@cache
def digits() -> Images:
    """The 1,797 8×8 digits of scikit-learn, 450 held out by a stratified draw with seed 0."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels / 16, labels, test_size=450, random_state=0, stratify=labels)
    x, held_x = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
    y, held_y = (torch.tensor(part, dtype=torch.int64) for part in parts[2:])
    return Images(x, y, held_x, held_y, side=8)


@cache
def shapes() -> Images:
    """2,000 drawn 10×10 images of ten shapes: moved, scaled, turned a little, over noise; 500 held out."""
    generator = torch.Generator().manual_seed(10)
    count, side = 2000, 10
    y = torch.arange(count) % 10
    axis = torch.linspace(-1, 1, side)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    moved = 0.25 * (2 * torch.rand(count, 2, 1, 1, generator=generator) - 1)
    scale = 0.75 + 0.4 * torch.rand(count, 1, 1, generator=generator)
    angle = 0.5 * (torch.rand(count, 1, 1, generator=generator) - 0.5)
    v, u = (rows - moved[:, 0]) / scale, (columns - moved[:, 1]) / scale
    u, v = u * angle.cos() - v * angle.sin(), u * angle.sin() + v * angle.cos()
    x = torch.stack([_SHAPES[int(label)](u[i], v[i]) for i, label in enumerate(y)])
    x = (x + 0.15 * torch.randn(x.shape, generator=generator)).clamp(0, 1).flatten(1)
    order = torch.randperm(count, generator=generator)
    x, y = x[order], y[order]
    return Images(x[500:], y[500:], x[:500], y[:500], side=side)


def _inside(distance: Tensor) -> Tensor:
    """1 where a signed distance is negative, with a soft edge of about one pixel."""
    return torch.sigmoid(-distance * 12)


#: Ten shapes as functions of the place: bars, cross, saltire, disc, ring, square, frame, triangle, corner.
_SHAPES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda u, v: _inside(u.abs() - 0.2) * _inside(v.abs() - 0.8),
    lambda u, v: _inside(v.abs() - 0.2) * _inside(u.abs() - 0.8),
    lambda u, v: _inside(torch.minimum(u.abs(), v.abs()) - 0.18) * _inside(torch.maximum(u.abs(), v.abs()) - 0.8),
    lambda u, v: (
        _inside(torch.minimum((u + v).abs(), (u - v).abs()) / math.sqrt(2) - 0.18)
        * _inside(torch.maximum(u.abs(), v.abs()) - 0.8)
    ),
    lambda u, v: _inside((u.square() + v.square()).sqrt() - 0.65),
    lambda u, v: _inside(((u.square() + v.square()).sqrt() - 0.6).abs() - 0.18),
    lambda u, v: _inside(torch.maximum(u.abs(), v.abs()) - 0.6),
    lambda u, v: _inside((torch.maximum(u.abs(), v.abs()) - 0.65).abs() - 0.16),
    lambda u, v: _inside(torch.maximum(v - 0.6, 2 * u.abs() - v - 0.7)),
    lambda u, v: _inside(
        torch.minimum(
            torch.maximum((u + 0.5).abs() - 0.2, v.abs() - 0.7), torch.maximum((v - 0.5).abs() - 0.2, u.abs() - 0.7)
        )
    ),
)

IMAGES: dict[str, Callable[[], Images]] = {"digits": digits, "shapes": shapes}
