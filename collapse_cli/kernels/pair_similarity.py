"""Cosines of pairs of rows of one class and of different classes: their extremes, histograms and error rates."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.batches import UNLABELLED
from collapse_cli.kernels.nearest_rows import unit_rows
from collapse_cli.kernels.views import Activations

__all__ = [
    "Cosines",
    "distribution_distance",
    "equal_error_rate",
    "head_cosines",
    "highest_label",
    "histogram_overlap",
    "pair_cosines",
    "paired_classes",
    "separation",
    "true_accept_rate",
]

#: Rows that are paired, and positive pairs below which rows drawn by class are paired instead of rows drawn from all.
_ROWS, _ENOUGH_PAIRS = 4096, 10_000
#: Head rows that are compared with every row.
_HEAD_ROWS = 2048
#: Bins of [−1, 1]: 10⁻⁴ wide, and 40 to each of the 512 bins of an overlap.
_BINS, _COARSE = 20480, 40
#: Entries of one tile of cosines.
_TILE_ENTRIES = 1 << 21


@final
@dataclass(frozen=True, slots=True)
class Cosines:
    """Cosines of many pairs: how many, their extremes, mean and variance, and 20,480 bins of [−1, 1]."""

    count: int
    lowest: float
    highest: float
    mean: float
    variance: float
    bins: Int[Tensor, " bins"]

    def quantile(self, share: float) -> float:
        """The cosine below which that share of the pairs lies, to the width of a bin."""
        below = self.bins.cumsum(0)
        place = min(int(torch.searchsorted(below, share * self.count)), _BINS - 1)
        inside = share * self.count - float(below[place] - self.bins[place])
        value = -1.0 + 2.0 * (place + inside / max(int(self.bins[place]), 1)) / _BINS
        return min(max(value, self.lowest), self.highest)


@final
class _Tally:
    """A `Cosines` in the making."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, 0.0, 0.0
        self._lowest, self._highest = 1.0, -1.0
        self._bins = torch.zeros(_BINS, dtype=torch.int64)

    def add(self, cosines: Float[Tensor, " pairs"]) -> None:
        if cosines.numel() == 0:
            return
        cosines = cosines.clamp(-1.0, 1.0)
        self._count += cosines.numel()
        self._sum += float(cosines.sum())
        self._squares += float(cosines @ cosines)
        self._lowest, self._highest = min(self._lowest, float(cosines.min())), max(self._highest, float(cosines.max()))
        places = ((cosines + 1.0) * (_BINS / 2)).long().clamp_max(_BINS - 1)
        self._bins += torch.bincount(places, minlength=_BINS)

    def cosines(self) -> Cosines:
        mean = self._sum / max(self._count, 1)
        variance = max(self._squares / max(self._count, 1) - mean * mean, 0.0)
        return Cosines(self._count, self._lowest, self._highest, mean, variance, self._bins)


def _paired_rows(point: Activations) -> tuple[Tensor, Int[Tensor, " rows"]]:
    """At most 4096 labelled sample rows: drawn from all, or whole classes where those give few positive pairs."""
    sample = point.read("sample")
    labels = sample.rows("labels").reshape(-1).long()
    is_labelled = (labels != UNLABELLED[0]) & (labels != UNLABELLED[1])
    uniform = _thinned((is_labelled & sample.is_uniform).nonzero().flatten())
    counts = torch.unique(labels[uniform], return_counts=True)[1]
    if not sample.is_exact and int((counts * (counts - 1)).sum()) // 2 < _ENOUGH_PAIRS:
        found, sizes = torch.unique(labels[is_labelled], return_counts=True)
        classes = _thinned(torch.arange(found.numel()), max(int(_ROWS / sizes.double().mean()), 2))
        uniform = (is_labelled & torch.isin(labels, found[classes])).nonzero().flatten()[:_ROWS]
    rows: Tensor = sample.rows("features")[uniform]
    return rows.reshape(uniform.numel(), -1) if uniform.numel() else torch.zeros(0, 1), labels[uniform]


def _thinned(places: Int[Tensor, " places"], limit: int = _ROWS) -> Int[Tensor, " kept"]:
    if places.numel() <= limit:
        return places
    return places[torch.linspace(0, places.numel() - 1, limit, dtype=torch.float64).round().long()]


