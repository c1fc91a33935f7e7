"""How close the rows of a matrix come to one another: largest cosines and their null, nearest distances, merging."""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "EXHAUSTIVE_ROWS",
    "CosineExtremes",
    "cosine_extremes",
    "largest_cosine_null",
    "median_pair_distance",
    "mergeable_count",
    "nearest_distances",
    "neighbour_ratio_null",
    "pair_cosines",
    "pair_distances",
]

#: Rows up to which every pair is compared; beyond, pairs are proposed by hashing and then verified.
EXHAUSTIVE_ROWS = 65536
#: Entries of one working block: 16 MiB in float32.
_BLOCK_ENTRIES = 1 << 22
#: Rounding of a float32 dot product of unit rows stays below this up to 10⁵ features (measured 4e-7 at 4096).
_FLOAT32_MARGIN = 1e-5
#: 256 sign bits in 16 bands of 16: a pair at cosine 0.999 agrees in a band with (1 − acos(.999)/π)¹⁶ = .795, so it is
#: missed by all bands with 1e-11, while a random pair is proposed with 4.9e-4 (Charikar 2002, sign projections).
_BANDS, _BAND_BITS = 16, 16
#: Rows whose extreme cosine is taken in float64: the largest one is among them unless more lie within 1e-6 of it.
_SETTLED = 16
#: Partners verified per row and band: more share a bucket only where most rows are alike, and then the nearest
#: in the order of the next bands suffice to find a copy.
_WINDOW = 64
#: Rows up to which the median distance is exact, and the size of the sample beyond: a quarter of a million pairs.
_MEDIAN_ROWS = 1024


@final
@dataclass(frozen=True, slots=True)
class CosineExtremes:
    """Largest and smallest cosine between two different rows, and per row that of its nearest and most opposite row.

    Float64 on the CPU. A zero row has cosine 0 with every row. `closest` are the two rows that reach `maximum`.
    Without `is_exhaustive`, rows are compared where hashing proposes it: `nearest` and `maximum` are then lower bounds,
    `opposite` and `minimum` upper bounds, that are missed by a pair beyond ±0.999 with a probability of 1e-11.
    """

    maximum: float
    minimum: float
    nearest: Float[Tensor, " rows"]
    opposite: Float[Tensor, " rows"]
    closest: tuple[int, int]
    is_exhaustive: bool = True


def cosine_extremes(
    rows: Float[Tensor, "rows features"], *, thresholds: tuple[float, ...] = (0.999, -0.999)
) -> CosineExtremes:
    """The extreme cosines between different rows; all 0 for fewer than two rows.

    A float32 Gram of unit rows, in blocks; the 16 most extreme and those about a threshold are then taken in float64.
    The others are right to 1e-6. On which side of a threshold (> 0: of the nearest, < 0: of the most opposite row) a
    row lies is exact.
    """
    count = rows.shape[0]
    if count < 2 or rows.shape[1] == 0:
        zeros = torch.zeros(count, dtype=torch.float64)
        return CosineExtremes(0.0, 0.0, zeros, zeros.clone(), (0, 0))
    if count > EXHAUSTIVE_ROWS:
        return _hashed_extremes(rows)
    units, norms = _unit_rows(rows)
    nearest, opposite = _float32_extremes(units)
    above = _settle(rows, norms, nearest, [limit for limit in thresholds if limit > 0], sign=1.0)
    _settle(rows, norms, opposite, [limit for limit in thresholds if limit <= 0], sign=-1.0)
    return CosineExtremes(float(nearest.max()), float(opposite.min()), nearest, opposite, above)


