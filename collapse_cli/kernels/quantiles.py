"""Quantiles of any number of values in bounded memory: counts in buckets of equal relative width, exact under split."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.batches import Batch
from collapse_cli.kernels.real_rows import real_rows

__all__ = ["RELATIVE_ERROR", "QuantileSketch", "Quantiles"]

#: Leading bits of the mantissa that name a bucket: 512 buckets per factor of two. They are read off the number and not
#: off its logarithm, so that a value falls into the same bucket however the values are split.
_MANTISSA_BITS = 9
#: A quantile is the middle of a bucket: at most half a bucket, 2⁻¹⁰ of the value, from the true one.
RELATIVE_ERROR = 2.0 ** -(_MANTISSA_BITS + 1)
_SHIFT = 52 - _MANTISSA_BITS
_MAGNITUDE = 0x7FFFFFFFFFFFFFFF
#: Values that are looked at at once: their float64 copy and bucket numbers take 32 MiB.
_BLOCK_VALUES = 1 << 21


@final
class QuantileSketch:
    """How many values lie in every bucket of 2⁻⁹ relative width, by sign; zeros, smallest and largest value exactly.

    `count` values of which `zeros` are 0; `non_finite` values (NaN, ±∞) are in nothing else. State is at most 16 MiB,
    a few hundred kB for the values of a layer. Quantiles have a relative error of at most 2⁻¹⁰ < 10⁻³ and no error in
    rank (Hdr histograms, Tene 2012; the guarantee is that of DDSketch, Masson, Rim & Lee 2019, section 2).
    """

    def __init__(self) -> None:
        self.count = self.zeros = self.non_finite = 0
        self.minimum, self.maximum = torch.inf, -torch.inf
        # counts[i, s] of the magnitudes whose leading bits are first + i, s = 1 for the negative ones
        self._first = 0
        self._counts = torch.zeros(0, 2, dtype=torch.int64)

    def add(self, values: Tensor) -> None:
        """Counts the entries of a tensor of any shape and floating or integer dtype."""
        for block in torch.split(values.reshape(-1), _BLOCK_VALUES):
            self._add(block.to(torch.float64))

    def _add(self, values: Float[Tensor, " values"]) -> None:
        is_finite = values.isfinite()
        kept = values if bool(is_finite.all()) else values[is_finite]
        self.non_finite += values.numel() - kept.numel()
        if kept.numel() == 0:
            return
        self.count += kept.numel()
        self.minimum, self.maximum = min(self.minimum, float(kept.min())), max(self.maximum, float(kept.max()))
        is_zero = kept == 0.0
        nonzero = kept[~is_zero] if bool(is_zero.any()) else kept
        self.zeros += kept.numel() - nonzero.numel()
        if nonzero.numel() == 0:
            return
        bits = nonzero.contiguous().view(torch.int64)
        buckets = (bits & _MAGNITUDE) >> _SHIFT
        first, last = int(buckets.min()), int(buckets.max())
        places = (buckets - first).mul_(2).add_(bits < 0)
        self._add_counts(first, torch.bincount(places, minlength=2 * (last - first + 1)).reshape(-1, 2).cpu())

    def _add_counts(self, first: int, counts: Int[Tensor, "buckets 2"]) -> None:
        if counts.shape[0] == 0:
            return
        if self._counts.shape[0] == 0:
            self._first, self._counts = first, counts.clone()
            return
        low = min(first, self._first)
        high = max(first + counts.shape[0], self._first + self._counts.shape[0])
        if (low, high) != (self._first, self._first + self._counts.shape[0]):
            wider = self._counts.new_zeros(high - low, 2)
            wider[self._first - low : self._first - low + self._counts.shape[0]] = self._counts
            self._first, self._counts = low, wider
        self._counts[first - low : first - low + counts.shape[0]] += counts

    def merge(self, other: "QuantileSketch") -> None:
        """Adds all values of another sketch."""
        self.count += other.count
        self.zeros += other.zeros
        self.non_finite += other.non_finite
        self.minimum, self.maximum = min(self.minimum, other.minimum), max(self.maximum, other.maximum)
        self._add_counts(other._first, other._counts)

    def histogram(self) -> tuple[Float[Tensor, " buckets"], Int[Tensor, " buckets"]]:
        """The middles of all buckets that hold a value, ascending, and how many each holds; zero is one of them."""
        middles = self._middles()
        zero = torch.zeros(1, dtype=torch.float64)
        values = torch.cat((-middles.flip(0), zero, middles)).clamp(self.minimum, self.maximum)
        zeros = torch.tensor([self.zeros])
        return _occupied(values, torch.cat((self._counts[:, 1].flip(0), zeros, self._counts[:, 0])))

    def magnitudes(self) -> tuple[Float[Tensor, " buckets"], Int[Tensor, " buckets"]]:
        """The same of ∣x∣."""
        largest = max(abs(self.minimum), abs(self.maximum))
        values = torch.cat((torch.zeros(1, dtype=torch.float64), self._middles().clamp(max=largest)))
        return _occupied(values, torch.cat((torch.tensor([self.zeros]), self._counts.sum(1))))

    def _middles(self) -> Float[Tensor, " buckets"]:
        buckets = torch.arange(self._first, self._first + self._counts.shape[0])
        return ((buckets << _SHIFT) + (1 << (_SHIFT - 1))).view(torch.float64)

    def quantile(self, share: float) -> float:
        """The value of rank ⌊share·(n − 1)⌋ from the smallest: ½ is the lower median; 0 where there are no values."""
        return self._at(share, *self.histogram())

    def magnitude_quantile(self, share: float) -> float:
        """The same of ∣x∣."""
        return self._at(share, *self.magnitudes())

    def _at(self, share: float, values: Float[Tensor, " buckets"], counts: Int[Tensor, " buckets"]) -> float:
        if self.count == 0:
            return 0.0
        rank = int(share * (self.count - 1))
        return float(values[int((counts.cumsum(0) <= rank).sum())])


@final
class Quantiles:
    """The sketch of all entries of a role over its finite rows; of `tokens`, over its real and finite tokens."""

    def __init__(self, role: str = "features") -> None:
        self.role, self.sketch = role, QuantileSketch()

    def update(self, batch: Batch) -> None:
        """Adds the entries of a batch."""
        self.sketch.add(real_rows(batch, self.role).rows)

    def merge(self, other: "Quantiles") -> None:
        """Adds all entries of another accumulator of the same role."""
        if other.role != self.role:
            raise ValueError(f"quantiles of {self.role!r} and of {other.role!r} do not merge")
        self.sketch.merge(other.sketch)

    @property
    def count(self) -> int:
        """Entries."""
        return self.sketch.count


def _occupied(
    values: Float[Tensor, " buckets"], counts: Int[Tensor, " buckets"]
) -> tuple[Float[Tensor, " held"], Int[Tensor, " held"]]:
    is_held = counts > 0
    return values[is_held], counts[is_held]
