"""How often every category occurs: codes, labels, chosen experts, predicted classes; optionally group by group."""

from collections.abc import Mapping
from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from collapse_cli.kernels.batches import UNLABELLED, Batch
from collapse_cli.kernels.class_slots import ClassSlots, grown

__all__ = ["CATEGORY_LIMIT", "TABLE_LIMIT", "Counts", "chosen_experts", "largest_entries"]

#: Categories that are told apart, and entries of the table group × category: 32 MiB of integers each.
CATEGORY_LIMIT = TABLE_LIMIT = 1 << 22


@final
class Counts:
    """An exact histogram of the whole numbers of a role (all axes), or of the `chosen` largest entries of its rows.

    Of a role of floating numbers the last axis is the categories; −∞ is a masked category and never counted, and rows
    of logits with fewer than two finite entries are left out. Numbers below 0 are counted in `negative`, those from
    `limit` on in `beyond`, and neither in `counts`. `by` is a role with one whole number per row; beyond
    `table_limit` entries the table by group is given up, whatever the order of the rows.
    """

    def __init__(
        self,
        role: str,
        by: str | None = None,
        *,
        chosen: int = 1,
        limit: int = CATEGORY_LIMIT,
        table_limit: int = TABLE_LIMIT,
    ) -> None:
        self.role, self.by, self.chosen = role, by, chosen
        self.limit, self.table_limit = limit, table_limit
        #: Finite rows seen, and those of them that were left out for want of two finite entries.
        self.rows = self.masked_rows = 0
        self.negative = self.beyond = 0
        self.has_too_many_groups = False
        self._width = 0
        self._slots = ClassSlots()
        self._counts = torch.zeros(0, dtype=torch.int64)
        self._table = torch.zeros(0, 0, dtype=torch.int64)

    def update(self, batch: Batch) -> None:
        """Adds the finite rows of a batch."""
        stored = batch.selected(self.role)
        self.rows += stored.shape[0]
        if stored.shape[0] == 0:
            return
        groups = None if self.by is None else batch.selected(self.by).reshape(stored.shape[0], -1)[:, 0].long()
        if stored.is_floating_point():
            self._widen(stored.shape[-1], stored.device)
            categories, is_counted = self._chosen(stored)
        else:
            categories = stored.reshape(stored.shape[0], -1).long()
            is_counted = torch.ones_like(categories, dtype=torch.bool)
        self.add(categories, groups, is_counted)

    def _chosen(self, rows: Tensor) -> tuple[Int[Tensor, "rows chosen"], Bool[Tensor, "rows chosen"]]:
        flat = rows.reshape(-1, rows.shape[-1])
        if flat.shape[1] == 0:
            empty = torch.zeros(rows.shape[0], 0, dtype=torch.int64, device=rows.device)
            return empty, empty.bool()
        categories = largest_entries(flat, self.chosen)
        is_counted = torch.gather(flat, 1, categories) > -torch.inf
        if self.role.endswith("logits"):
            is_row = (flat > -torch.inf).sum(1) >= 2
            is_counted &= is_row[:, None]
            self.masked_rows += int((~is_row.reshape(rows.shape[0], -1).any(1)).sum())
        return categories.reshape(rows.shape[0], -1), is_counted.reshape(rows.shape[0], -1)

    def add(
        self,
        categories: Int[Tensor, "rows places"],
        groups: Int[Tensor, " rows"] | None = None,
        is_counted: Bool[Tensor, "rows places"] | None = None,
    ) -> None:
        """Counts categories that somebody else has made of the rows."""
        is_negative, is_beyond = categories < 0, categories >= self.limit
        keep = ~(is_negative | is_beyond)
        if is_counted is not None:
            is_negative, is_beyond, keep = is_negative & is_counted, is_beyond & is_counted, keep & is_counted
        self.negative += int(is_negative.sum())
        self.beyond += int(is_beyond.sum())
        chosen = categories[keep]
        if chosen.numel():
            self._widen(int(chosen.max()) + 1, chosen.device)
            self._counts.index_add_(0, chosen, torch.ones_like(chosen))
        if groups is not None:
            self._add_by_group(chosen, groups[:, None].expand_as(categories)[keep])

    def _add_by_group(self, categories: Int[Tensor, " counted"], groups: Int[Tensor, " counted"]) -> None:
        is_grouped = (groups != UNLABELLED[0]) & (groups != UNLABELLED[1])
        found, place = torch.unique(groups[is_grouped], return_inverse=True)
        if self.has_too_many_groups or found.numel() == 0:
            return
        slots = self._slots.places(found)
        if self._gives_up():
            return
        self._table = _with_room(self._table.to(categories.device), self._slots.count, self._width)
        flat = slots[place] * self._table.shape[1] + categories[is_grouped]
        self._table.view(-1).index_add_(0, flat, torch.ones_like(flat))

    def _gives_up(self) -> bool:
        if self._slots.count * self._width > self.table_limit:
            self.has_too_many_groups = True
        if self.has_too_many_groups:
            self._slots, self._table = ClassSlots(), torch.zeros(0, 0, dtype=torch.int64)
        return self.has_too_many_groups

    def _widen(self, width: int, device: torch.device) -> None:
        width = min(width, self.limit)
        self._width = max(self._width, width)
        self._counts = grown(self._counts.to(device), self._width)
        self._gives_up()

    def merge(self, other: "Counts") -> None:
        """Adds all that another accumulator of the same roles has counted."""
        mine, theirs = ((one.role, one.by, one.chosen, one.limit, one.table_limit) for one in (self, other))
        if mine != theirs:
            raise ValueError(f"counts of {mine} and of {theirs} do not merge")
        self.rows += other.rows
        self.masked_rows += other.masked_rows
        self.negative += other.negative
        self.beyond += other.beyond
        self._widen(other._width, self._counts.device if self._width else other._counts.device)
        device = self._counts.device
        self._counts[: other._width] += other._counts[: other._width].to(device)
        self.has_too_many_groups |= other.has_too_many_groups
        if self._gives_up() or other._slots.count == 0:
            return
        slots = self._slots.places(other._slots.by_appearance.to(device))
        if not self._gives_up():
            self._table = _with_room(self._table.to(device), self._slots.count, self._width)
            theirs_table = other._table[: other._slots.count, : other._width].to(device)
            # slots are distinct, so that no row is written twice
            self._table[slots, : other._width] += theirs_table

    @property
    def counts(self) -> Int[Tensor, " categories"]:
        """How often each category was seen, up to the largest seen, or the width of a role of floating numbers."""
        return self._counts[: self._width].cpu()

    @property
    def total(self) -> int:
        """All that is in `counts`."""
        return int(self._counts.sum())

    @property
    def largest(self) -> int:
        """The largest category seen that is not `beyond`; −1 when there is none."""
        seen = self._counts.nonzero()
        return int(seen[-1, 0]) if seen.numel() else -1

    @property
    def groups(self) -> Int[Tensor, " groups"]:
        """The groups seen, sorted; none where there were too many."""
        return self._slots.labels.cpu()

    @property
    def by_group(self) -> Int[Tensor, "groups categories"]:
        """`counts` of each of `groups`."""
        order = self._slots.order.to(self._table.device)
        return _with_room(self._table, self._slots.count, self._width)[order, : self._width].cpu()

    def histogram(self, categories: int) -> Int[Tensor, " categories"]:
        """`counts` of so many categories.

        Raises:
            ValueError: a larger one was seen; look at `largest` first.
        """
        if self.largest >= categories:
            raise ValueError(f"category {self.largest} among {categories}")
        result = torch.zeros(categories, dtype=torch.int64)
        known = self.counts[:categories]
        result[: known.numel()] = known
        return result


def largest_entries(rows: Tensor, count: int) -> Int[Tensor, "rows count"]:
    """Places of the largest entries of every row, the lower place first among equals."""
    if count == 1:
        return rows.argmax(1, keepdim=True)
    # unlike `topk`, a stable sort says what it does with equals
    return rows.sort(dim=1, descending=True, stable=True).indices[:, :count]


def _with_room(table: Tensor, groups: int, width: int) -> Tensor:
    """The table with at least so many rows and columns."""
    if table.shape[0] >= groups and table.shape[1] >= width:
        return table
    columns = table.shape[1] if table.shape[1] >= width else max(width, 2 * table.shape[1])
    rows = table.shape[0] if table.shape[0] >= groups else max(groups, 2 * table.shape[0])
    larger = table.new_zeros(rows, columns)
    larger[: table.shape[0], : table.shape[1]] = table
    return larger


def chosen_experts(metadata: Mapping[str, str]) -> int:
    """Experts per token that the metadata states as `top_k`; 1 where it states none, or nothing that is a number."""
    stated = metadata.get("top_k", "").strip()
    return max(1, int(stated)) if stated.isdecimal() and stated.isascii() else 1
