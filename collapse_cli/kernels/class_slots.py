"""A table with one row per class, whose classes turn up as the data goes by."""

from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["ClassSlots", "grown"]


@final
class ClassSlots:
    """One slot per label, in order of appearance, with storage that grows by doubling."""

    def __init__(self) -> None:
        self.count = 0
        self._labels = torch.zeros(0, dtype=torch.int64)
        self._slots = torch.zeros(0, dtype=torch.int64)
        self._latest: tuple[Tensor, Tensor] | None = None

    def places(self, labels: Int[Tensor, " found"]) -> Int[Tensor, " found"]:
        """The slots of distinct labels; new ones are added. A tensor of labels is looked up once in a row."""
        if self._latest is None or self._latest[0] is not labels:
            self._latest = labels, self._looked_up(labels)
        return self._latest[1]

    def _looked_up(self, labels: Int[Tensor, " found"]) -> Int[Tensor, " found"]:
        known = self._labels.to(labels.device)
        is_new = ~torch.isin(labels, known)
        new = labels[is_new]
        if new.numel():
            slots = torch.arange(self.count, self.count + new.numel(), device=labels.device)
            merged, order = torch.cat((known, new)).sort()
            self._labels, self._slots = merged, torch.cat((self._slots.to(labels.device), slots))[order]
            self.count += new.numel()
        return self._slots.to(labels.device)[torch.searchsorted(self._labels.to(labels.device), labels)]

    @property
    def labels(self) -> Int[Tensor, " classes"]:
        """All labels, sorted."""
        return self._labels

    @property
    def order(self) -> Int[Tensor, " classes"]:
        """The slots of the sorted labels."""
        return self._slots

    @property
    def by_appearance(self) -> Int[Tensor, " classes"]:
        """All labels, in slot order."""
        labels = torch.empty_like(self._labels)
        labels[self._slots] = self._labels
        return labels


def grown(table: Tensor, count: int) -> Tensor:
    """The same table with room for that many slots, and as many again so that growing stays rare."""
    if table.shape[0] >= count:
        return table
    larger = table.new_zeros((max(count, 2 * table.shape[0]), *table.shape[1:]))
    larger[: table.shape[0]] = table
    return larger
