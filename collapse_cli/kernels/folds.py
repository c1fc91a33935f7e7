"""Two halves of the rows by one bit of a hash, so that what is fitted on one is tested on the other."""

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, final, runtime_checkable

from collapse_cli.kernels.batches import Batch

__all__ = ["Accumulator", "Folds"]


@runtime_checkable
class Accumulator(Protocol):
    """What takes batches of rows and can be added to another of its kind."""

    def update(self, batch: Batch) -> None:
        """Adds the rows of a batch."""

    def merge(self, other: Any) -> None:
        """Adds the rows that another accumulator of the same kind and roles has seen."""


A = TypeVar("A", bound=Accumulator)


@final
class Folds(Generic[A]):
    """Two accumulators of one kind, each fed with its own half of the rows.

    Which half is one bit of hash(seed, row index), so neither the order nor the size of batches matters. `by` names the
    role whose value is hashed instead: rows with the same object id then stay together; rows marked −1 or −100 stand
    alone.
    """

    def __init__(self, kind: Callable[[], A], *, seed: int = 0, by: str | None = None) -> None:
        self.seed, self.by = seed, by
        self.first, self.second = kind(), kind()

    def update(self, batch: Batch) -> None:
        """Adds each row to its half."""
        first, second = batch.halves(self.seed, self.by)
        self.first.update(first)
        self.second.update(second)

    def merge(self, other: "Folds[A]") -> None:
        """Adds the halves of another accumulator with the same seed."""
        if (other.seed, other.by) != (self.seed, self.by):
            raise ValueError("folds of different seeds do not merge: their halves overlap")
        self.first.merge(other.first)
        self.second.merge(other.second)
