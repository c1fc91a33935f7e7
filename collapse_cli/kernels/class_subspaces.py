"""The shape of single classes on sampled rows: angles, principal subspaces, single dimensions that separate two."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.nearest_rows import nearest_rows, unit_rows
from collapse_cli.kernels.neural_collapse import classes_of
from collapse_cli.kernels.spectrum import entropy_rank
from collapse_cli.kernels.views import Activations

__all__ = [
    "CLASS_ROWS",
    "Overlap",
    "Subspace",
    "class_angles",
    "class_rows",
    "largest_variance_ratio_null",
    "nearest_neighbour_score",
    "root_share_null",
    "separating_dimensions",
    "subspace_overlap",
    "subspaces",
]

#: Rows of a class from which on it takes part.
CLASS_ROWS = 20
#: Classes and rows of each that are looked at: the sample holds 64 rows of every class.
_CLASSES, _ROWS = 32, 64
#: Pairs of classes whose separating dimensions are counted.
_PAIRS = 24
#: Share of the variance that a class subspace holds, area under the curve that separates, neighbours that are scored.
_ENERGY, _AREA, _NEIGHBOURS = 0.95, 0.95, 5


def class_rows(point: Activations) -> list[Float[Tensor, "rows features"]]:
    """Up to 64 sampled rows of each of up to 32 classes with at least 20 rows, float64; evenly thinned."""
    sample, found = point.read("sample"), classes_of(point.read("class_moments"), rows=CLASS_ROWS)
    labels = sample.rows("labels").reshape(-1).long() if found.count else torch.zeros(0, dtype=torch.int64)
    features = sample.rows("features") if found.count else torch.zeros(0, 1)
    result = []
    for label in found.labels[_thinned(found.count, _CLASSES)].tolist():
        places = (labels == label).nonzero().flatten()
        chosen = features[places[_thinned(places.numel(), _ROWS)]]
        if chosen.shape[0] >= CLASS_ROWS:
            result.append(chosen.reshape(chosen.shape[0], -1).double())
    return result


def _thinned(count: int, limit: int) -> Int[Tensor, " kept"]:
    if count <= limit:
        return torch.arange(count)
    return torch.linspace(0, count - 1, limit, dtype=torch.float64).round().long()


def class_angles(rows: list[Float[Tensor, "rows features"]]) -> tuple[float, float]:
    """Mean angle in degrees of two rows of one class, and of rows of two classes, each averaged over classes."""
    units = [unit_rows(part) for part in rows]
    everything = torch.cat(units)
    within, between = [], []
    for own in units:
        count = own.shape[0]
        inside = float(_angles(own @ own.T).fill_diagonal_(0.0).sum())
        outside = float(_angles(own @ everything.T).sum()) - float(_angles(own @ own.T).sum())
        within.append(inside / (count * (count - 1)))
        between.append(outside / (count * (everything.shape[0] - count)))
    return sum(within) / len(within), sum(between) / len(between)


def _angles(cosines: Float[Tensor, "left right"]) -> Float[Tensor, "left right"]:
    # acos turns a rounding of 1e-16 at 1 into 1e-8
    return torch.rad2deg(torch.acos(cosines.clamp(-1.0, 1.0)))


@final
@dataclass(frozen=True, slots=True)
class Subspace:
    """Principal directions of one class that hold 95 % of its variance, its entropy rank, and the rows it is from."""

    directions: Float[Tensor, "features rank"]
    entropy_rank: float
    rows: int

    @property
    def rank(self) -> int:
        """Number of directions."""
        return self.directions.shape[1]


def subspaces(point: Activations) -> list[Subspace]:
    """Of every class with any spread, from the Gram of its centred sample rows.

    Raises:
        NotConverged: LAPACK gave up.
    """
    return [found for rows in point.get(class_rows) if (found := _subspace(rows)) is not None]


def _subspace(rows: Float[Tensor, "rows features"]) -> Subspace | None:
    centred = rows - rows.mean(0)
    if float(centred.norm()) <= 64 * torch.finfo(torch.float64).eps * float(rows.norm()):
        return None
    try:
        energies, vectors = torch.linalg.eigh(centred @ centred.T)
    except LinAlgError as error:
        raise NotConverged("a class has no spectrum", where="class rows", got=str(error)) from error
    energies, vectors = energies.flip(0).clamp_min(0.0), vectors.flip(1)
    energies = torch.where(energies > 1e-12 * energies[0], energies, 0.0)
    rank = int((energies.cumsum(0) < _ENERGY * energies.sum()).sum()) + 1
    directions = centred.T @ (vectors[:, :rank] / energies[:rank].sqrt())
    return Subspace(directions, entropy_rank(energies[energies > 0.0]), rows.shape[0])


@final
@dataclass(frozen=True, slots=True)
class Overlap:
    """Mean and largest share of a class subspace that lies in another, what random ones give, number of pairs."""

    mean: float
    null: float
    largest: float
    pairs: int


def subspace_overlap(found: list[Subspace]) -> Overlap | None:
    """‖U_iᵀU_j‖²/r over pairs with r = min(r_i, r_j) leading directions; None if no pair has 2r rows in each class."""
    values, nulls = [], []
    for i, left in enumerate(found):
        for right in found[i + 1 :]:
            rank = min(left.rank, right.rank)
            if min(left.rows, right.rows) >= 2 * rank:
                product = left.directions[:, :rank].T @ right.directions[:, :rank]
                values.append(float(product.square().sum()) / rank)
                nulls.append(rank / left.directions.shape[0])
    if not values:
        return None
    return Overlap(sum(values) / len(values), sum(nulls) / len(nulls), max(values), len(values))


def separating_dimensions(point: Activations) -> tuple[list[int], int]:
    """Per pair of classes the fewest single dimensions that tell them apart, and the number of pairs that none do.

    Dimensions are ranked by Fisher's ratio on every other row, and added up with weights (μ_i − μ_j)/(σ_i² + σ_j²)
    until the area under the curve on the other rows is .95; the width where it never is.
    """
    rows = point.get(class_rows)
    needed, unseparated = [], 0
    for left, right in _class_pairs(len(rows)):
        areas = _held_out_areas(rows[left], rows[right])
        reached = (areas >= _AREA).nonzero().flatten()
        needed.append(int(reached[0]) + 1 if reached.numel() else areas.numel())
        unseparated += int(reached.numel() == 0)
    return needed, unseparated


def _class_pairs(count: int) -> Iterator[tuple[int, int]]:
    first, second = torch.triu_indices(count, count, 1)
    for place in _thinned(first.numel(), _PAIRS).tolist():
        yield int(first[place]), int(second[place])


def _held_out_areas(
    left: Float[Tensor, "rows features"], right: Float[Tensor, "others features"]
) -> Float[Tensor, " features"]:
    """Area under the curve on the odd rows of the best 1, 2, … dimensions of the even rows."""
    gap = left[::2].mean(0) - right[::2].mean(0)
    spread = left[::2].var(0) + right[::2].var(0)
    # a dimension without spread separates if its means differ
    spread = spread.clamp_min(1e-12 * max(float(spread.max()), float(gap.square().max()), 1e-300))
    order = (gap.square() / spread).argsort(descending=True, stable=True)
    weights = (gap / spread)[order]
    middle = 0.5 * (left[::2].mean(0) + right[::2].mean(0))
    scores = [((part[1::2] - middle)[:, order] * weights).cumsum(1) for part in (left, right)]
    difference = scores[0][:, None, :] - scores[1][None, :, :]
    return ((difference > 0.0).double() + 0.5 * (difference == 0.0).double()).mean((0, 1))


def nearest_neighbour_score(rows: list[Float[Tensor, "rows features"]]) -> tuple[float, float, float]:
    """ICNN (Λ + Γ)/2 of the five nearest rows, with Λ and Γ: do rows of one class lie near, those of others far?

    Γ is the mean root of the share of the same class; Λ the mean root of L/max L, L = Σ_other d̃ + Σ_same(1 − d̃), with d̃
    the distances to the five scaled to 0…1 within the row, 0 where all are equal.
    """
    everything = torch.cat(rows)
    labels = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor([part.shape[0] for part in rows]))
    nearest = nearest_rows(everything, count=_NEIGHBOURS, by="distance")
    distances = (everything[nearest] - everything[:, None]).norm(dim=2)
    low, high = distances.amin(1, keepdim=True), distances.amax(1, keepdim=True)
    scaled = (distances - low) / torch.where(high > low, high - low, 1.0)
    is_same = labels[nearest] == labels[:, None]
    length = torch.where(is_same, 1.0 - scaled, scaled).sum(1)
    spread = float((length / max(float(length.max()), 1e-300)).sqrt().mean())
    same = float(is_same.double().mean(1).sqrt().mean())
    return (spread + same) / 2.0, spread, same


def root_share_null(sizes: list[int]) -> float:
    """E√(j/5) with j of five neighbours of the same class, at the purity of random labels."""
    total = sum(sizes)
    purity = sum(size * (size - 1) for size in sizes) / max(total * (total - 1), 1)
    return sum(
        math.comb(_NEIGHBOURS, j) * purity**j * (1.0 - purity) ** (_NEIGHBOURS - j) * math.sqrt(j / _NEIGHBOURS)
        for j in range(_NEIGHBOURS + 1)
    )


def largest_variance_ratio_null(classes: int, degrees: float) -> float:
    """The typical (geometric mean) largest ratio of two of K equal variances with that many degrees of freedom each.

    The logarithm of a sample variance is about normal of variance 2/ν; the range of K normals is twice their expected
    maximum (Blom 1958).
    """
    largest = NormalDist().inv_cdf((classes - 0.375) / (classes + 0.25))
    return math.exp(2.0 * math.sqrt(2.0 / degrees) * largest)
