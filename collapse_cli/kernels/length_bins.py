"""How close rows of like length lie to one another: unit-row sums per half-octave of length."""

from typing import NamedTuple, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.batches import Batch

__all__ = ["LengthBin", "LengthBins", "half_octave"]

#: Half-octaves of a 64-bit length.
_BINS = 128


def half_octave(lengths: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """⌊2 log₂ n⌋, exactly: the exponent of n²."""
    exponents: Tensor = torch.frexp(lengths.to(torch.float64).square())[1]
    return (exponents - 1).long()


class LengthBin(NamedTuple):
    """Rows of like length: how many, the mean of log n, Σz, and the half-octaves they come from (both included)."""

    rows: int
    mean_log_length: float
    unit_sum: Float[Tensor, " features"]
    first: int
    last: int

    @property
    def cosine(self) -> float:
        """The mean cosine of two different rows, (‖Σz‖² − n)/(n(n − 1))."""
        return (float(self.unit_sum.square().sum()) - self.rows) / (self.rows * (self.rows - 1))


@final
class LengthBins:
    """Per half-octave of `lengths`: rows, Σ log n and Σz of the unit rows; and Σ(x − x̄)(log n − mean) over all rows.

    Rows that are zero have no direction and are in no bin (`zero_rows`); rows of length below one are in nothing
    (`without_length`).
    """

    def __init__(self, role: str = "features", lengths: str = "lengths") -> None:
        self.role, self.lengths = role, lengths
        self.count = self.zero_rows = self.without_length = 0
        self._rows = torch.zeros(_BINS, dtype=torch.int64)
        self._logs = torch.zeros(_BINS, dtype=torch.float64)
        self._units = torch.zeros(_BINS, 0, dtype=torch.float64)
        self._mean = self._cross = torch.zeros(0, dtype=torch.float64)
        self._mean_log = self._square_log = 0.0

    def update(self, batch: Batch) -> None:
        """Adds the finite rows of a batch."""
        lengths = batch.selected(self.lengths).reshape(-1).long()
        has_length = lengths >= 1
        self.without_length += int((~has_length).sum())
        if not bool(has_length.any()):
            return
        logs = lengths[has_length].to(torch.float64).log()
        rows = batch.rows(self.role)[has_length]
        self._add_bins(batch.unit_rows(self.role)[has_length], lengths[has_length], logs)
        mean, mean_log = rows.mean(0), float(logs.mean())
        deviation = logs - mean_log
        self._join(
            logs.numel(), mean, mean_log, cross=deviation @ (rows - mean), square=float(deviation.square().sum())
        )

    def _add_bins(
        self, units: Float[Tensor, "rows features"], lengths: Int[Tensor, " rows"], logs: Float[Tensor, " rows"]
    ) -> None:
        if self._units.shape[1] == 0:
            self._rows, self._logs = self._rows.to(units.device), self._logs.to(units.device)
            self._units = units.new_zeros(_BINS, units.shape[1])
        bins = half_octave(lengths)
        is_directed = units.square().sum(1) > 0.0
        self.zero_rows += int((~is_directed).sum())
        bins = bins[is_directed]
        self._rows += torch.bincount(bins, minlength=_BINS)
        self._logs.index_add_(0, bins, logs[is_directed])
        self._units.index_add_(0, bins, units[is_directed])

    def _join(self, count: int, mean: Tensor, mean_log: float, *, cross: Tensor, square: float) -> None:
        if self.count == 0:
            self.count, self._mean, self._mean_log = count, mean, mean_log
            self._cross, self._square_log = cross, square
            return
        both = self.count + count
        weight, step, step_log = self.count * count / both, mean - self._mean, mean_log - self._mean_log
        self._cross = self._cross + cross + weight * step_log * step
        self._square_log += square + weight * step_log**2
        self._mean, self._mean_log = self._mean + step * (count / both), self._mean_log + step_log * (count / both)
        self.count = both

    def merge(self, other: "LengthBins") -> None:
        """Adds all rows of another accumulator of the same roles."""
        if (other.role, other.lengths) != (self.role, self.lengths):
            raise ValueError("length bins of different roles do not merge")
        self.zero_rows += other.zero_rows
        self.without_length += other.without_length
        if other.count == 0:
            return
        if self.count == 0:
            self._units = torch.zeros_like(other._units)
            self._rows, self._logs = torch.zeros_like(other._rows), torch.zeros_like(other._logs)
        device = self._units.device
        self._rows += other._rows.to(device)
        self._logs += other._logs.to(device)
        self._units += other._units.to(device)
        self._join(
            other.count,
            other._mean.to(device),
            other._mean_log,
            cross=other._cross.to(device),
            square=other._square_log,
        )

    @property
    def rows(self) -> Int[Tensor, " bins"]:
        """Rows in every half-octave."""
        return self._rows.cpu()

    @property
    def unit_sums(self) -> Float[Tensor, "bins features"]:
        """Σz of every half-octave."""
        return self._units.cpu()

    @property
    def log_sums(self) -> Float[Tensor, " bins"]:
        """Σ log n of every half-octave."""
        return self._logs.cpu()

    @property
    def cross(self) -> Float[Tensor, " features"]:
        """Σ(x − x̄)(log n − mean)."""
        return self._cross.cpu()

    @property
    def square_log(self) -> float:
        """Σ(log n − mean)²."""
        return self._square_log

    def merged(self, least: int) -> list[LengthBin]:
        """Bins of at least so many rows, shortest first; none if there are not so many rows at all.

        A thin bin is joined with the next longer one, the last with the one before.
        """
        bins: list[LengthBin] = []
        thin: LengthBin | None = None
        for place in (self.rows > 0).nonzero().flatten().tolist():
            count = int(self.rows[place])
            found = LengthBin(count, float(self.log_sums[place]) / count, self.unit_sums[place], place, place)
            found = found if thin is None else _joined(thin, found)
            if found.rows >= least:
                bins.append(found)
                thin = None
            else:
                thin = found
        if thin is not None and bins:
            bins.append(_joined(bins.pop(), thin))
        return bins


def _joined(left: LengthBin, right: LengthBin) -> LengthBin:
    count = left.rows + right.rows
    mean = (left.rows * left.mean_log_length + right.rows * right.mean_log_length) / count
    return LengthBin(count, mean, left.unit_sum + right.unit_sum, left.first, right.last)
