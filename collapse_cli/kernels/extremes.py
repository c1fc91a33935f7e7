"""What sums do not show: extremes and exact zeros of every feature, rounding, zero, broken and repeated rows."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.batches import Batch, finite_rows
from collapse_cli.kernels.distinct_rows import DistinctRows, content_hash
from collapse_cli.kernels.precision import used_mantissa_bits

__all__ = ["Extremes"]

_MANTISSA_BITS = {torch.bfloat16: 7, torch.float16: 10, torch.float32: 23, torch.float64: 52}
#: Entries below which few used mantissa bits are an accident.
_FEW_ENTRIES = 256
#: The exponent field of a float64.
_EXPONENT = 0x7FF0000000000000


@final
class Extremes:
    """Over the finite rows of a role: per feature minimum, maximum, exact zeros and Σulp²/12; per row what is special.

    `count` finite rows, of which `zero_rows` are exactly zero; `non_finite_rows` of this role have a NaN or an
    infinity and are in nothing else. `distinct` counts different rows by 64-bit hashes.
    """

    def __init__(self, role: str = "features") -> None:
        self.role = role
        self.count = self.zero_rows = self.non_finite_rows = self.left_out = 0
        self.distinct = DistinctRows()
        self._stored_bits = self._used_bits = 0
        self._minimum = self._maximum = self._powers = torch.zeros(0, dtype=torch.float64)
        self._zeros = torch.zeros(0, dtype=torch.int64)

    def update(self, batch: Batch) -> None:
        """Adds the finite rows of a batch, and counts the others."""
        tensor, rows = batch.roles[self.role], batch.rows(self.role)
        self.non_finite_rows += int((~finite_rows(tensor)).sum())
        self.left_out += batch.count - rows.shape[0]
        if rows.shape[0] == 0:
            return
        if self.count == 0:
            self._begin(rows)
        self.count += rows.shape[0]
        is_zero = rows == 0.0
        self._minimum = torch.minimum(self._minimum, rows.amin(0))
        self._maximum = torch.maximum(self._maximum, rows.amax(0))
        self._zeros += is_zero.sum(0)
        self._powers += _squared_powers(rows, tensor.dtype)
        self._stored_bits = max(self._stored_bits, _MANTISSA_BITS.get(tensor.dtype, 52))
        self._used_bits = max(self._used_bits, _used_bits(batch.selected(self.role)))
        self.zero_rows += int(is_zero.all(1).sum())
        self.distinct.add(content_hash(batch.selected(self.role)))

    def merge(self, other: "Extremes") -> None:
        """Adds all rows of another accumulator of the same role."""
        if other.role != self.role:
            raise ValueError(f"extremes of {self.role!r} and of {other.role!r} do not merge")
        self.non_finite_rows += other.non_finite_rows
        self.left_out += other.left_out
        if other.count == 0:
            return
        if self.count == 0:
            self._begin(other._minimum[None])
        device = self._minimum.device
        self.count += other.count
        self._minimum = torch.minimum(self._minimum, other._minimum.to(device))
        self._maximum = torch.maximum(self._maximum, other._maximum.to(device))
        self._zeros += other._zeros.to(device)
        self._powers += other._powers.to(device)
        self._stored_bits = max(self._stored_bits, other._stored_bits)
        self._used_bits = max(self._used_bits, other._used_bits)
        self.zero_rows += other.zero_rows
        self.distinct.merge(other.distinct)

    def _begin(self, rows: Float[Tensor, "some features"]) -> None:
        width = rows.shape[1]
        self._minimum, self._maximum = rows.new_full((width,), torch.inf), rows.new_full((width,), -torch.inf)
        self._powers = rows.new_zeros(width)
        self._zeros = torch.zeros(width, dtype=torch.int64, device=rows.device)

    @property
    def minimum(self) -> Float[Tensor, " features"]:
        """The smallest value of every feature."""
        return self._minimum.cpu()

    @property
    def maximum(self) -> Float[Tensor, " features"]:
        """The largest value of every feature."""
        return self._maximum.cpu()

    @property
    def zeros(self) -> Int[Tensor, " features"]:
        """In how many rows a feature is exactly zero."""
        return self._zeros.cpu()

    @property
    def mantissa_bits(self) -> int:
        """Bits of the coarsest format that holds all values: 7 for bfloat16 values that were saved as float32."""
        if self.count * self._minimum.numel() < _FEW_ENTRIES:
            return self._stored_bits
        return min(bits for bits in (*_MANTISSA_BITS.values(), self._stored_bits) if bits >= self._used_bits)

    @property
    def squared_rounding(self) -> Float[Tensor, " features"]:
        """Σulp(x)²/12 of every feature: the variance that rounding to `mantissa_bits` adds, times the rows."""
        return (self._powers * (4.0**-self.mantissa_bits / 12.0)).cpu()


def _squared_powers(rows: Float[Tensor, "samples features"], dtype: torch.dtype) -> Float[Tensor, " features"]:
    """Σ(2^⌊log₂|x|⌋)² of every feature; the ulp is this power over 2 to the mantissa bits, and none at zero."""
    powers = (rows.contiguous().view(torch.int64) & _EXPONENT).view(torch.float64)
    if dtype is torch.float16:
        # below 2⁻¹⁴ float16 is subnormal and its steps do not shrink any more; real features get there
        powers = torch.where(powers > 0.0, powers.clamp_min(2.0**-14), powers)
    return powers.square().sum(0)


def _used_bits(rows: Tensor) -> int:
    if rows.dtype is torch.float64:
        single = rows.float()
        return used_mantissa_bits(single) if bool((single.double() == rows).all()) else 52
    return used_mantissa_bits(rows) if rows.dtype is torch.float32 else _MANTISSA_BITS.get(rows.dtype, 52)
