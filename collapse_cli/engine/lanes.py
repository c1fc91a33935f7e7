"""Rows on their way into accumulators: on two processors where the work on one batch would not keep both busy."""

from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
from torch import Tensor

from collapse_cli.kernels.accumulators import Batch

__all__ = ["LANES", "Feeder"]

#: Sets of accumulators that take turns. Fixed, so that figures do not depend on the number of processors.
LANES = 2


@final
class _Lane:
    """Accumulators of its own, fed every so-manieth batch, and the memory in which their blocks take turns."""

    def __init__(self, accumulators: Mapping[str, Any]) -> None:
        self.accumulators = accumulators
        self._room: dict[Hashable, Tensor] = {}

    def take(self, batch: Batch) -> None:
        """Feed a batch: every accumulator takes a block before the next is touched, while it is in the cache."""
        if self.accumulators:
            for block in batch.blocks(self._room):
                for accumulator in self.accumulators.values():
                    accumulator.update(block)


@final
class Feeder:
    """Feeds batches to several equal sets of accumulators in turn, each in a thread of its own, and merges them.

    Which batch goes to which set does not depend on the threads. Accumulators that take whole batches are fed all of
    them by the caller's thread, in the first set alone. `finished` is that set, complete once the `with` block is left.
    """

    def __init__(self, sets: Sequence[Mapping[str, Any]]) -> None:
        self.finished = sets[0]
        self._whole = [one for one in sets[0].values() if _takes_whole(one)]
        self._lanes = [_Lane({name: one for name, one in each.items() if not _takes_whole(one)}) for each in sets]
        self._pools: list[ThreadPoolExecutor] = []
        self._running = deque[Future[None]]()
        self._turn = 0
        self._stack = ExitStack()

    def __enter__(self) -> "Feeder":
        if len(self._lanes) > 1 and torch.get_num_threads() > 1 and self._lanes[0].accumulators:
            self._stack.enter_context(_single_threaded())
            for _ in self._lanes:
                pool = ThreadPoolExecutor(1, "collapse-rows", initializer=torch.set_num_threads, initargs=(1,))
                self._pools.append(self._stack.enter_context(pool))
        return self

    def feed(self, batch: Batch) -> None:
        """Adds a batch; what went wrong with an earlier one is raised here or at the end."""
        # what all blocks know from the batch is there before another thread asks for it
        batch.finite()
        lane = self._turn % len(self._lanes)
        self._turn += 1
        if self._pools:
            self._running.append(self._pools[lane].submit(self._lanes[lane].take, batch))
        else:
            self._lanes[lane].take(batch)
        for accumulator in self._whole:
            accumulator.update(batch)
        # one batch waits while every lane works on one
        if len(self._running) > len(self._lanes):
            self._running.popleft().result()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._stack:
            for future in self._running:
                if kind is not None:
                    future.cancel()
                else:
                    future.result()
        if kind is None:
            first, *others = self._lanes
            for other in others:
                for name, accumulator in first.accumulators.items():
                    accumulator.merge(other.accumulators[name])


def _takes_whole(accumulator: Any) -> bool:
    return getattr(accumulator, "takes_whole_batches", False)


@contextmanager
def _single_threaded() -> Iterator[None]:
    """One torch thread each while lanes run side by side; afterwards as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
