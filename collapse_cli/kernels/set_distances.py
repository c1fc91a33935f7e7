"""Exact distances between two sets of rows, in tiles: nearest rows, radii, who lies in whose ball, mean over pairs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collapse_cli.kernels.nearest_rows import thinned

__all__ = [
    "BallHits",
    "Nearest",
    "ball_hits",
    "mean_pair_distance",
    "mean_squared_pair_distance",
    "nearest",
    "squared_pairs",
    "unit_scale",
]

#: Rows of both sides of one tile of products: 32 MiB in float64.
_TILE_ROWS = 2048
#: Entries of one block of differences: 32 MiB in float64.
_BLOCK_ENTRIES = 1 << 22
#: Neighbours taken beyond those asked for: products resolve 1e-15 of the largest square, differences settle the order.
_SPARE = 4
#: Squares of which two differ by less are taken from differences again; rounding of a product of centred float64 rows
#: stays below 1e-13 of their largest squares up to 10⁵ features.
_DOUBT = 1e-13
#: Two distances are equal when their squares agree to this: a tie, which rounding must not decide.
_TIE = 1e-12
#: Rows whose pairs are all averaged: 8 million distances.
_PAIR_ROWS = 4096


@final
@dataclass(frozen=True, slots=True)
class Nearest:
    """Euclidean distances to the nearest rows, nearest first, and which rows they are; float64, where the rows lie."""

    distances: Float[Tensor, "queries count"]
    indices: Int[Tensor, "queries count"]


@final
@dataclass(frozen=True, slots=True)
class BallHits:
    """Per point, how many balls it lies in; per ball, whether it holds a point."""

    balls: Int[Tensor, " points"]
    is_held: Bool[Tensor, " balls"]


@final
class _Frame:
    """Origin and unit shared by both sets: the mean of one, and a power of two, which changes no digit."""

    def __init__(self, rows: Float[Tensor, "rows features"], other: Float[Tensor, "others features"]) -> None:
        self.unit = max(unit_scale(rows), unit_scale(other))
        parts = torch.split(rows, _TILE_ROWS)
        self.centre = sum((part.double().sum(0) / self.unit for part in parts), torch.zeros(())) / rows.shape[0]

    def blocks(self, rows: Float[Tensor, "rows features"]) -> Iterator[tuple[int, Tensor, Tensor]]:
        """First row, centred rows and their squares of one block after the other."""
        for start in range(0, rows.shape[0], _TILE_ROWS):
            block = rows[start : start + _TILE_ROWS].double() / self.unit - self.centre
            yield start, block, block.square().sum(1)


def unit_scale(rows: Tensor) -> float:
    """A power of two of the order of the largest magnitude; 1 where all entries are zero or there are none."""
    largest = max((float(part.abs().max()) for part in torch.split(rows, _TILE_ROWS) if part.numel()), default=0.0)
    return 2.0 ** float(torch.frexp(torch.tensor(largest, dtype=torch.float64)).exponent) if largest > 0.0 else 1.0


def squared_pairs(
    left: Float[Tensor, "left features"],
    right: Float[Tensor, "right features"],
    places: tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]],
    *,
    unit: float = 1.0,
) -> Float[Tensor, " pairs"]:
    """‖x − y‖² of given pairs over the square of the unit, from differences in float64: 0 exactly for equal rows."""
    step = max(1, _BLOCK_ENTRIES // max(left.shape[1], 1))
    parts = [
        ((left[a].double() - right[b].double()) / unit).square().sum(1)
        for a, b in zip(torch.split(places[0], step), torch.split(places[1], step), strict=True)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64, device=left.device)


def nearest(
    queries: Float[Tensor, "queries features"],
    gallery: Float[Tensor, "gallery features"] | None = None,
    *,
    count: int = 1,
    own: Int[Tensor, " queries"] | None = None,
) -> Nearest:
    """The `count` nearest rows of the gallery; without a gallery, of the other queries.

    `own`: the place in the gallery that is each query itself and does not count.

    Raises:
        ValueError: fewer rows to choose from than asked for: a bug of the caller.
    """
    if gallery is None:
        gallery, own = queries, torch.arange(queries.shape[0], device=queries.device)
    available = gallery.shape[0] - (own is not None)
    if count > available:
        raise ValueError(f"{count} neighbours of {available} rows")
    frame, taken = _Frame(gallery, queries), min(count + _SPARE, available)
    distances = torch.empty(queries.shape[0], count, dtype=torch.float64, device=queries.device)
    indices = torch.empty(queries.shape[0], count, dtype=torch.int64, device=queries.device)
    for start, block, squares in frame.blocks(queries):
        rows = slice(start, start + block.shape[0])
        found = _proposed(frame, (block, squares), gallery, taken=taken, own=None if own is None else own[rows])
        asking = torch.arange(start, start + block.shape[0], device=queries.device).repeat_interleave(taken)
        exact = squared_pairs(queries, gallery, (asking, found.flatten()), unit=frame.unit).view(-1, taken)
        settled, order = exact.sort(dim=1, stable=True)
        distances[rows] = settled[:, :count].sqrt() * frame.unit
        indices[rows] = found.gather(1, order)[:, :count]
    return Nearest(distances, indices)


def _proposed(
    frame: _Frame, asked: tuple[Tensor, Tensor], gallery: Tensor, *, taken: int, own: Tensor | None
) -> Int[Tensor, "queries taken"]:
    """The rows with the smallest squares by products, one tile after the other."""
    block, squares = asked
    best = torch.full((block.shape[0], 0), torch.inf, dtype=torch.float64, device=block.device)
    places = torch.zeros(block.shape[0], 0, dtype=torch.int64, device=block.device)
    for start, targets, lengths in frame.blocks(gallery):
        between = torch.addmm(squares[:, None] + lengths, block, targets.T, alpha=-2.0)
        if own is not None:
            here = torch.arange(start, start + targets.shape[0], device=block.device)
            between.masked_fill_(own[:, None] == here, torch.inf)
        near = between.topk(min(taken, targets.shape[0]), dim=1, largest=False)
        best, places = torch.cat((best, near.values), 1), torch.cat((places, near.indices + start), 1)
        if best.shape[1] > taken:
            kept = best.topk(taken, dim=1, largest=False)
            best, places = kept.values, places.gather(1, kept.indices)
    return places


def ball_hits(
    points: Float[Tensor, "points features"],
    centres: Float[Tensor, "balls features"],
    radii: Float[Tensor, " balls"],
) -> BallHits:
    """Which points lie strictly inside which balls; one at the distance of the radius (to 1e-12) is outside."""
    balls = torch.zeros(points.shape[0], dtype=torch.int64, device=points.device)
    is_held = torch.zeros(centres.shape[0], dtype=torch.bool, device=points.device)
    if points.shape[0] == 0 or centres.shape[0] == 0:
        return BallHits(balls, is_held)
    frame = _Frame(centres, points)
    # the ball of radius 0 is empty, also for its own centre
    bounds = (radii.to(points.device) / frame.unit).square() * (1.0 - _TIE)
    bounds.masked_fill_(bounds == 0.0, -torch.inf)
    for start, block, squares in frame.blocks(points):
        for first, targets, lengths in frame.blocks(centres):
            beyond = torch.addmm(squares[:, None] + lengths, block, targets.T, alpha=-2.0)
            bound = bounds[first : first + targets.shape[0]]
            beyond -= bound
            is_inside = beyond < 0.0
            doubt = beyond.abs_() <= _DOUBT * (squares.max() + lengths.max()) + 2.0 * _TIE * bound
            point, ball = doubt.nonzero(as_tuple=True)
            exact = squared_pairs(points, centres, (point + start, ball + first), unit=frame.unit)
            is_inside[point, ball] = exact < bound[ball]
            balls[start : start + block.shape[0]] += is_inside.sum(1)
            is_held[first : first + targets.shape[0]] |= is_inside.any(0)
    return BallHits(balls, is_held)


def mean_pair_distance(rows: Float[Tensor, "rows features"]) -> float:
    """Mean Euclidean distance of two different rows, of 4,096 drawn by a fixed seed where there are more; at least two.

    Products resolve distances down to 1e-7 of the largest; closer pairs are as good as 0 in the mean.
    """
    chosen = rows[thinned(rows.shape[0], _PAIR_ROWS).to(rows.device)]
    frame, total = _Frame(chosen, chosen), 0.0
    for start, block, squares in frame.blocks(chosen):
        for first, targets, lengths in frame.blocks(chosen):
            between = torch.addmm(squares[:, None] + lengths, block, targets.T, alpha=-2.0)
            between.masked_fill_(between <= _DOUBT * (squares.max() + lengths.max()), 0.0)
            if first == start:
                between.fill_diagonal_(0.0)
            total += float(between.sqrt().sum())
    return total * frame.unit / (chosen.shape[0] * (chosen.shape[0] - 1))


def mean_squared_pair_distance(rows: Float[Tensor, "rows features"]) -> float:
    """Mean ‖x − y‖² of two different rows, 2/(M−1)·Σ‖x − x̄‖², all pairs in one pass; at least two rows."""
    frame = _Frame(rows, rows)
    total = sum(float(squares.sum()) for _, _, squares in frame.blocks(rows))
    return 2.0 * frame.unit**2 * total / (rows.shape[0] - 1)
