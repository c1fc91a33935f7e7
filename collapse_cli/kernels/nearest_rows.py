"""Lists of nearest rows, exact, in tiles; and what the lists say: shared neighbours, purity, occurrences."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.hypersphere import unit_rows
from collapse_cli.kernels.reservoir import Sample

__all__ = [
    "label_matches",
    "nearest_rows",
    "occurrences",
    "shared_neighbours",
    "skewness",
    "thinned",
    "uniform_rows",
    "unit_rows",
]

#: Entries of one tile of products: 32 MiB in float64.
_TILE_ENTRIES = 1 << 22


def uniform_rows(sample: Sample, role: str, limit: int | None = None) -> Tensor:
    """The uniform part of a sample, at most `limit` of its rows; the same for every role, in the stored dtype."""
    rows = sample.rows(role)[sample.is_uniform]
    return rows if limit is None else rows[thinned(rows.shape[0], limit)]


def thinned(count: int, wanted: int) -> Int[Tensor, " chosen"]:
    """Places of at most `wanted` of `count` rows, ascending, drawn by a fixed seed.

    Not every second or third row: in a dump whose classes or groups take turns that would leave some out.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return order[:wanted].sort().values


def nearest_rows(
    queries: Float[Tensor, "queries features"],
    gallery: Float[Tensor, "gallery features"] | None = None,
    *,
    count: int,
    by: Literal["cosine", "distance"] = "cosine",
) -> Int[Tensor, "queries count"]:
    """The `count` rows of the gallery nearest to every query, nearest first; without a gallery, of the other queries.

    Float64. Equal distances are ordered by a fixed pseudo-random order of the rows, so that where many rows are equal
    the order in which they were written (often by class or group) decides nothing.
    """
    if by == "cosine":
        queries = unit_rows(queries)
        targets = queries if gallery is None else unit_rows(gallery)
    else:
        # about the mean, so that an offset costs the distances no digits
        queries, targets = queries.double(), (queries if gallery is None else gallery).double()
        centre = targets.mean(0)
        queries, targets = queries - centre, targets - centre
    order = torch.randperm(targets.shape[0], generator=torch.Generator().manual_seed(0)).to(targets.device)
    place = order.argsort()
    shuffled = targets[order]
    squares = shuffled.square().sum(1) if by == "distance" else None
    found = torch.empty(queries.shape[0], count, dtype=torch.int64, device=queries.device)
    step = max(1, _TILE_ENTRIES // max(1, targets.shape[0]))
    for start in range(0, queries.shape[0], step):
        block = queries[start : start + step]
        near = block @ shuffled.T if squares is None else 2.0 * (block @ shuffled.T) - squares
        if gallery is None:
            near.scatter_(1, place[start : start + step, None], -torch.inf)
        found[start : start + step] = order[near.topk(count, dim=1).indices]
    return found


def shared_neighbours(left: Int[Tensor, "rows count"], right: Int[Tensor, "rows count"]) -> float:
    """Mean share of the neighbours in the left lists that are in the right lists of the same row too (mutual kNN)."""
    common = sum(int((left[:, place, None] == right).sum()) for place in range(left.shape[1]))
    return common / max(left.numel(), 1)


def label_matches(neighbours: Int[Tensor, "rows count"], labels: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """Per row, the share of its neighbours with its own label."""
    return (labels[neighbours] == labels[:, None]).double().mean(1)


def occurrences(neighbours: Int[Tensor, "queries count"], gallery: int) -> Int[Tensor, " gallery"]:
    """N_k: in how many lists every row of the gallery stands (Radovanović et al. 2010)."""
    return torch.bincount(neighbours.flatten(), minlength=gallery)


def skewness(values: Tensor) -> float:
    """Third central moment over the 3/2 power of the second, both biased; 0 where all values are equal."""
    centred = values.double() - values.double().mean()
    variance = float(centred.square().mean())
    return float(centred.pow(3).mean()) / variance**1.5 if variance > 0.0 else 0.0
