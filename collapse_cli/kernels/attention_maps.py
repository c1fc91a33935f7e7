"""One pass over the attention of some sequences: everything that is summed of it, each entry upcast and logged once.

Entries go through in blocks that stay in the cache, in float64. Rows are renormalised; a row that cannot be used (of
padding, empty, not finite, not a distribution) is zero everywhere and not valid. `attention_maps(batch, …)` remembers
what it found in the batch, so that every accumulator of attention shares the pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collapse_cli.kernels.attention_visibility import Visibility, VisibleKeys, visible_keys
from collapse_cli.kernels.batches import Batch

__all__ = ["LEAST_ROWS", "PREFIX", "AttentionMaps", "attention_maps", "row_tolerance"]

#: Queries that a sequence needs, so that its means say anything.
LEAST_ROWS = 8
#: Tokens of the prefix whose sinks are measured: Gu et al. 2025, section 3.
PREFIX = 64
#: How far a row may be from one: convention of this tool, or what rounding to the stored format may do to it.
_TOLERANCE = 1e-3
_ROUNDING = {torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
#: Entries of one block: 4 MiB in float64, and as much for their logarithms.
_BLOCK_ENTRIES = 1 << 19
#: Entries of the rows of one map on which pairs of heads are compared entry by entry.
_PROBE_ENTRIES = 1 << 13
#: Where the logarithm of zero is moved, below that of any float64: 0·(−1000) is exactly 0.
_LEAST_LOG = -1000.0
#: What a row keeps beside its leading tokens can be divided by above this.
_TINY = 1e-300


@final
@dataclass(frozen=True, slots=True)
class AttentionMaps:
    """What one pass gives, per sequence n and head h of maps A with rows that sum to one.

    `entropy` of every row in nats, `is_valid` whether the row counts, `visible` its number of keys. `key_mass` is
    Σ_i A_ij. `products` are ⟨A_h, A_g⟩ over the `common` rows, those that are valid in every head. `prefix_mass` is
    Σ_i A_ij over the first `PREFIX` (at most T) real tokens of a causal map, where `has_prefix`. Of a few rows of every
    map: `distances` are Σ|A_h − A_g| over `probes` rows, `smoothed` is the mean of −Σ A log(A + 10⁻⁶) where there are
    any. `empty` and `wrong` count rows without content and rows that do not sum to one.
    """

    entropy: Float[Tensor, "samples heads queries"]
    is_valid: Bool[Tensor, "samples heads queries"]
    visible: Int[Tensor, "samples queries"]
    keys: Int[Tensor, " samples"]
    key_mass: Float[Tensor, "samples heads keys"]
    products: Float[Tensor, "samples heads heads"]
    common: Bool[Tensor, "samples queries"]
    prefix_mass: Float[Tensor, "samples heads prefix"]
    has_prefix: Bool[Tensor, "samples heads"]
    distances: Float[Tensor, "samples heads heads"]
    probes: Int[Tensor, " samples"]
    smoothed: Float[Tensor, "samples heads"]
    empty: int
    wrong: int


def row_tolerance(dtype: torch.dtype) -> float:
    """How far from one a row of attention stored in that format may sum."""
    return max(_TOLERANCE, _ROUNDING.get(dtype, 0.0))


def attention_maps(batch: Batch, role: str, visibility: Visibility) -> AttentionMaps:
    """The pass over one batch, made once for all who ask."""

    def passed() -> AttentionMaps:
        mask = batch.selected("mask") if "mask" in batch.roles else None
        return _Pass(batch.selected(role), mask, visibility).maps()

    return batch._once(("attention maps", role, visibility), passed)


@final
class _Pass:
    """The sums of one pass while it goes on."""

    def __init__(self, attention: Tensor, mask: Tensor | None, visibility: Visibility) -> None:
        self.attention, self.visibility = attention, visibility
        self.seen: VisibleKeys = visible_keys(visibility, attention, mask)
        self.tolerance = row_tolerance(attention.dtype)
        samples, heads, queries, keys = attention.shape
        self.entropy = self._zeros(samples, heads, queries)
        self.is_valid = torch.zeros(samples, heads, queries, dtype=torch.bool, device=attention.device)
        self.key_mass = self._zeros(samples, heads, keys)
        self.products = self._zeros(samples, heads, heads)
        self.empty = self.wrong = 0
        # the same memory for every block: what the allocator gives anew has to be paged in
        self.rows = max(1, min(queries, _BLOCK_ENTRIES // max(1, heads * keys)))
        self.together = max(1, min(samples, _BLOCK_ENTRIES // max(1, heads * queries * keys)))
        entries = heads * keys * self.rows * self.together
        self.memory = torch.empty(2, entries, dtype=torch.float64, device=attention.device)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64, device=self.attention.device)

    def maps(self) -> AttentionMaps:
        """Everything at the end."""
        for samples, rows in self._blocks():
            self._add(samples, rows)
        prefix_mass, has_prefix = self._prefix()
        distances, probes, smoothed = self._probed()
        return AttentionMaps(
            self.entropy,
            self.is_valid,
            self.seen.counts,
            self.seen.keys.sum(1),
            self.key_mass,
            self.products,
            self.is_valid.all(1),
            prefix_mass,
            has_prefix,
            distances,
            probes,
            smoothed,
            self.empty,
            self.wrong,
        )

    def _blocks(self) -> Iterator[tuple[slice, slice]]:
        samples, _heads, queries, _keys = self.attention.shape
        if self.attention.numel() == 0:
            return
        for sample in range(0, samples, self.together):
            for row in range(0, queries, self.rows):
                yield slice(sample, min(sample + self.together, samples)), slice(row, min(row + self.rows, queries))

    def _room(self, place: int, shape: torch.Size) -> Tensor:
        return self.memory[place, : shape.numel()].view(shape)

    def _add(self, samples: slice, rows: slice) -> None:
        """One block: entropies, masses of the keys and products of the heads."""
        block, first, is_valid = self._prepared(samples, rows)
        if block.shape[3] == 0:
            return
        # clamped after the logarithm: that of a negative entry is NaN and stays it
        logs = torch.log(block, out=self._room(1, block.shape)).clamp_(min=_LEAST_LOG).mul_(block)
        entropy = -logs.sum(3)
        is_negative = entropy.isnan()
        if bool(is_negative.any()):
            block.masked_fill_(is_negative[..., None], 0.0)
            entropy.masked_fill_(is_negative, 0.0)
            is_valid &= ~is_negative
            self.wrong += int(is_negative.sum())
        self.is_valid[samples, :, rows] = is_valid
        self.entropy[samples, :, rows] = entropy
        self.key_mass[samples, :, first : first + block.shape[3]] += block.sum(2)
        is_common = is_valid.all(1, keepdim=True)
        if not bool(is_common.eq(is_valid).all()):
            block.mul_(is_common[..., None])
        flat = block.flatten(2)
        self.products[samples] += flat @ flat.mT

    def _prepared(self, samples: slice, rows: slice | Tensor) -> tuple[Tensor, int, Tensor]:
        """Rows of maps in float64 that sum to one or are zero, their first key, and which of them are valid."""
        seen = self.seen
        lower, upper = seen.lower[rows], seen.upper[rows]
        first, last = int(lower[0]), int(upper[-1])
        stored = self.attention[samples, :, rows, first:last]
        block = self._room(0, stored.shape).copy_(stored)
        if last == first:
            return block, first, torch.zeros(block.shape[:3], dtype=torch.bool, device=block.device)
        _hide(block, lower - first, upper - first)
        if seen.padded is not None:
            block.masked_fill_(seen.padded[samples, None, None, first:last], 0.0)
        total = block.sum(3)
        is_seen = (seen.counts[samples, rows] > 0)[:, None]
        is_finite = total.isfinite()
        if not bool(is_finite.all()):
            block.masked_fill_(~is_finite[..., None], 0.0)
        is_void = ~is_finite | (total == 0.0)
        is_one = (total - 1.0).abs() <= self.tolerance
        if seen.leading > first:
            block[..., : seen.leading - first] = 0.0
            total = block.sum(3)
        has_content = total > _TINY
        is_valid = is_seen & is_one & has_content
        if isinstance(rows, slice):
            self.empty += int((is_seen & (is_void | (is_one & ~has_content))).sum())
            self.wrong += int((is_seen & ~is_void & ~is_one).sum())
        block.mul_(torch.where(is_valid, total, 1.0).reciprocal_().mul_(is_valid)[..., None])
        return block, first, is_valid

    def _prefix(self) -> tuple[Tensor, Tensor]:
        """Σ_i A_ij over the leading square block of a causal map of a sequence onto itself, from its first token on."""
        attention, seen = self.attention, self.seen
        samples, heads, queries, keys = attention.shape
        side = min(PREFIX, queries)
        if not self.visibility.is_causal or queries != keys or attention.numel() == 0:
            nothing = torch.zeros(samples, heads, dtype=torch.bool, device=attention.device)
            return self._zeros(samples, heads, side), nothing
        start = seen.keys.int().argmax(1).clamp(max=queries - side)
        place = start[:, None] + torch.arange(side, device=attention.device)
        every = torch.arange(samples, device=attention.device)[:, None, None]
        # an index on both sides of a slice moves to the front: samples × queries × keys × heads
        block = attention[every, :, place[:, :, None], place[:, None, :]].to(torch.float64).permute(0, 3, 1, 2)
        block = block.masked_fill(torch.ones(side, side, dtype=torch.bool, device=block.device).triu(1), 0.0)
        is_valid = self.is_valid.gather(2, place[:, None].expand(-1, heads, -1))
        has_prefix = is_valid.all(2) & seen.keys.gather(1, place).all(1)[:, None]
        block = torch.where(has_prefix[..., None, None], block, 0.0)
        total = block.sum(3, keepdim=True)
        return (block / torch.where(total > 0.0, total, 1.0)).sum(2), has_prefix

    def _probed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of a few rows, evenly spaced: L1 distances of the heads, number of rows used, smoothed entropy."""
        samples, heads, queries, keys = self.attention.shape
        distances, smoothed = self._zeros(samples, heads, heads), self._zeros(samples, heads)
        if self.attention.numel() == 0:
            return distances, smoothed[:, 0:1].sum(1).long(), smoothed
        number = max(1, min(self.rows, _PROBE_ENTRIES // keys))
        # the last rows of equal parts: a causal map is widest there
        rows = ((torch.arange(number) + 1) * queries // number - 1).to(self.attention.device)
        together = max(1, self.rows * self.together // number)
        probes = torch.zeros(samples, dtype=torch.int64, device=self.attention.device)
        for sample in range(0, samples, together):
            chosen = slice(sample, sample + together)
            block, _first, _is_valid = self._prepared(chosen, rows)
            is_used = self.is_valid[chosen][:, :, rows].all(1) & (self.seen.counts[chosen][:, rows] > 1)
            block.mul_(is_used[:, None, :, None])
            flat, probes[chosen] = block.flatten(2), is_used.sum(1)
            distances[chosen] = torch.cdist(flat, flat, p=1.0)
            total = torch.add(block, 1e-6, out=self._room(1, block.shape)).log_().mul_(block).sum((2, 3))
            smoothed[chosen] = -total / probes[chosen].clamp(min=1)[:, None]
        return distances, probes, smoothed


def _hide(block: Tensor, lower: Tensor, upper: Tensor) -> None:
    """Zero where a row does not see, which is only in the margins: the rows of a block see nearly the same keys."""
    keys = torch.arange(block.shape[3], device=block.device)
    left, right = int(lower[-1]), int(upper[0])
    if left > 0:
        block[..., :left].masked_fill_(keys[:left] < lower.to(block.device)[:, None], 0.0)
    if right < block.shape[3]:
        block[..., right:].masked_fill_(keys[right:] >= upper.to(block.device)[:, None], 0.0)
