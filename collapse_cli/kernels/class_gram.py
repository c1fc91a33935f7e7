"""One second moment per class, for the few questions that class means do not answer."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.errors import OutOfMemory
from collapse_cli.kernels.batches import Batch
from collapse_cli.kernels.class_slots import ClassSlots, grown

__all__ = ["ClassGram"]

#: Bytes beyond which one Gram per class is refused; the rows of each class in a sample do then.
_LARGEST_CLASS_GRAM = 1 << 30


@final
class ClassGram:
    """One Gram of unit rows and one scatter about the class mean for every class; refused above 1 GiB.

    Raises (`update`, `merge`):
        OutOfMemory: classes × features² × 16 bytes are more than 1 GiB.
    """

    def __init__(self, role: str = "features", labels: str = "labels") -> None:
        self.role, self.label_role = role, labels
        self._slots = ClassSlots()
        self._shift = torch.zeros(0, dtype=torch.float64)
        self._counts = torch.zeros(0, dtype=torch.int64)
        self._sums = torch.zeros(0, 0, dtype=torch.float64)
        self._scatters, self._unit_grams = (torch.zeros(0, 0, 0, dtype=torch.float64) for _ in range(2))

    def update(self, batch: Batch) -> None:
        """Adds the finite, labelled rows of a batch."""
        if batch.rows(self.role).shape[0] == 0:
            return
        if self._shift.numel() == 0:
            self._begin(batch.mean(self.role))
        labels, place, is_labelled = batch.classes(self.label_role)
        if labels.numel() == 0:
            return
        rows, units = batch.shifted(self.role, self._shift), batch.unit_rows(self.role)
        if is_labelled is not None:
            rows, units = rows[is_labelled], units[is_labelled]
        slots, order = self._room(labels), torch.argsort(place)
        sizes = torch.bincount(place, minlength=labels.numel()).tolist()
        first = 0
        for slot, size in zip(slots.tolist(), sizes, strict=True):
            chosen, first = order[first : first + size], first + size
            own, directions = rows[chosen], units[chosen]
            self._counts[slot] += own.shape[0]
            self._sums[slot] += own.sum(0)
            self._scatters[slot].addmm_(own.T, own)
            self._unit_grams[slot].addmm_(directions.T, directions)

    def merge(self, other: "ClassGram") -> None:
        """Adds all rows of another accumulator of the same roles."""
        if (other.role, other.label_role) != (self.role, self.label_role):
            raise ValueError(f"class Grams of {self.role!r} and of {other.role!r} do not merge")
        if other._shift.numel() == 0:
            return
        if self._shift.numel() == 0:
            self._begin(other._shift)
        device = self._shift.device
        step = other._shift.to(device) - self._shift
        slots = self._room(other._slots.by_appearance.to(device)).tolist()
        for theirs, slot in enumerate(slots):
            count, total = int(other._counts[theirs]), other._sums[theirs].to(device)
            cross = torch.outer(total, step)
            self._counts[slot] += count
            self._sums[slot] += total + count * step
            self._scatters[slot] += other._scatters[theirs].to(device) + cross + cross.T
            self._scatters[slot] += count * torch.outer(step, step)
            self._unit_grams[slot] += other._unit_grams[theirs].to(device)

    def _begin(self, shift: Float[Tensor, " features"]) -> None:
        self._shift = shift.clone()
        self._counts = self._counts.to(shift.device)
        self._sums = shift.new_zeros(0, shift.numel())
        self._scatters, self._unit_grams = (shift.new_zeros(0, shift.numel(), shift.numel()) for _ in range(2))

    def _room(self, labels: Int[Tensor, " found"]) -> Int[Tensor, " found"]:
        slots, count, width = self._slots.places(labels), self._slots.count, self._shift.numel()
        if 16 * count * width * width > _LARGEST_CLASS_GRAM:
            raise OutOfMemory(
                "one Gram matrix per class is too large:",
                where=self.role,
                expected="at most 1 GiB",
                got=f"got {count} classes of width {width}",
                hint="the sample holds 64 rows of every class; their Grams are small",
            )
        self._counts, self._sums = grown(self._counts, count), grown(self._sums, count)
        self._scatters, self._unit_grams = grown(self._scatters, count), grown(self._unit_grams, count)
        return slots

    @property
    def labels(self) -> Int[Tensor, " classes"]:
        """The labels that occurred, ascending."""
        return self._slots.labels.cpu()

    @property
    def counts(self) -> Int[Tensor, " classes"]:
        """n_k."""
        return self._counts[self._slots.order].cpu()

    @property
    def unit_grams(self) -> Float[Tensor, "classes features features"]:
        """Σzzᵀ of every class."""
        return self._unit_grams[self._slots.order].cpu()

    @property
    def scatters(self) -> Float[Tensor, "classes features features"]:
        """Σ(x − m_k)(x − m_k)ᵀ of every class."""
        order = self._slots.order
        scaled = self._sums[order] / self._counts[order, None].double().sqrt()
        return (self._scatters[order] - scaled[:, :, None] * scaled[:, None, :]).cpu()
