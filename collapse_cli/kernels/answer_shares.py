"""What the answers of a classifier say as a whole: shares of classes, information, bias to frequent and recent ones."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = [
    "Slope",
    "divergence_from_labels",
    "entropy",
    "frequency_slope",
    "newest_classes",
    "rarest_recall",
    "unused_by_chance",
]


def entropy(weights: Float[Tensor, " classes"]) -> float:
    """H of the distribution in proportion to the weights, nats; 0 without any weight."""
    total = float(weights.sum())
    return float(torch.special.entr(weights.double() / total).sum()) if total > 0.0 else 0.0


def divergence_from_labels(mass: Float[Tensor, " classes"], labels: Int[Tensor, " classes"]) -> float:
    """KL(mean p‖π̃), nats, with π̃_c = (n_c + 1)/(N + C), so that a class without labels does not make it infinite."""
    mean = mass / mass.sum()
    prior = (labels.double() + 1.0) / (labels.sum() + labels.numel())
    return max(0.0, float(torch.special.xlogy(mean, mean / prior).sum()))


def unused_by_chance(shares: Float[Tensor, " classes"], rows: int) -> float:
    """The share of classes that so many independent draws leave out: the mean of (1 − π_c)^N."""
    return float((rows * torch.log1p(-shares.clamp(max=1.0))).exp().mean())


@final
@dataclass(frozen=True, slots=True)
class Slope:
    """Least squares of class accuracy on log class count: slope, its standard error, and on how many classes."""

    value: float
    standard_error: float
    classes: int


def frequency_slope(
    right: Int[Tensor, " classes"], labels: Int[Tensor, " classes"], counts: Float[Tensor, " classes"]
) -> Slope | None:
    """Accuracy of every class that has labels and training samples on their log number.

    None for fewer than three such classes, or where all have as many samples.
    """
    is_used = (labels > 0) & (counts > 0.0) & counts.isfinite()
    number = int(is_used.sum())
    if number < 3:
        return None
    x, y = counts[is_used].log(), right[is_used].double() / labels[is_used]
    x, y = x - x.mean(), y - y.mean()
    scatter = float(x @ x)
    if scatter <= 1e-12 * number:
        return None
    slope = float(x @ y) / scatter
    residual = float((y - slope * x).square().sum())
    return Slope(slope, math.sqrt(residual / (number - 2) / scatter), number)


def rarest_recall(right: Int[Tensor, " classes"], labels: Int[Tensor, " classes"]) -> float | None:
    """Recall over the tenth of the labelled classes with the fewest labels; None without any."""
    present = labels > 0
    if not bool(present.any()):
        return None
    few = labels[present].argsort(stable=True)[: math.ceil(int(present.sum()) / 10)]
    return float(right[present][few].sum() / labels[present][few].sum())


def newest_classes(
    groups: Int[Tensor, " groups"], first_group: Int[Tensor, " classes"]
) -> Bool[Tensor, " classes"] | None:
    """Classes that are labels in the last group and in no group before it; None with one group or no such class."""
    if groups.numel() < 2:
        return None
    is_new = first_group == groups.max()
    return is_new if bool(is_new.any()) else None
