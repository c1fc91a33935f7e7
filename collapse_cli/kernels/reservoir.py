"""A sample of whole rows that depends on the data and a seed alone: not on order, batches or splits."""

from collections.abc import Iterator
from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from collapse_cli.kernels.batches import UNLABELLED, Batch, row_hash

__all__ = ["GROUP_ROWS", "LABEL_ROWS", "STRATUM_LIMIT", "UNIFORM_ROWS", "Sample"]

#: Rows drawn from all: a share estimated on them has a standard error of at most ½/√8192 = .0055.
UNIFORM_ROWS = 8192
#: Rows drawn besides from every class and from every group, and the most rows that all classes together get.
LABEL_ROWS, GROUP_ROWS, STRATUM_LIMIT = 64, 32, 65536


@final
class Sample:
    """The rows with the smallest SplitMix64(seed, row index): of all, of every class (`labels`), of every `groups`.

    Where 64 (32) rows a class (group) would be more than 65,536 in all, each gets 65,536 over the number of classes.
    All roles of a row travel together, in the stored dtype, finite rows only. Bottom-k sketches of a union are the
    bottom k of the sketches (Cohen & Kaplan 2007), hence it merges. Rows are read in order of their index, on the CPU.
    `without` are roles that do not travel.
    """

    #: Its work is by row, not by entry: blocks that fit the cache would only be more calls.
    takes_whole_batches = True

    def __init__(self, *, seed: int = 0, rows: int = UNIFORM_ROWS, without: frozenset[str] = frozenset()) -> None:
        self.seed, self.uniform_rows, self.without = seed, rows, without
        self.count = 0
        self._indices: list[Tensor] = []
        self._roles: dict[str, list[Tensor]] = {}
        self._is_uniform = torch.zeros(0, dtype=torch.bool)
        self._waiting = 0
        # of every stratum: the strata seen, and the largest hash that can still enter each; "" is the stratum of all
        self._bounds: dict[str, tuple[Tensor, Tensor]] = {}

    def update(self, batch: Batch) -> None:
        """Offers the finite rows of a batch."""
        self.count += int(batch.finite().sum())
        self._offer(
            batch.finite_indices(), {role: batch.selected(role) for role in batch.roles if role not in self.without}
        )

    def merge(self, other: "Sample") -> None:
        """Offers the rows that another sample with the same seed has kept."""
        if (other.seed, other.uniform_rows) != (self.seed, self.uniform_rows):
            raise ValueError("samples of different seeds or sizes do not merge")
        self.count += other.count
        if not other._indices:
            return
        self._offer(torch.cat(other._indices), {role: torch.cat(parts) for role, parts in other._roles.items()})
        for name, (strata, _) in other._bounds.items():
            known, bounds = self._bounds.get(name, (strata[:0], strata[:0]))
            self._bounds[name] = _with_strata(known, bounds, strata.to(known.device))

    def _offer(self, indices: Int[Tensor, " rows"], rows: dict[str, Tensor]) -> None:
        if indices.numel() == 0:
            return
        if self._indices and set(rows) != set(self._roles):
            raise ValueError(f"a sample of {sorted(self._roles)} was offered {sorted(rows)}")
        device = self._indices[0].device if self._indices else indices.device
        keys, near = row_hash(indices, self.seed), torch.zeros_like(indices, dtype=torch.bool)
        for name, places, strata, _ in self._strata(indices, rows):
            known, bounds = self._bounds.get(name, (strata[:0], strata[:0]))
            known, bounds = _with_strata(known.to(strata.device), bounds.to(strata.device), strata)
            self._bounds[name] = known.to(device), bounds.to(device)
            near[places] |= keys[places] <= bounds[torch.searchsorted(known, strata)]
        # copies: a reader may use the memory of its batch again
        chosen = near.nonzero().flatten()
        self._indices.append(indices[chosen].to(device))
        for role, tensor in rows.items():
            self._roles.setdefault(role, []).append(tensor[chosen].to(device))
        self._waiting += chosen.numel()
        # as many as are kept may wait: a row is moved a few times, however many there are
        if self._waiting > max(self.uniform_rows, self._is_uniform.numel()):
            self._settle()

    def _strata(
        self, indices: Int[Tensor, " rows"], rows: dict[str, Tensor]
    ) -> Iterator[tuple[str, Int[Tensor, " members"], Int[Tensor, " members"], int]]:
        """Name, places of the members, stratum of each, and rows that each stratum gets before the common limit."""
        everywhere = torch.arange(indices.numel(), device=indices.device)
        yield "", everywhere, torch.zeros_like(everywhere), self.uniform_rows
        for role, quota in (("labels", LABEL_ROWS), ("groups", GROUP_ROWS)):
            if role in rows:
                strata = rows[role].reshape(indices.numel(), -1)[:, 0].long()
                places = ((strata != UNLABELLED[0]) & (strata != UNLABELLED[1])).nonzero().flatten()
                yield role, places, strata[places], quota

    def _settle(self) -> None:
        """Keeps the rows that are in some stratum's bottom."""
        if self._waiting == 0:
            return
        indices = torch.cat(self._indices)
        rows = {role: torch.cat(parts) for role, parts in self._roles.items()}
        keys, kept = row_hash(indices, self.seed), torch.zeros_like(indices, dtype=torch.bool)
        is_uniform = kept
        for name, places, strata, quota in self._strata(indices, rows):
            known, bounds = self._bounds[name]
            share = quota if name == "" else min(quota, STRATUM_LIMIT // max(known.numel(), 1))
            chosen, full, largest = _bottom(keys[places], strata, share)
            bounds[torch.searchsorted(known, full)] = largest
            kept = kept.index_fill(0, places[chosen], True)
            is_uniform = kept if name == "" else is_uniform
        stay = kept.nonzero().flatten()
        self._indices = [indices[stay]]
        self._roles = {role: [tensor[stay]] for role, tensor in rows.items()}
        self._is_uniform, self._waiting = is_uniform[stay], 0

    def _order(self) -> Int[Tensor, " kept"]:
        self._settle()
        return self._indices[0].argsort()

    @property
    def indices(self) -> Int[Tensor, " kept"]:
        """Index in the whole dump of every row kept, ascending."""
        if not self._indices:
            return torch.zeros(0, dtype=torch.int64)
        # first the order: it settles what the sample holds
        order = self._order()
        return self._indices[0][order].cpu()

    @property
    def is_uniform(self) -> Bool[Tensor, " kept"]:
        """Which of the rows kept are the uniform sample of all; the others over-represent rare classes."""
        if not self._indices:
            return torch.zeros(0, dtype=torch.bool)
        order = self._order()
        return self._is_uniform[order].cpu()

    @property
    def is_exact(self) -> bool:
        """Whether the uniform sample is the whole dump."""
        return self.count <= self.uniform_rows

    @property
    def device(self) -> torch.device:
        """Where the rows lie that `rows` copies to the CPU."""
        return self._indices[0].device if self._indices else torch.device("cpu")

    def rows(self, role: str) -> Tensor:
        """The rows kept of one role, in the stored dtype, in order of their index."""
        order = self._order()
        return self._roles[role][0][order].cpu()


def _with_strata(
    known: Int[Tensor, " known"], bounds: Int[Tensor, " known"], strata: Int[Tensor, " members"]
) -> tuple[Int[Tensor, " strata"], Int[Tensor, " strata"]]:
    """The strata seen so far with their bounds, and the new ones among `strata`, which any hash can still enter."""
    together = torch.unique(torch.cat((known, strata)))
    result = torch.full_like(together, torch.iinfo(torch.int64).max)
    result[torch.searchsorted(together, known)] = bounds
    return together, result


def _bottom(
    keys: Int[Tensor, " members"], strata: Int[Tensor, " members"], quota: int
) -> tuple[Int[Tensor, " chosen"], Int[Tensor, " full"], Int[Tensor, " full"]]:
    """Places of the `quota` smallest keys of every stratum, the strata that have so many, and the largest of those."""
    by_key = keys.argsort()
    order = by_key[strata[by_key].argsort(stable=True)]
    found, sizes = torch.unique_consecutive(strata[order], return_counts=True)
    first = sizes.cumsum(0) - sizes
    rank = torch.arange(keys.numel(), device=keys.device) - first.repeat_interleave(sizes)
    is_full = sizes >= quota
    if quota == 0:
        return order[:0], found, torch.full_like(found, torch.iinfo(torch.int64).min)
    return order[rank < quota], found[is_full], keys[order[first[is_full] + quota - 1]]
