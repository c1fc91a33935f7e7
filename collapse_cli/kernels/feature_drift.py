"""How far the features of the same rows moved between two dumps, once a rotation is taken away."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.bures import Gaussian, frechet_null, squared_distance
from collapse_cli.kernels.class_moments import ClassMoments
from collapse_cli.kernels.feature_moments import Moments
from collapse_cli.kernels.folds import Folds
from collapse_cli.kernels.neural_collapse import MIN_ROWS, Classes, classes_of
from collapse_cli.kernels.set_distances import mean_pair_distance
from collapse_cli.kernels.views import Activations

__all__ = [
    "GROUP_ROWS",
    "ClassShift",
    "GroupShrinkage",
    "class_mean_shift",
    "frechet_shift",
    "group_shrinkage",
    "prototype_change",
    "prototype_change_null",
]

#: Classes whose K × K cosines are compared.
_DENSE_CLASSES = 2048
#: Spread of a class over its squared mean, and over that about the shift, below which its rows are equal: the first is
#: the rounding of a mean, the second that of a difference of squares.
_EQUAL_ROWS, _EQUAL_SQUARES = 1e-24, 1e-13
#: Sample rows of a group from which on it takes part, and groups looked at.
GROUP_ROWS, _GROUPS = 20, 256


@final
@dataclass(frozen=True, slots=True)
class ClassShift:
    """Mean of ‖μ′ − μ‖/√tr Σ over classes, what two halves of the rows give, the largest and its label, classes."""

    mean: float
    null: float
    largest: float
    label: int
    classes: int
    left_out: int


def class_mean_shift(
    before: ClassMoments, after: ClassMoments, rotation: Float[Tensor, "after before"]
) -> ClassShift | None:
    """Of the classes with five rows or more and some spread before; None if there is none."""
    old, new = classes_of(before), classes_of(after)
    if old.count == 0:
        return None
    rounding = _EQUAL_ROWS * old.means.square().sum(1) + _EQUAL_SQUARES * (old.means - before.shift).square().sum(1)
    has_spread = old.variances > rounding
    if not bool(has_spread.any()):
        return None
    moved = (new.means @ rotation - old.means).norm(dim=1)[has_spread] / old.variances[has_spread].sqrt()
    top = int(moved.argmax())
    return ClassShift(
        mean=float(moved.mean()),
        null=float((2.0 / old.counts[has_spread].double()).sqrt().mean()),
        largest=float(moved[top]),
        label=int(old.labels[has_spread][top]),
        classes=moved.numel(),
        left_out=old.left_out + int((~has_spread).sum()),
    )


def prototype_change(before: ClassMoments, after: ClassMoments) -> tuple[float, int] | None:
    """‖S′ − S‖_F/K, S the cosines of the class means about the origin, and K; None with fewer than two classes."""
    return _cosine_change(classes_of(before), classes_of(after))


def prototype_change_null(halves: "Folds[ClassMoments]") -> float | None:
    """The same between two halves of the rows of one dump, of which each mean is √2 times as uncertain."""
    first, second = classes_of(halves.first, rows=MIN_ROWS), classes_of(halves.second, rows=MIN_ROWS)
    shared = first.labels[torch.isin(first.labels, second.labels)]
    places = [torch.searchsorted(side.labels, shared) for side in (first, second)]
    sides = [
        Classes(shared, side.counts[place], side.means[place], side.variances[place], 0)
        for side, place in zip((first, second), places, strict=True)
    ]
    found = _cosine_change(*sides)
    return None if found is None else found[0]


def _cosine_change(old: Classes, new: Classes) -> tuple[float, int] | None:
    if old.count < 2:
        return None
    chosen = torch.linspace(0, old.count - 1, min(old.count, _DENSE_CLASSES), dtype=torch.float64).round().long()
    cosines = []
    for side in (old, new):
        means = side.means[chosen]
        lengths: Tensor = torch.linalg.vector_norm(means, dim=1, keepdim=True)
        units = means / lengths.masked_fill(lengths == 0.0, 1.0)
        cosines.append(units @ units.T)
    return float((cosines[1] - cosines[0]).norm()) / chosen.numel(), chosen.numel()


def frechet_shift(
    before: Moments, after: Moments, rotation: Float[Tensor, "after before"]
) -> tuple[float, float] | None:
    """Fréchet distance of the rotated rows after from those before over tr Σ, and that of two draws of as many rows.

    None if the rows before are equal.
    """
    old, new = Gaussian.of(before), Gaussian.of(after)
    if old.trace <= 0.0:
        return None
    turned = Gaussian(new.count, new.mean @ rotation, rotation.T @ new.covariance @ rotation)
    _, distance = squared_distance(old, turned)
    _, null = frechet_null(old, old.count)
    return distance / old.trace, null / old.trace


@final
@dataclass(frozen=True, slots=True)
class GroupShrinkage:
    """The smallest ratio of mean pair distances after to before among groups, over that of all rows.

    `label` is that group, `median` the median group, `overall` the ratio of all rows.
    """

    smallest: float
    median: float
    overall: float
    label: int
    groups: int


def group_shrinkage(point: Activations) -> GroupShrinkage | str:
    """Of groups with 20 sample rows, or the reason why there is none.

    Groups that lie within one class each are no more than classes, whose contraction is not a loss.
    """
    sample = point.read("sample(features,after.features)")
    groups = sample.rows("groups").flatten().long()
    before, after = (sample.rows(role).flatten(1) for role in ("features", "after.features"))
    found, counts = torch.unique(groups[(groups != -1) & (groups != -100)], return_counts=True)
    found = found[counts >= GROUP_ROWS]
    if found.numel() < 2:
        return f"{found.numel()} groups with {GROUP_ROWS} sample rows < 2"
    if "labels" in point.shapes and _are_within_classes(groups, sample.rows("labels").flatten().long()):
        return "every group lies within one class"
    is_uniform = sample.is_uniform
    whole = [mean_pair_distance(side[is_uniform]) for side in (before, after)]
    if min(whole) <= 0.0:
        return "all rows are equal"
    overall, ratios = whole[1] / whole[0], []
    chosen = torch.linspace(0, found.numel() - 1, min(found.numel(), _GROUPS), dtype=torch.float64).round().long()
    for label in found[chosen].tolist():
        rows = groups == label
        old = mean_pair_distance(before[rows])
        if old > 0.0:
            ratios.append((mean_pair_distance(after[rows]) / old / overall, label))
    if not ratios:
        return "all rows of every group are equal"
    ratios.sort()
    return GroupShrinkage(ratios[0][0], ratios[len(ratios) // 2][0], overall, ratios[0][1], len(ratios))


def _are_within_classes(groups: Tensor, labels: Tensor) -> bool:
    pairs = torch.unique(torch.stack((groups, labels), 1), dim=0)
    return bool(torch.unique(labels).numel() > 1 and pairs.shape[0] == torch.unique(groups).numel())