def _units_and_labels(point: Activations) -> tuple[Float[Tensor, "rows features"], Int[Tensor, " rows"]]:
    rows, labels = _paired_rows(point)
    return unit_rows(rows), labels


def pair_cosines(point: Activations) -> tuple[Cosines, Cosines]:
    """Cosines of the pairs of sample rows of one class, and of different classes; a zero row has cosine 0."""
    units, labels = point.get(_units_and_labels)
    same, different = _Tally(), _Tally()
    count = units.shape[0]
    step = max(1, _TILE_ENTRIES // max(count, 1))
    for start in range(0, count, step):
        cosines = units[start : start + step] @ units[start:].T
        rows, columns = cosines.shape
        is_later = torch.ones(rows, columns, dtype=torch.bool).triu_(1)
        is_same = labels[start : start + step, None] == labels[start:]
        same.add(cosines[is_same & is_later])
        different.add(cosines[~is_same & is_later])
    return same.cosines(), different.cosines()


def head_cosines(point: Activations, head: Float[Tensor, "classes features"]) -> Cosines:
    """Cosines of the sample rows with the head's rows of the other classes, at most 2048; zero ones left out."""
    units, labels = point.get(_units_and_labels)
    live = head.double().norm(dim=1).gt(0.0).nonzero().flatten()
    kept = _thinned(live, _HEAD_ROWS)
    targets, tally = unit_rows(head[kept]), _Tally()
    step = max(1, _TILE_ENTRIES // max(kept.numel(), 1))
    for start in range(0, units.shape[0] if kept.numel() else 0, step):
        cosines = units[start : start + step] @ targets.T
        tally.add(cosines[labels[start : start + step, None] != kept])
    return tally.cosines()


def histogram_overlap(left: Cosines, right: Cosines) -> float:
    """Σmin of two histograms of 512 bins: 1 if equal, 0 if no bin is shared."""
    shares = [one.bins.reshape(-1, _COARSE).sum(1).double() / max(one.count, 1) for one in (left, right)]
    return float(torch.minimum(*shares).sum())


def equal_error_rate(same: Cosines, different: Cosines) -> float:
    """The rate at which the share of different pairs accepted is that of same pairs refused, thresholds by bin."""
    refused = torch.cat([torch.zeros(1, dtype=torch.float64), same.bins.cumsum(0).double() / max(same.count, 1)])
    accepted = 1.0 - torch.cat(
        [torch.zeros(1, dtype=torch.float64), different.bins.cumsum(0).double() / max(different.count, 1)]
    )
    gaps = accepted - refused
    # accepted falls from 1 and refused rises from 0: the first threshold at which they have crossed
    place = int((gaps <= 0.0).int().argmax())
    if place == 0:
        return float(refused[0])
    before, after = float(gaps[place - 1]), float(gaps[place])
    share = before / (before - after)
    return float(refused[place - 1] + share * (refused[place] - refused[place - 1]))


def true_accept_rate(same: Cosines, different: Cosines, false_accepts: float) -> float:
    """The share of same pairs above the threshold that at most that share of different pairs passes."""
    above = different.bins.flip(0).cumsum(0)
    passed = int((above <= false_accepts * different.count).sum())
    return float(same.bins.flip(0)[:passed].sum()) / max(same.count, 1)


def distribution_distance(left: Cosines, right: Cosines) -> float:
    """Kolmogorov-Smirnov distance of two sets of cosines, to a bin."""
    shares = [one.bins.cumsum(0).double() / max(one.count, 1) for one in (left, right)]
    return float((shares[0] - shares[1]).abs().max())


def separation(same: Cosines, different: Cosines) -> float | None:
    """Sensitivity index d′: difference of the means over the root mean variance; None if it is rounding."""
    spread = math.sqrt((same.variance + different.variance) / 2.0)
    return (same.mean - different.mean) / spread if spread > 1e-6 else None


def paired_classes(point: Activations) -> int:
    """Number of classes among the rows that are paired."""
    return int(torch.unique(point.get(_units_and_labels)[1]).numel())


def highest_label(point: Activations) -> int:
    """The largest label among the rows that are paired."""
    return int(point.get(_units_and_labels)[1].max())