def _settle(
    rows: Float[Tensor, "rows features"],
    norms: Float[Tensor, " rows"],
    found: Float[Tensor, " rows"],
    thresholds: list[float],
    *,
    sign: float,
) -> tuple[int, int]:
    """Writes float64 values of the most extreme rows and of those about a threshold into `found`; the extreme pair."""
    doubtful = torch.zeros_like(found, dtype=torch.bool)
    doubtful[(sign * found).topk(min(_SETTLED, found.numel())).indices] = True
    for threshold in thresholds:
        doubtful |= (found - threshold).abs() < _FLOAT32_MARGIN
    chosen = doubtful.nonzero().flatten()
    exact, partner = _exact_nearest(rows, norms, chosen.to(rows.device), sign=sign)
    top = int(exact.argmax())
    # what was not settled is right to 1e-6 and must not stand beyond what was
    found.copy_(sign * (sign * found).clamp_max(float(exact[top])))
    found[chosen] = sign * exact
    return int(chosen[top]), int(partner[top])


def _unit_rows(
    rows: Float[Tensor, "rows features"],
) -> tuple[Float[Tensor, "rows features"], Float[Tensor, " rows"]]:
    """Unit rows in float32, and their norms in float64; a zero row stays zero and has norm 1."""
    units = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
    norms = torch.empty(rows.shape[0], dtype=torch.float64, device=rows.device)
    step = max(1, _BLOCK_ENTRIES // rows.shape[1])
    for start in range(0, rows.shape[0], step):
        block = rows[start : start + step].double()
        lengths: Tensor = torch.linalg.vector_norm(block, dim=1)
        norms[start : start + step] = lengths.masked_fill_(lengths == 0.0, 1.0)
        units[start : start + step] = block / lengths[:, None]
    return units, norms


def _normalised(block: Float[Tensor, "rows features"]) -> Float[Tensor, "rows features"]:
    block = block.to(torch.float64)
    norms: Tensor = torch.linalg.vector_norm(block, dim=1, keepdim=True)
    return block / norms.masked_fill(norms == 0.0, 1.0)


def _float32_extremes(
    units: Float[Tensor, "rows features"],
) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Largest and smallest cosine of every row with another one, as float64 on the CPU; each pair is computed once."""
    count = units.shape[0]
    highest, lowest = torch.full((count,), -2.0), torch.full((count,), 2.0)
    highest, lowest = highest.to(units.device), lowest.to(units.device)
    step = max(1, min(_BLOCK_ENTRIES // count, 512))
    for start in range(0, count, step):
        cosines = units[start : start + step] @ units[start:].T
        itself = cosines.diagonal()
        for best, filler, reduced, better in (
            (highest, -2.0, torch.amax, torch.maximum),
            (lowest, 2.0, torch.amin, torch.minimum),
        ):
            itself.fill_(filler)
            along, across = reduced(cosines, 1), reduced(cosines, 0)
            best[start:] = better(best[start:], across)
            best[start : start + step] = better(best[start : start + step], along)
    return highest.double().cpu(), lowest.double().cpu()


def _exact_nearest(
    rows: Float[Tensor, "rows features"], norms: Float[Tensor, " rows"], chosen: Int[Tensor, " chosen"], *, sign: float
) -> tuple[Float[Tensor, " chosen"], Int[Tensor, " chosen"]]:
    """The largest cosine of a few rows with any other, and that row, in float64; `sign` −1 for its negative."""
    best = torch.full((chosen.numel(),), -2.0, dtype=torch.float64, device=rows.device)
    partner = torch.zeros_like(chosen)
    step = max(1, _BLOCK_ENTRIES // max(rows.shape[1], chosen.numel(), 1))
    left = sign * rows[chosen].double() / norms[chosen, None]
    for start in range(0, rows.shape[0] if chosen.numel() else 0, step):
        cosines = (left @ rows[start : start + step].double().T).div_(norms[start : start + step])
        itself = chosen[:, None] == torch.arange(start, start + cosines.shape[1], device=rows.device)
        value, index = cosines.masked_fill_(itself, -2.0).max(1)
        better = value > best
        best[better], partner[better] = value[better], index[better] + start
    return best.clamp(-1.0, 1.0).cpu(), partner.cpu()


def pair_cosines(
    rows: Float[Tensor, "rows features"], left: Int[Tensor, " pairs"], right: Int[Tensor, " pairs"]
) -> Float[Tensor, " pairs"]:
    """Cosines of given pairs of rows, float64 on the CPU, in blocks; 0 where a row is zero."""
    parts = [
        (_normalised(rows[a]) * _normalised(rows[b])).sum(1).clamp(-1.0, 1.0).cpu()
        for a, b in _pair_blocks(rows, left, right)
    ]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def pair_distances(
    rows: Float[Tensor, "rows features"], left: Int[Tensor, " pairs"], right: Int[Tensor, " pairs"]
) -> Float[Tensor, " pairs"]:
    """Euclidean distances of given pairs of rows, float64 on the CPU, from differences, in blocks."""
    parts = [(rows[a].double() - rows[b].double()).norm(dim=1).cpu() for a, b in _pair_blocks(rows, left, right)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def _pair_blocks(
    rows: Float[Tensor, "rows features"], left: Int[Tensor, " pairs"], right: Int[Tensor, " pairs"]
) -> list[tuple[Tensor, Tensor]]:
    step = max(1, _BLOCK_ENTRIES // max(rows.shape[1], 1))
    left, right = left.to(rows.device), right.to(rows.device)
    return list(zip(torch.split(left, step), torch.split(right, step), strict=True)) if left.numel() else []


@functools.cache
def largest_cosine_null(count: int, dimension: int) -> float:
    """The typical largest cosine of `count` independent uniform directions in `dimension` dimensions, "Beta(K,d)".

    (1 + cos)/2 is Beta((d−1)/2, (d−1)/2); taken at the quantile 1 − 2/(K(K−1)), at which one of the K(K−1)/2 pairs is
    expected beyond. 0 for fewer than two directions, at least 0 otherwise; 1 in one dimension.
    """
    from scipy.special import betaincinv

    if count < 2:
        return 0.0
    if dimension < 2:
        return 1.0
    shape = (dimension - 1) / 2
    # from the lower tail, by symmetry: 1 − 2/(K(K−1)) itself runs out of digits
    return max(0.0, 1.0 - 2.0 * float(betaincinv(shape, shape, 2.0 / (count * (count - 1)))))


def _hashed_extremes(rows: Float[Tensor, "rows features"]) -> CosineExtremes:
    count = rows.shape[0]
    nearest = torch.zeros(count, dtype=torch.float64)
    opposite = torch.zeros(count, dtype=torch.float64)
    best, closest = -2.0, (0, 0)
    for left, right in _proposed_pairs(_band_keys(rows)):
        cosines = pair_cosines(rows, left, right)
        for side in (left, right):
            nearest.scatter_reduce_(0, side, cosines, "amax")
            opposite.scatter_reduce_(0, side, cosines, "amin")
        top = int(cosines.argmax())
        if float(cosines[top]) > best:
            best, closest = float(cosines[top]), (int(left[top]), int(right[top]))
    return CosineExtremes(float(nearest.max()), float(opposite.min()), nearest, opposite, closest, is_exhaustive=False)


def _band_keys(rows: Float[Tensor, "rows features"]) -> Int[Tensor, "rows bands"]:
    """Sign bits as one integer per band, the same for a row and its negative. The projection is fixed, seeded."""
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(rows.shape[1], _BANDS * _BAND_BITS, generator=generator).to(rows.device)
    place = 2 ** torch.arange(_BAND_BITS, device=rows.device)
    keys = []
    for block in torch.split(rows, max(1, _BLOCK_ENTRIES // max(rows.shape[1], _BANDS * _BAND_BITS))):
        bits = (_normalised(block).float() @ projection > 0).view(-1, _BANDS, _BAND_BITS)
        keys.append(((bits ^ bits[..., :1]) * place).sum(2).cpu())
    return torch.cat(keys)


def _proposed_pairs(keys: Int[Tensor, "rows bands"]) -> Iterator[tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]]:
    """Pairs that share a band, at most `_WINDOW` partners per row and band, in the order of the following bands."""
    for band in range(_BANDS):
        first, second, third = (keys[:, (band + shift) % _BANDS] for shift in range(3))
        order = (((first << _BAND_BITS) + second << _BAND_BITS) + third).argsort(stable=True)
        bucket = first[order]
        for shift in range(1, _WINDOW + 1):
            same = (bucket[shift:] == bucket[:-shift]).nonzero().flatten()
            if same.numel() == 0:
                break
            yield order[same], order[same + shift]


def nearest_distances(rows: Float[Tensor, "rows features"]) -> Float[Tensor, " rows"]:
    """Euclidean distance of every row to its nearest other row, float64 on the CPU; empty for fewer than two rows.

    A float32 Gram of centred rows finds the partner, whose distance is then taken from the difference in float64; rows
    so close that float32 may have picked the wrong partner are compared with all others in float64.
    """
    count = rows.shape[0]
    if count < 2:
        return torch.zeros(0, dtype=torch.float64)
    centred = rows.double() - rows.double().mean(0)
    scale = float(centred.abs().max())
    if scale == 0.0:
        return torch.zeros(count, dtype=torch.float64)
    centred /= scale
    partner = _nearest_partners(centred.float())
    distances = pair_distances(centred, torch.arange(count), partner)
    reach = centred.norm(dim=1).cpu()
    doubtful = (distances < 1e-2 * reach).nonzero().flatten().to(rows.device)
    squares = centred.square().sum(1)
    for chosen in torch.split(doubtful, max(1, _BLOCK_ENTRIES // count)) if doubtful.numel() else ():
        between = squares[chosen, None] + squares - 2.0 * centred[chosen] @ centred.T
        between.scatter_(1, chosen[:, None], math.inf)
        distances[chosen.cpu()] = pair_distances(centred, chosen, between.argmin(1))
    return distances * scale


def _nearest_partners(rows: Float[Tensor, "rows features"]) -> Int[Tensor, " rows"]:
    squares = rows.square().sum(1)
    partner = torch.zeros(rows.shape[0], dtype=torch.int64, device=rows.device)
    step = max(1, _BLOCK_ENTRIES // rows.shape[0])
    for start in range(0, rows.shape[0], step):
        block = rows[start : start + step]
        # ‖x − y‖² − ‖x‖²: the term of the row itself does not move its minimum
        between = torch.addmm(squares, block, rows.T, alpha=-2.0)
        between.diagonal(start).fill_(math.inf)
        partner[start : start + step] = between.argmin(1)
    return partner


def median_pair_distance(rows: Float[Tensor, "rows features"]) -> float:
    """Median Euclidean distance of two different rows; 0 for fewer than two.

    Exact up to 1,024 rows; beyond, between 512 and 512 other rows drawn by a fixed seed.
    """
    count = rows.shape[0]
    if count < 2:
        return 0.0
    if count > _MEDIAN_ROWS:
        drawn = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:_MEDIAN_ROWS]
        rows = rows[drawn.to(rows.device)]
    centred = rows.double() - rows.mean(0, dtype=torch.float64)
    scale = float(centred.abs().max())
    if scale == 0.0:
        return 0.0
    centred /= scale
    left, right = centred.chunk(2) if count > _MEDIAN_ROWS else (centred, None)
    squared = _median_square(left.float(), None if right is None else right.float())
    # float32 resolves 1e-6 of the largest square; below, most rows are copies
    if squared < 1e-3 * float(centred.square().sum(1).max()):
        squared = _median_square(left, right)
    return scale * math.sqrt(squared)


def _median_square(left: Float[Tensor, "rows features"], right: Float[Tensor, "others features"] | None) -> float:
    """Median ‖x − y‖² between two sets of centred rows, or within the first."""
    others = left if right is None else right
    squared = torch.addmm(left.square().sum(1)[:, None] + others.square().sum(1), left, others.T, alpha=-2.0)
    pairs = squared.numel()
    if right is None:
        # each pair stands there twice, and the diagonal is moved beyond all of them
        squared.fill_diagonal_(math.inf)
        pairs -= left.shape[0]
    return max(float(squared.flatten().kthvalue((pairs + 1) // 2).values), 0.0)


@functools.cache
def neighbour_ratio_null(count: int, dimension: int) -> float:
    """Median nearest over median pair distance of `count` Gaussian points, as 512 of them see it (seeded, to 2 %)."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(count, dimension, generator=generator)
    asked = points[: min(count, 512)]
    distances = torch.cdist(asked, points)
    distances.diagonal().fill_(math.inf)
    nearest = float(distances.amin(1).median())
    return nearest / float(distances[distances.isfinite()].median())


def mergeable_count(
    rows: Float[Tensor, "rows features"], nearest_cosines: Float[Tensor, " rows"], *, limit: float
) -> int:
    """Merges until no two of the remaining points lie within `limit`: the closest two become their weighted mean.

    Rows of norm r whose nearest cosine is c have no neighbour within r·√(1 − c²), c ≥ 0: usually nothing can merge, and
    that is then known without a distance. Otherwise rows² float32 in memory and O(rows) per merge.
    """
    norms = torch.cat([block.double().norm(dim=1) for block in torch.split(rows, _MEDIAN_ROWS)]).cpu()
    isolation = norms * (1.0 - nearest_cosines.clamp(0.0, 1.0).square()).sqrt()
    # a cosine is right to 1e-6, so that the isolation of a copy is 0 to 1.4e-3 of its norm
    candidates = (isolation <= limit + 2e-3 * norms).nonzero().flatten().to(rows.device)
    if candidates.numel() < 2 or float(nearest_distances(rows[candidates]).min()) > limit:
        return 0
    return _merges(_squared_distances(rows), limit=limit)


def _squared_distances(rows: Float[Tensor, "rows features"]) -> "npt.NDArray[np.float32]":
    """‖x − y‖² of all pairs, infinite on the diagonal; taken in float64, kept in float32, rounding cut to 0."""
    centred = rows.double() - rows.double().mean(0)
    squares = centred.square().sum(1)
    rounding = 1e-13 * float(squares.max())
    squared = torch.empty(rows.shape[0], rows.shape[0], device=rows.device)
    step = max(1, _BLOCK_ENTRIES // rows.shape[0])
    for start in range(0, rows.shape[0], step):
        block = centred[start : start + step]
        between = squares[start : start + step, None] + squares
        between.addmm_(block, centred.T, alpha=-2.0)
        squared[start : start + step] = between.masked_fill_(between < rounding, 0.0)
    squared.fill_diagonal_(math.inf)
    return squared.cpu().numpy()


def _merges(squared: "npt.NDArray[np.float32]", *, limit: float) -> int:
    """Centroid linkage up to a distance, nearest neighbours kept as lower bounds (Müllner 2011, generic algorithm)."""
    import numpy as np

    nearest, partner = squared.min(1), squared.argmin(1)
    weight = np.ones(len(squared), dtype=np.float32)
    is_bound = np.zeros(len(squared), dtype=bool)  # the partner is gone: the distance is only a lower bound
    merges = 0
    while True:
        keep = int(nearest.argmin())
        if nearest[keep] > limit * limit:
            return merges
        if is_bound[keep]:
            partner[keep] = squared[keep].argmin()
            nearest[keep], is_bound[keep] = squared[keep, partner[keep]], False
            continue
        gone = int(partner[keep])
        share = weight[gone] / (weight[keep] + weight[gone])
        merged = (1 - share) * squared[keep] + share * squared[gone] - share * (1 - share) * squared[keep, gone]
        np.maximum(merged, 0.0, out=merged)
        merged[[keep, gone]] = math.inf
        squared[keep], squared[:, keep], squared[gone], squared[:, gone] = merged, merged, math.inf, math.inf
        weight[keep] += weight[gone]
        orphans = (partner == keep) | (partner == gone)
        is_bound |= orphans
        closer = merged <= nearest
        nearest[closer], partner[closer], is_bound[closer] = merged[closer], keep, False
        partner[keep], nearest[gone], is_bound[gone] = merged.argmin(), math.inf, False
        nearest[keep], is_bound[keep] = merged[partner[keep]], False
        merges += 1
