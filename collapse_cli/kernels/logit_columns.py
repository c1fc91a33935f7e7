"""How alike the columns of a table of logits are over its rows, where some entries are masked by −∞."""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.batches import Batch

__all__ = ["ClosestColumns", "LogitColumns", "largest_correlation_null"]

#: A column whose standard deviation is below this share of its largest value is constant up to rounding.
_CONSTANT = 1e-12


@final
@dataclass(frozen=True, slots=True)
class ClosestColumns:
    """The two columns with the largest correlation over the `rows` in which both are visible.

    `cosine` is that of the same entries about zero; `pairs` were compared.
    """

    correlation: float
    cosine: float
    columns: tuple[int, int]
    rows: int
    pairs: int


@final
class LogitColumns:
    """Sums over the finite rows with two entries above −∞ or more, for every pair of columns i, j where both are.

    With x about a shift: `joint` counts the rows, `sums` are Σxᵢ, `squares` Σxᵢ² and `products` Σxᵢxⱼ, all columns ×
    columns, float64 on the CPU. The shift is the mean of the first rows.
    """

    def __init__(self, role: str = "router_logits") -> None:
        self.role, self.count, self.magnitude = role, 0, 0.0
        self._shift = torch.zeros(0, dtype=torch.float64)
        #: Rows, sums, squares, products.
        self._pairs = torch.zeros(4, 0, 0, dtype=torch.float64)

    def update(self, batch: Batch) -> None:
        """Adds the finite rows of a batch."""
        rows = batch.rows(self.role)
        is_visible = rows > -torch.inf
        is_row = is_visible.sum(1) >= 2
        if not bool(is_row.all()):
            rows, is_visible = rows[is_row], is_visible[is_row]
        if rows.shape[0] == 0:
            return
        seen, values = is_visible.double(), torch.where(is_visible, rows, 0.0)
        if self.count == 0:
            self._begin(values.sum(0) / seen.sum(0).clamp_min(1.0))
        self.count += rows.shape[0]
        self.magnitude = max(self.magnitude, float(values.abs().max()))
        values = torch.where(is_visible, values - self._shift, 0.0)
        if bool(is_visible.all()):
            self._pairs[0] += rows.shape[0]
            self._pairs[1] += values.sum(0)[:, None]
            self._pairs[2] += values.square().sum(0)[:, None]
        else:
            self._pairs[0].addmm_(seen.T, seen)
            self._pairs[1].addmm_(values.T, seen)
            self._pairs[2].addmm_(values.square().T, seen)
        self._pairs[3].addmm_(values.T, values)

    def _begin(self, shift: Float[Tensor, " columns"]) -> None:
        self._shift = shift.clone()
        self._pairs = shift.new_zeros(4, shift.numel(), shift.numel())

    def merge(self, other: "LogitColumns") -> None:
        """Adds all rows of another accumulator of the same role."""
        if other.role != self.role:
            raise ValueError(f"columns of {self.role!r} and of {other.role!r} do not merge")
        if other.count == 0:
            return
        if self.count == 0:
            self._begin(other._shift)
        self.count += other.count
        self.magnitude = max(self.magnitude, other.magnitude)
        joint, sums, squares, products = other._pairs.to(self._pairs.device)
        step = other._shift.to(self._shift.device) - self._shift
        along = step[:, None]
        self._pairs[0] += joint
        self._pairs[1] += sums + along * joint
        self._pairs[2] += squares + 2.0 * along * sums + along.square() * joint
        self._pairs[3] += products + step * sums + along * sums.T + along * step * joint

    def closest(self, fewest: int) -> ClosestColumns | None:
        """The closest pair among those that vary over `fewest` rows or more together; None if there is no such pair."""
        joint, sums, squares, products = self._pairs.cpu()
        rows = joint.clamp_min(1.0)
        variances = (squares / rows - (sums / rows).square()).clamp_min(0.0)
        deviations = variances.sqrt()
        varies = deviations > _CONSTANT * self.magnitude
        is_compared = torch.triu((joint >= max(fewest, 2)) & varies & varies.T, diagonal=1)
        pairs = int(is_compared.sum())
        if pairs == 0:
            return None
        covariances = products / rows - sums * sums.T / rows.square()
        safe = torch.where(is_compared, deviations, 1.0)
        correlations = covariances / safe / torch.where(is_compared, deviations.T, 1.0)
        place = int(correlations.masked_fill(~is_compared, -torch.inf).argmax())
        first, second = divmod(place, joint.shape[0])
        return ClosestColumns(
            min(max(float(correlations[first, second]), -1.0), 1.0),
            self._cosine(first, second),
            (first, second),
            int(joint[first, second]),
            pairs,
        )

    def _cosine(self, first: int, second: int) -> float:
        joint, sums, squares, products = self._pairs.cpu()
        shift, rows = self._shift.cpu(), joint[first, second]

        def square(one: int, other: int) -> Tensor:
            result: Tensor = squares[one, other] + 2.0 * shift[one] * sums[one, other] + shift[one].square() * rows
            return result

        product = products[first, second] + shift[second] * sums[first, second] + shift[first] * sums[second, first]
        product = product + shift[first] * shift[second] * rows
        length = float(square(first, second).clamp_min(0.0).sqrt() * square(second, first).clamp_min(0.0).sqrt())
        return min(max(float(product) / length, -1.0), 1.0) if length > 0.0 else 0.0


def largest_correlation_null(columns: int, rows: int) -> float:
    """The correlation that one pair of independent columns in all of them is expected to exceed, Φ⁻¹(1−1/m)/√N."""
    pairs = columns * (columns - 1) // 2
    return NormalDist().inv_cdf(1.0 - 1.0 / pairs) / math.sqrt(rows) if pairs > 1 else 0.0
