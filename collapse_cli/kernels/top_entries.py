"""The entries of largest magnitude and where they are."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.batches import Batch
from collapse_cli.kernels.real_rows import RealRows, real_rows

__all__ = ["TOP_ENTRIES", "TopEntries"]

#: Entries that are kept.
TOP_ENTRIES = 4096


@final
class TopEntries:
    """The 4,096 entries of largest ∣x∣ among the finite rows of a role, or its real tokens, with their coordinates.

    Of equal magnitudes the one in the earlier row, position and channel is kept: which are kept depends on the data
    alone. Read in descending order, on the CPU.
    """

    def __init__(self, role: str = "features", *, kept: int = TOP_ENTRIES) -> None:
        self.role, self.kept, self.count = role, kept, 0
        self._values = torch.zeros(0, dtype=torch.float64)
        self._coordinates = torch.zeros(0, 3, dtype=torch.int64)

    def update(self, batch: Batch) -> None:
        """Offers the entries of a batch."""
        vectors = real_rows(batch, self.role)
        self.count += vectors.rows.numel()
        if vectors.rows.numel() == 0:
            return
        magnitudes = vectors.rows.abs()
        is_candidate = magnitudes >= self._smallest
        if int(is_candidate.sum()) > self.kept:
            is_candidate = magnitudes >= float(magnitudes.reshape(-1).topk(self.kept).values[-1])
        place, channel = is_candidate.nonzero(as_tuple=True)
        self._offer(
            vectors.rows[place, channel].to(torch.float64).cpu(),
            torch.stack((*_origin(vectors, place), channel), dim=1).cpu(),
        )

    @property
    def _smallest(self) -> float:
        """What an entry has to reach to be kept."""
        return float(self._values[-1].abs()) if self._values.numel() == self.kept else 0.0

    def merge(self, other: "TopEntries") -> None:
        """Offers the entries that another accumulator of the same role has kept."""
        if (other.role, other.kept) != (self.role, self.kept):
            raise ValueError(f"the top {self.kept} of {self.role!r} and {other.kept} of {other.role!r} do not merge")
        self.count += other.count
        self._offer(other._values, other._coordinates)

    def _offer(self, values: Float[Tensor, " entries"], coordinates: Int[Tensor, "entries 3"]) -> None:
        values = torch.cat((self._values, values))
        coordinates = torch.cat((self._coordinates, coordinates))
        order = torch.arange(values.numel())
        for column in (2, 1, 0):
            order = order[coordinates[order, column].argsort(stable=True)]
        order = order[values[order].abs().argsort(stable=True, descending=True)][: self.kept]
        self._values, self._coordinates = values[order], coordinates[order]

    @property
    def values(self) -> Float[Tensor, " kept"]:
        """The entries, the largest magnitude first."""
        return self._values

    @property
    def coordinates(self) -> Int[Tensor, "kept 3"]:
        """Row, position in its sequence (0 without one) and channel of every entry."""
        return self._coordinates

    @property
    def is_all(self) -> bool:
        """Whether every entry was kept."""
        return self.count <= self.kept


def _origin(vectors: RealRows, place: Int[Tensor, " entries"]) -> tuple[Tensor, Tensor]:
    return vectors.sample[place], vectors.position[place]
