"""What is answered, over all rows: mean probabilities, decisions and labels by class, and the same by group."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.class_slots import ClassSlots, grown
from collapse_cli.kernels.softmax_rows import LabelColumn, SoftmaxRows

__all__ = ["GROUP_ENTRIES", "PredictionCounts"]

#: Entries of the table of mean probabilities by group; beyond it (32 MiB) there is none.
GROUP_ENTRIES = 1 << 22
#: Rows of the table of counts.
_DECIDED, _DECIDED_LABELLED, _LABELS, _RIGHT = range(4)
_NO_GROUP = torch.iinfo(torch.int64).max


@final
class PredictionCounts:
    """Per class: Σp, rows decided for it, labelled rows decided for it, rows labelled so, of these the right ones.

    Further the lowest group in which a class is a label, and per group Σp where groups × classes ≤ 4,194,304. What is
    read lies on the CPU.
    """

    def __init__(self) -> None:
        self._mass = torch.zeros(0, dtype=torch.float64)
        self._counts = torch.zeros(4, 0, dtype=torch.int64)
        self._first_group = torch.zeros(0, dtype=torch.int64)
        self._slots = ClassSlots()
        self._group_mass = torch.zeros(0, 0, dtype=torch.float64)

    def add(self, rows: SoftmaxRows, labels: LabelColumn | None, groups: Int[Tensor, " rows"] | None) -> None:
        """Adds some rows, with their labels and groups where there are any."""
        probabilities = rows.probabilities
        self._room(probabilities.shape[1], probabilities.device)
        self._mass += probabilities.sum(0)
        self._count(_DECIDED, rows.predicted)
        if groups is not None:
            self._add_groups(probabilities, groups)
        if labels is None:
            return
        values, predicted = labels.values[labels.is_labelled], rows.predicted[labels.is_labelled]
        self._count(_DECIDED_LABELLED, predicted)
        self._count(_LABELS, values)
        self._count(_RIGHT, values[predicted == values])
        if groups is not None:
            self._first_group.scatter_reduce_(0, values, groups[labels.is_labelled], "amin")

    def _count(self, row: int, classes: Int[Tensor, " rows"]) -> None:
        self._counts[row].index_add_(0, classes, torch.ones_like(classes))

    def _room(self, classes: int, device: torch.device) -> None:
        if self._mass.numel() == 0:
            self._mass = torch.zeros(classes, dtype=torch.float64, device=device)
            self._counts = torch.zeros(4, classes, dtype=torch.int64, device=device)
            self._first_group = torch.full((classes,), _NO_GROUP, device=device)
            self._group_mass = self._mass.new_zeros(0, classes)

    def _add_groups(self, probabilities: Float[Tensor, "rows classes"], groups: Int[Tensor, " rows"]) -> None:
        found, place = torch.unique(groups, return_inverse=True)
        slots = self._group_room(found)[place]
        if self._is_grouped():
            self._group_mass.index_add_(0, slots, probabilities)

    def _group_room(self, groups: Int[Tensor, " found"]) -> Int[Tensor, " found"]:
        slots = self._slots.places(groups)
        # given up for good when it would be too large: that depends on the groups alone, not on their order
        self._group_mass = grown(self._group_mass, self._slots.count) if self._is_grouped() else self._group_mass[:0]
        return slots

    def _is_grouped(self) -> bool:
        return self._slots.count * self._mass.numel() <= GROUP_ENTRIES

    def merge(self, other: "PredictionCounts") -> None:
        """Adds all rows of other counts."""
        if other._mass.numel() == 0:
            return
        device = self._mass.device if self._mass.numel() else other._mass.device
        self._room(other._mass.numel(), device)
        self._mass += other._mass.to(device)
        self._counts += other._counts.to(device)
        self._first_group = torch.minimum(self._first_group, other._first_group.to(device))
        used = other._slots.count
        if used == 0:
            return
        slots = self._group_room(other._slots.by_appearance.to(device))
        if self._is_grouped():
            self._group_mass.index_add_(0, slots, other._group_mass[:used].to(device))

    @property
    def mass(self) -> Float[Tensor, " classes"]:
        """Σp over all rows."""
        return self._mass.cpu()

    @property
    def decided(self) -> Int[Tensor, " classes"]:
        """Rows whose largest logit is that of the class."""
        return self._counts[_DECIDED].cpu()

    @property
    def decided_labelled(self) -> Int[Tensor, " classes"]:
        """Of these the labelled ones."""
        return self._counts[_DECIDED_LABELLED].cpu()

    @property
    def labels(self) -> Int[Tensor, " classes"]:
        """Rows with that label."""
        return self._counts[_LABELS].cpu()

    @property
    def right(self) -> Int[Tensor, " classes"]:
        """Rows with that label which are decided for it."""
        return self._counts[_RIGHT].cpu()

    @property
    def groups(self) -> Int[Tensor, " groups"]:
        """The groups that occur, ascending."""
        return self._slots.labels.cpu()

    @property
    def first_group(self) -> Int[Tensor, " classes"]:
        """The lowest group in which a class is a label; the largest int64 where it is none."""
        return self._first_group.cpu()

    @property
    def group_mass(self) -> Float[Tensor, "groups classes"] | None:
        """Σp of every group; None where the table would be too large."""
        return self._group_mass[self._slots.order].cpu() if self._is_grouped() else None
