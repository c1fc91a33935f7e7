"""Pairs of classes: distance against spread, pairs that have merged, and how directions lie on the sphere."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collapse_cli.kernels.class_geometry import centred_means
from collapse_cli.kernels.neural_collapse import Classes

__all__ = ["MERGE_ROWS", "ClassPairs", "FramePairs", "class_pairs", "frame_pairs"]

#: Rows from which a class's mean has an error known well enough to call two means equal: its spread is known to 1/√20.
MERGE_ROWS = 20
#: Standard errors within which two means count as equal.
_MERGED_AT = 3.0
#: Classes up to which all pairs are compared; beyond, so many seeded pairs and every class's nearest other.
_ALL_PAIRS, _DRAWN_PAIRS = 8192, 1 << 20
#: Entries of one tile of distances: 8 MiB.
_TILE = 1 << 20
#: Squared distance, over the squared lengths, below which a Gram has too few digits left (1e-16/1e-7).
_DOUBTFUL = 1e-7


@final
@dataclass(frozen=True, slots=True)
class ClassPairs:
    """CDNV over pairs of classes: means with exponents 1 and 2, the largest and where, and pairs that have merged.

    `coincident` pairs have equal means to rounding and are in no ratio. `merged` of the `mergeable` pairs with 20 rows
    each have means closer than 3 standard errors, and `merged_classes` of the `mergeable_classes` are in one. Without
    `is_exhaustive` the means are of `compared` seeded pairs, the rest of every class and its nearest other.
    """

    compared: int
    is_exhaustive: bool
    coincident: int
    mean: float
    legacy: float
    largest: float
    largest_at: tuple[int, int]
    mergeable: int
    merged: int
    first_merged: tuple[int, int] | None
    mergeable_classes: int
    merged_classes: int


def class_pairs(found: Classes, dimension: float, *, generator: torch.Generator) -> ClassPairs:
    """Class-distance normalised variances (V_i + V_j)/(2‖m_i − m_j‖²) of all pairs (Galanti, György & Hutter 2022).

    Two means are equal when (‖m_i − m_j‖² − t)/(t√(2/PR_W)) < 3, t = V_i/(n_i − 1) + V_j/(n_j − 1): what the means of
    two samples of one class would differ by. At least two classes.
    """
    is_exhaustive = found.count <= _ALL_PAIRS
    compared = coincident = mergeable = merged = 0
    total = legacy = 0.0
    largest, largest_at, first_merged = -1.0, (0, 0), None
    noise = found.variances / (found.counts - 1)
    has_merged = torch.zeros(found.count, dtype=torch.bool)
    for first, second, squares in _pairs(found.means, generator):
        ratios, is_apart = _ratios(found, first, second, squares)
        compared += first.numel()
        total += float(ratios.sum())
        legacy += float((ratios / squares[is_apart]).sum())
    tiles = _pairs(found.means, generator) if is_exhaustive else _nearest_pairs(found.means)
    for first, second, squares in tiles:
        ratios, is_apart = _ratios(found, first, second, squares)
        coincident += int((~is_apart).sum())
        if ratios.numel() and float(ratios.max()) > largest:
            place = is_apart.nonzero().flatten()[int(ratios.argmax())]
            largest, largest_at = float(ratios.max()), (int(first[place]), int(second[place]))
        is_large = (found.counts[first] >= MERGE_ROWS) & (found.counts[second] >= MERGE_ROWS)
        expected = noise[first] + noise[second]
        slack = _MERGED_AT * math.sqrt(2.0 / dimension) if dimension > 0.0 else 0.0
        is_merged = is_large & (~is_apart | (squares - expected < slack * expected))
        mergeable += int(is_large.sum())
        merged += int(is_merged.sum())
        has_merged[first[is_merged]] = True
        has_merged[second[is_merged]] = True
        if first_merged is None and bool(is_merged.any()):
            place = is_merged.nonzero().flatten()[0]
            first_merged = (int(first[place]), int(second[place]))
    counted = max(compared - (coincident if is_exhaustive else 0), 1)
    return ClassPairs(
        compared,
        is_exhaustive,
        coincident,
        total / counted,
        legacy / counted,
        largest,
        largest_at,
        mergeable,
        merged,
        first_merged,
        int((found.counts >= MERGE_ROWS).sum()),
        int(has_merged.sum()),
    )


def _ratios(
    found: Classes, first: Int[Tensor, " pairs"], second: Int[Tensor, " pairs"], squares: Float[Tensor, " pairs"]
) -> tuple[Float[Tensor, " apart"], Bool[Tensor, " pairs"]]:
    is_apart = squares > found.rounding**2
    spread = found.variances[first[is_apart]] + found.variances[second[is_apart]]
    return spread / (2.0 * squares[is_apart]), is_apart


@final
@dataclass(frozen=True, slots=True)
class FramePairs:
    """Over pairs of unit vectors: mean distance of the cosine from an ideal, mean and variance of −ln distance."""

    compared: int
    coincident: int
    deviation: float
    log_mean: float | None
    log_variance: float | None


def frame_pairs(units: Float[Tensor, "live features"], *, cosine: float, generator: torch.Generator) -> FramePairs:
    """Deviation from a common cosine and logarithmic kernel of at least two unit vectors (Liu et al. 2023)."""
    # two unit vectors apart by less are one: rounding of their components
    least = 16.0 * units.shape[1] * torch.finfo(torch.float64).eps ** 2
    compared = coincident = 0
    deviation = total = 0.0
    for _, _, squares in _pairs(units, generator):
        compared += squares.numel()
        deviation += float((1.0 - 0.5 * squares - cosine).abs().sum())
        apart = squares[squares > least]
        coincident += squares.numel() - apart.numel()
        total += float(apart.log().sum()) * -0.5
    apart_count = compared - coincident
    if apart_count == 0:
        return FramePairs(compared, coincident, deviation / compared, None, None)
    mean, spread = total / apart_count, 0.0
    for _, _, squares in _pairs(units, generator):
        spread += float((squares[squares > least].log() * -0.5 - mean).square().sum())
    return FramePairs(compared, coincident, deviation / compared, mean, spread / apart_count)


Pairs = tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"], Float[Tensor, " pairs"]]


def _pairs(vectors: Float[Tensor, "classes features"], generator: torch.Generator) -> Iterator[Pairs]:
    """Pairs i < j and their squared distances, in tiles: all, or a fixed draw of different classes beyond 8,192."""
    count = vectors.shape[0]
    if count > _ALL_PAIRS:
        state = generator.get_state()
        first = torch.randint(count, (_DRAWN_PAIRS,), generator=generator)
        second = (first + torch.randint(1, count, (_DRAWN_PAIRS,), generator=generator)) % count
        # the same pairs again at the next call
        generator.set_state(state)
        step = max(1, _TILE // max(vectors.shape[1], 1))
        for a, b in zip(torch.split(first, step), torch.split(second, step), strict=True):
            yield a, b, (vectors[a] - vectors[b]).square().sum(1)
        return
    step = max(1, _TILE // max(count, 1))
    for start in range(0, count, step):
        rows = torch.arange(start, min(start + step, count))
        first, second = torch.nonzero(torch.arange(count) > rows[:, None], as_tuple=True)
        squares = _squared_distances(vectors, rows)[first, second]
        yield first + start, second, squares


def _nearest_pairs(vectors: Float[Tensor, "classes features"]) -> Iterator[Pairs]:
    """Every vector and its nearest other one; a pair that are each other's nearest comes once."""
    count = vectors.shape[0]
    partner = torch.zeros(count, dtype=torch.int64)
    for rows in torch.split(torch.arange(count), max(1, _TILE // count)):
        squares = _squared_distances(vectors, rows)
        squares.scatter_(1, rows[:, None], math.inf)
        partner[rows] = squares.argmin(1)
    itself = torch.arange(count)
    pairs = torch.unique(torch.stack((torch.minimum(itself, partner), torch.maximum(itself, partner)), 1), dim=0)
    for block in torch.split(pairs, max(1, _TILE // max(vectors.shape[1], 1))):
        yield block[:, 0], block[:, 1], (vectors[block[:, 0]] - vectors[block[:, 1]]).square().sum(1)


def _squared_distances(
    vectors: Float[Tensor, "classes features"], rows: Int[Tensor, " rows"]
) -> Float[Tensor, "rows classes"]:
    """From a Gram about the mean, and from differences where that has lost its digits."""
    centred = centred_means(vectors)
    lengths = centred.square().sum(1)
    chosen = centred[rows]
    scale = lengths[rows, None] + lengths
    squares = torch.addmm(scale, chosen, centred.T, alpha=-2.0).clamp_min_(0.0)
    a, b = (squares < _DOUBTFUL * scale).nonzero(as_tuple=True)
    for part in torch.split(torch.arange(a.numel()), max(1, _TILE // max(vectors.shape[1], 1))):
        squares[a[part], b[part]] = (chosen[a[part]] - centred[b[part]]).square().sum(1)
    return squares
