"""How often each unit fires, how many fire in each row, and how strongly: counts that stay linear in the units."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.batches import STRUCTURED, Batch, row_hash

__all__ = ["UnitActivity"]

#: Entries that are looked at in one piece: 4 MiB in float32.
_PIECE_ENTRIES = 1 << 20
#: Another stream than those of samples and folds, so that halves are halves of every sample.
_HALVES = 0x2E1F_0FF5


@final
class UnitActivity:
    """Counts over the finite rows x of a role, per unit and per row; int64, and float64 where `with_sums`.

    Per unit: `positive` rows with x > 0, `positive_half` those of them in one of two halves by a hash of the row's
    index, `negative` rows with x < 0; with sums, `sums` and `squares` of the positive entries (row 0) and of the
    negative ones (row 1). Of rows: `count`, `half_count`, `silent_rows` (nothing above 0), `active_sum` and
    `active_squares` of the number above 0. Sequences are taken token by token where the `mask` has them.
    """

    def __init__(self, role: str = "sparse", *, seed: int = 0, with_sums: bool = False) -> None:
        self.role, self.seed, self.with_sums = role, seed, with_sums
        self.count = self.half_count = self.silent_rows = self.active_sum = self.active_squares = 0
        # rows: x > 0, x > 0 in the half, x < 0
        self._counts = torch.zeros(3, 0, dtype=torch.int64)
        self._sums = torch.zeros(4, 0, dtype=torch.float64)

    def update(self, batch: Batch) -> None:
        """Adds the finite rows of a batch."""
        rows, indices = self._rows(batch)
        if rows.shape[0] == 0:
            return
        self._begin(rows.shape[1], rows.device)
        half = row_hash(indices, self.seed ^ _HALVES) & 1
        self.count += rows.shape[0]
        self.half_count += int(half.sum())
        step = max(1, _PIECE_ENTRIES // max(rows.shape[1], 1))
        for first in range(0, rows.shape[0], step):
            self._add(rows[first : first + step], half[first : first + step])

    def _rows(self, batch: Batch) -> tuple[Tensor, Int[Tensor, " rows"]]:
        if self.role not in STRUCTURED:
            rows = batch.selected(self.role)
            return rows.flatten(1), batch.finite_indices()
        tensor = batch.roles[self.role]
        rows = tensor.reshape(-1, tensor.shape[-1])
        is_read = rows.isfinite().all(1) & batch.finite().repeat_interleave(tensor.shape[1])
        if "mask" in batch.roles:
            is_read &= batch.roles["mask"].reshape(-1).bool()
        return rows[is_read], batch.indices.repeat_interleave(tensor.shape[1])[is_read]

    def _add(self, rows: Tensor, half: Int[Tensor, " rows"]) -> None:
        # products of zeros and ones with fewer than 2²⁴ rows are exact in float32, and faster than sums of booleans
        is_positive = (rows > 0).to(torch.float32)
        weights = torch.stack((torch.ones_like(half), half)).to(torch.float32)
        self._counts[:2] += (weights @ is_positive).long()
        active = is_positive.sum(1).long()
        self.silent_rows += int((active == 0).sum())
        self.active_sum += int(active.sum())
        self.active_squares += int(active.square().sum())
        has_negative = rows.numel() > 0 and bool(rows.amin() < 0)
        if has_negative:
            self._counts[2] += (rows < 0).sum(0)
        if self.with_sums:
            values = rows.to(torch.float64)
            for place, part in enumerate((values.clamp_min(0.0), values.clamp_max(0.0))):
                self._sums[place] += part.sum(0)
                self._sums[2 + place] += part.square().sum(0)

    def merge(self, other: "UnitActivity") -> None:
        """Adds all rows of another accumulator of the same role, seed and sums."""
        if (other.role, other.seed, other.with_sums) != (self.role, self.seed, self.with_sums):
            raise ValueError(f"activity of {self.role!r} and of {other.role!r}, or with another seed, do not merge")
        if other.count == 0:
            return
        self._begin(other._counts.shape[1], other._counts.device)
        self.count += other.count
        self.half_count += other.half_count
        self.silent_rows += other.silent_rows
        self.active_sum += other.active_sum
        self.active_squares += other.active_squares
        self._counts += other._counts.to(self._counts.device)
        self._sums += other._sums.to(self._sums.device)

    def _begin(self, units: int, device: torch.device) -> None:
        if self._counts.shape[1] == 0:
            self._counts = torch.zeros(3, units, dtype=torch.int64, device=device)
            self._sums = torch.zeros(4, units if self.with_sums else 0, dtype=torch.float64, device=device)

    @property
    def units(self) -> int:
        """F, how many units there are; 0 before the first row."""
        return self._counts.shape[1]

    @property
    def positive(self) -> Int[Tensor, " units"]:
        """Rows in which the unit is above 0."""
        return self._counts[0].cpu()

    @property
    def positive_half(self) -> Int[Tensor, " units"]:
        """The same in one half of the rows."""
        return self._counts[1].cpu()

    @property
    def negative(self) -> Int[Tensor, " units"]:
        """Rows in which the unit is below 0."""
        return self._counts[2].cpu()

    @property
    def sums(self) -> Float[Tensor, "signs units"]:
        """Σx over the positive entries, and over the negative ones."""
        return self._sums[:2].cpu()

    @property
    def squares(self) -> Float[Tensor, "signs units"]:
        """Σx² over the positive entries, and over the negative ones."""
        return self._sums[2:].cpu()
