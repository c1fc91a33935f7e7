"""The nearest training row of every generated sample, over all training rows, as they stream by."""

from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collapse_cli.kernels.batches import Batch
from collapse_cli.kernels.distinct_rows import content_hash
from collapse_cli.kernels.hypersphere import unit_rows
from collapse_cli.kernels.nearest_rows import thinned
from collapse_cli.kernels.set_distances import squared_pairs

__all__ = ["QUERY_ROWS", "NearestTraining"]

#: Samples that are compared with every training row, drawn by a fixed seed where there are more.
QUERY_ROWS = 10_000
#: Rounding of a product of centred float64 rows, of the sum of their squares: what is that near is looked at exactly.
_DOUBT = 1e-13


@final
class NearestTraining:
    """Per sample: the squared distance to the nearest row of `reference`, its index, and whether a row equals it.

    `indices` are the places of the samples in the dump; `nearest` is −1 before any row was seen. With `with_cosines`
    also the largest cosine. Rows of another width than the samples are counted in `other_width` and in nothing else.
    State grows with the number of samples only. Of equally near rows the first counts.
    """

    def __init__(
        self,
        samples: Float[Tensor, "samples features"],
        indices: Int[Tensor, " samples"],
        *,
        role: str = "reference",
        with_cosines: bool = False,
    ) -> None:
        self.role, self.with_cosines = role, with_cosines
        self.indices = indices
        self.count = self.other_width = 0
        self._samples = samples.flatten(1).double()
        count, width = self._samples.shape
        self._hashes = content_hash(self._samples) if count else torch.zeros(0, dtype=torch.int64)
        self._centre = self._samples.mean(0) if count else self._samples.new_zeros(width)
        self._squares = torch.full((count,), torch.inf, dtype=torch.float64)
        self._nearest = torch.full((count,), -1, dtype=torch.int64)
        self._is_copy = torch.zeros(count, dtype=torch.bool)
        self._cosines = torch.full((count if with_cosines else 0,), -1.0, dtype=torch.float64)

    @classmethod
    def of(cls, sample: Any, *, role: str = "reference", with_cosines: bool = False) -> "NearestTraining":
        """For the uniform rows of a finished sample of `samples`, at most 10,000; for none where there is no sample."""
        if sample is None or sample.count == 0:
            return cls(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64), role=role, with_cosines=with_cosines)
        rows, indices = sample.rows("samples")[sample.is_uniform], sample.indices[sample.is_uniform]
        chosen = thinned(rows.shape[0], QUERY_ROWS)
        return cls(rows[chosen], indices[chosen], role=role, with_cosines=with_cosines)

    def update(self, batch: Batch) -> None:
        """Compares the finite rows of a batch with all samples."""
        rows = batch.rows(self.role)
        if rows.shape[0] == 0 or self._samples.shape[0] == 0:
            self.count += rows.shape[0]
            return
        if rows.shape[1] != self._samples.shape[1]:
            self.other_width += rows.shape[0]
            return
        self.count += rows.shape[0]
        self._to(rows.device)
        indices = batch.finite_indices()
        self._compare(rows, indices)
        self._mark_copies(rows, indices)
        if self.with_cosines:
            largest = (unit_rows(self._samples) @ batch.unit_rows(self.role).T).amax(1)
            self._cosines = torch.maximum(self._cosines, largest)

    def _to(self, device: torch.device) -> None:
        if self._samples.device == device:
            return
        for name in ("_samples", "_hashes", "_centre", "_squares", "_nearest", "_is_copy", "_cosines"):
            setattr(self, name, getattr(self, name).to(device))

    def _compare(self, rows: Float[Tensor, "rows features"], indices: Int[Tensor, " rows"]) -> None:
        own, other = self._samples - self._centre, rows - self._centre
        lengths, squares = own.square().sum(1), other.square().sum(1)
        least, place = torch.addmm(squares, own, other.T, alpha=-2.0).min(1)
        asked = (least + lengths <= self._squares + _DOUBT * (lengths + squares.max())).nonzero().flatten()
        place = place[asked]
        self._take(asked, squared_pairs(self._samples, rows, (asked, place)), indices[place])

    def _mark_copies(self, rows: Float[Tensor, "rows features"], indices: Int[Tensor, " rows"]) -> None:
        hashes, order = content_hash(rows).sort(stable=True)
        place = torch.searchsorted(hashes, self._hashes).clamp_max(hashes.numel() - 1)
        asked = (hashes[place] == self._hashes).nonzero().flatten()
        self._is_copy[asked] = True
        self._take(asked, torch.zeros_like(self._squares[asked]), indices[order[place[asked]]])

    def _take(self, asked: Tensor, squares: Tensor, indices: Tensor) -> None:
        """Keeps what is nearer than before, or as near and earlier."""
        before, known = self._squares[asked], self._nearest[asked]
        better = (squares < before) | ((squares == before) & ((indices < known) | (known < 0)))
        self._squares[asked[better]], self._nearest[asked[better]] = squares[better], indices[better]

    def merge(self, other: "NearestTraining") -> None:
        """Adds all rows that were compared with the same samples elsewhere."""
        if not torch.equal(self._hashes.cpu(), other._hashes.cpu()) or self.with_cosines != other.with_cosines:
            raise ValueError("nearest rows of different samples do not merge")
        device = self._squares.device
        self.count += other.count
        self.other_width += other.other_width
        seen = (other._nearest >= 0).nonzero().flatten()
        self._take(seen.to(device), other._squares[seen].to(device), other._nearest[seen].to(device))
        self._is_copy |= other._is_copy.to(device)
        self._cosines = torch.maximum(self._cosines, other._cosines.to(device))

    @property
    def distances(self) -> Float[Tensor, " samples"]:
        """Euclidean distance to the nearest row; infinite before any was seen."""
        return self._squares.sqrt().cpu()

    @property
    def nearest(self) -> Int[Tensor, " samples"]:
        """Index in the whole dump of the nearest row."""
        return self._nearest.cpu()

    @property
    def is_copy(self) -> Bool[Tensor, " samples"]:
        """Which samples equal a row bit for bit (−0 and 0 are the same)."""
        return self._is_copy.cpu()

    @property
    def cosines(self) -> Float[Tensor, " samples"]:
        """Largest cosine with any row; empty where none were taken."""
        return self._cosines.cpu()
