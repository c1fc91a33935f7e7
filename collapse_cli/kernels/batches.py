"""Consecutive rows of a dump on their way through the accumulators: finite rows, in float64, prepared once for all."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeVar, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["STRUCTURED", "UNLABELLED", "Batch", "finite_rows", "outer_products", "row_hash", "symmetric"]

T = TypeVar("T")

#: Labels of rows that have none: scikit-learn's outliers and semi-supervised rows, and torch's `ignore_index`.
UNLABELLED = (-1, -100)
#: Roles whose row is a whole sequence: their accumulators look themselves at what is finite in it, and at its mask,
#: since padding may hold anything.
STRUCTURED = frozenset({"tokens", "attention", "trajectory"})
#: Fourth powers of row norms are summed and must not overflow: (2²⁴⁰)⁴ times any width is below 2¹⁰²⁴.
_LARGEST_ENTRY = 2.0**240
#: Entries of one role in one block: its float64 copy, 2 MiB, is at hand from one sum to the next. Half of it is as fast
#: on one thread and a tenth slower on two, which then wait for one another twice as often (measured at 256 columns).
_BLOCK_ENTRIES = 1 << 18
#: Columns of a block of a narrow symmetric product; from 1024 columns on it gains nothing (measured).
_TILE = 64
#: Rows of a block at least, so that adding a product to a D × D matrix costs less than the product.
_BLOCK_ROWS = 256
#: SplitMix64: the golden-ratio increment and the two multipliers as signed words (Steele, Lea & Flood 2014, figure 16).
_GOLDEN, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def row_hash(rows: Int[Tensor, " rows"], seed: int) -> Int[Tensor, " rows"]:
    """SplitMix64(seed, row) as signed 64-bit words: the row-th output of the generator that starts at a mixed seed."""
    start = (seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & 0xFFFFFFFFFFFFFFFF
    words = rows.long() * _GOLDEN + _mixed(torch.tensor([_signed(start)], device=rows.device)) + _GOLDEN
    return _mixed(words)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _mixed(words: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    words = (words ^ _shifted_right(words, 30)) * _FIRST
    words = (words ^ _shifted_right(words, 27)) * _SECOND
    return words ^ _shifted_right(words, 31)


def _shifted_right(words: Int[Tensor, " rows"], places: int) -> Int[Tensor, " rows"]:
    """A logical shift: torch's own repeats the sign."""
    return (words >> places) & ((1 << (64 - places)) - 1)


@final
class Batch:
    """Rows of one hook point (or of several read together): one tensor per role, all with the same number of rows.

    `start` is the index of the first row in the whole dump; `indices` replaces it where rows are not consecutive.
    A row is finite when no floating role but the structured ones has a NaN or an infinity in it (−∞ is a legitimate
    logit) and every entry of magnitude below 2²⁴⁰; every accumulator sees the finite rows only, so all of them see the
    same rows. What several need is computed once. Tensors are never modified; results live on their device.
    """

    def __init__(self, roles: Mapping[str, Tensor], *, start: int = 0, indices: Tensor | None = None) -> None:
        self.roles = dict(roles)
        counts = {role: tensor.shape[0] if tensor.dim() else -1 for role, tensor in self.roles.items()}
        if len(set(counts.values())) != 1 or -1 in counts.values():
            raise ValueError(f"roles of one batch need the same number of rows, got {counts}")
        self.count = next(iter(counts.values()))
        self._start, self._indices = start, indices
        self._memo: dict[Hashable, Any] = {}
        self._whole: tuple[Batch, slice] | None = None
        self._room: dict[Hashable, Tensor] | None = None

    def _once(self, key: Hashable, quantity: Callable[[], T]) -> T:
        if key not in self._memo:
            self._memo[key] = quantity()
        result: T = self._memo[key]
        return result

    def blocks(self, room: dict[Hashable, Tensor] | None = None) -> Iterator["Batch"]:
        """The same rows in pieces that stay in the cache: feed these, several times faster than the whole at once.

        What costs the same for many rows as for few, which rows are finite and which classes there are, the pieces know
        from the whole. They take turns in the memory `room`, which the next batch may be given again: the float64
        matrices of a block hold until the next block is asked for.
        """
        room = {} if room is None else room
        widest = max(tensor[0:1].numel() for tensor in self.roles.values()) if self.count else 1
        least = 1 if STRUCTURED & self.roles.keys() else _BLOCK_ROWS
        step = max(least, _BLOCK_ENTRIES // max(widest, 1))
        for first in range(0, self.count, step):
            rows = slice(first, first + step)
            indices = None if self._indices is None else self._indices[rows]
            pieces = {role: tensor[rows] for role, tensor in self.roles.items()}
            block = Batch(pieces, start=self._start + first, indices=indices)
            block._whole, block._room = (self, rows), room
            yield block

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return next(iter(self.roles.values())).device

    @property
    def indices(self) -> Int[Tensor, " samples"]:
        """The index of every row in the whole dump."""
        if self._indices is not None:
            return self._indices
        return torch.arange(self._start, self._start + self.count, device=self.device)

    def finite(self) -> Bool[Tensor, " samples"]:
        """Which rows are finite in all floating roles that are not sequences."""

        def mask() -> Tensor:
            if self._whole is not None:
                whole, rows = self._whole
                return whole.finite()[rows]
            result = torch.ones(self.count, dtype=torch.bool, device=self.device)
            for role, tensor in self.roles.items():
                if role in STRUCTURED:
                    continue
                result &= finite_rows(tensor, is_logit=role.endswith("logits")).to(result.device)
            return result

        return self._once("finite", mask)

    def _is_all_finite(self) -> bool:
        return self._once(
            "all finite",
            lambda: (self._whole is not None and self._whole[0]._is_all_finite()) or bool(self.finite().all()),
        )

    def selected(self, role: str) -> Tensor:
        """The finite rows of a role as they are stored."""
        tensor = self.roles[role]
        return tensor if self._is_all_finite() else self._once(("selected", role), lambda: tensor[self.finite()])

    def finite_indices(self) -> Int[Tensor, " finite"]:
        """The index in the whole dump of every finite row."""
        return self.indices if self._is_all_finite() else self.indices[self.finite()]

    def rows(self, role: str) -> Float[Tensor, "finite features"]:
        """The finite rows of a role in float64, one flat row per sample."""

        def upcast() -> Tensor:
            flat = self._flat(role)
            return flat if flat.dtype is torch.float64 else self._copied(role, "rows")

        return self._once(("rows", role), upcast)

    def finite_count(self) -> int:
        """How many rows are finite."""
        return self.count if self._is_all_finite() else int(self.finite().sum())

    def _flat(self, role: str) -> Tensor:
        chosen = self.selected(role)
        return chosen.reshape(chosen.shape[0], -1 if chosen.shape[0] else _width(chosen))

    def _copied(self, role: str, purpose: str) -> Float[Tensor, "finite features"]:
        """The finite rows in float64, to be changed in place: two copies in the cache cost less than a third matrix."""
        flat = self._flat(role)
        return self._memory((purpose, role), *flat.shape).copy_(flat)

    def _memory(self, key: Hashable, rows: int, columns: int) -> Float[Tensor, "rows columns"]:
        """A float64 matrix to write to, zero at first; blocks write to the same."""
        kept = None if self._room is None else self._room.get(key)
        if kept is None or kept.shape[0] < rows or kept.shape[1] != columns or kept.device != self.device:
            # not all rows of a block need be finite, and those of the next may be
            kept = torch.zeros(max(rows, self.count), columns, dtype=torch.float64, device=self.device)
            if self._room is not None:
                self._room[key] = kept
        result: Tensor = kept[:rows]
        return result

    def mean(self, role: str) -> Float[Tensor, " features"]:
        """The mean of the finite rows: the shift of every accumulator that begins with this batch."""
        return self._once(("mean", role), lambda: self._flat(role).double().mean(0))

    def shifted(self, role: str, shift: Float[Tensor, " features"]) -> Float[Tensor, "finite features"]:
        """Rows about a shift: x − c."""
        known = self._memo.get(("shifted", role))
        if known is None or not torch.equal(known[0], shift):
            known = self._memo["shifted", role] = shift, self._copied(role, "shifted").sub_(shift)
            self._memo.pop(("scatter", role), None)
            self._memo.pop(("shifted norms", role), None)
        result: Tensor = known[1]
        return result

    def shifted_squares(self, role: str, shift: Float[Tensor, " features"]) -> Float[Tensor, " finite"]:
        """‖x − c‖²."""
        shifted = self.shifted(role, shift)
        return self._once(("shifted norms", role), lambda: _lengths(shifted).square_())

    def upper_scatter(self, role: str, shift: Float[Tensor, " features"]) -> Float[Tensor, "features features"]:
        """Σ(x − c)(x − c)ᵀ of this batch in its upper triangle; added to, never written to, by its readers."""
        shifted = self.shifted(role, shift)

        def products() -> Tensor:
            width = shifted.shape[1]
            return outer_products(shifted, self._memory(("scatter", role), width, width), keep=0.0)

        return self._once(("scatter", role), products)

    def scatter(self, role: str, shift: Float[Tensor, " features"]) -> Float[Tensor, "features features"]:
        """Σ(x − c)(x − c)ᵀ of this batch."""
        return symmetric(self.upper_scatter(role, shift))

    def norms(self, role: str) -> Float[Tensor, " finite"]:
        """Lengths of the rows, ‖x‖."""

        def lengths() -> Tensor:
            is_upcast = ("rows", role) in self._memo
            return _lengths(self.rows(role) if is_upcast else self._copied(role, "units"))

        return self._once(("norms", role), lengths)

    def unit_rows(self, role: str) -> Float[Tensor, "finite features"]:
        """x/‖x‖; a zero row stays zero and so adds nothing to a sum."""

        def units() -> Tensor:
            rows = self._copied(role, "units")
            norms = self._once(("norms", role), lambda: _lengths(rows))
            return rows.mul_(torch.where(norms > 0.0, norms, 1.0).reciprocal_()[:, None])

        return self._once(("units", role), units)

    def classes(self, role: str) -> tuple[Int[Tensor, " classes"], Int[Tensor, " labelled"], Tensor | None]:
        """Sorted labels of this batch, the place among them of every labelled row, and which finite rows are labelled.

        The last is None when all are. A block gives the labels of the whole batch, some of which its rows may lack.
        """

        def grouped() -> tuple[Tensor, Tensor, Tensor | None]:
            whole, rows = self._whole or (self, slice(None))
            found, places = whole._once(("places", role), lambda: _class_places(whole.roles[role], whole.finite()))
            own = places[rows] if self._is_all_finite() else places[rows][self.finite()]
            is_labelled = own >= 0
            return (found, own, None) if bool(is_labelled.all()) else (found, own[is_labelled], is_labelled)

        return self._once(("classes", role), grouped)

    def where(self, mask: Bool[Tensor, " samples"]) -> "Batch":
        """The batch of some of the rows."""
        chosen = Batch({role: tensor[mask] for role, tensor in self.roles.items()}, indices=self.indices[mask])
        chosen._memo["finite"] = self.finite()[mask]
        return chosen

    def halves(self, seed: int, by: str | None) -> tuple["Batch", "Batch"]:
        """Two disjoint batches by one bit of the hash of the row, or of the role that keeps rows together."""

        def split() -> tuple[Batch, Batch]:
            keys = self.indices
            if by is not None:
                groups = self.roles[by].reshape(-1).long()
                # rows of no group are no group
                keys = torch.where((groups == UNLABELLED[0]) | (groups == UNLABELLED[1]), keys, groups)
            # another stream than the sample's, whose smallest hashes would share their bits
            bit = (row_hash(keys, seed ^ 0x5EED_F01D) & 1).bool()
            return self.where(~bit), self.where(bit)

        return self._once(("halves", seed, by), split)


def _class_places(
    labels: Tensor, is_finite: Bool[Tensor, " samples"]
) -> tuple[Int[Tensor, " classes"], Int[Tensor, " samples"]]:
    """Sorted labels of the finite rows, and the place of every row among them, −1 where it has none."""
    flat = labels.reshape(-1).long()
    has_class = is_finite & (flat != UNLABELLED[0]) & (flat != UNLABELLED[1])
    found, place = torch.unique(flat[has_class], return_inverse=True)
    return found, torch.full_like(flat, -1).masked_scatter_(has_class, place)


def finite_rows(tensor: Tensor, *, is_logit: bool = False) -> Bool[Tensor, " samples"]:
    """Which rows have finite entries only, of magnitude below 2²⁴⁰; integers always have."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return torch.ones(tensor.shape[0], dtype=torch.bool, device=tensor.device)
    # a sum with a NaN or an infinity among its terms is not finite, and only float64 reaches 2²⁴⁰
    if tensor.dtype is not torch.float64 and bool(tensor.sum().isfinite()):
        return torch.ones(tensor.shape[0], dtype=torch.bool, device=tensor.device)
    # both extremes of a row with a NaN are NaN, and no comparison with NaN holds; `aminmax` takes nine times as long
    flat = tensor.reshape(tensor.shape[0], -1)
    low, high = flat.amin(1), flat.amax(1)
    is_low_fine = (low > -_LARGEST_ENTRY) | (low == -torch.inf) if is_logit else low > -_LARGEST_ENTRY
    return is_low_fine & (high < _LARGEST_ENTRY)


def outer_products(
    rows: Float[Tensor, "samples features"], total: Float[Tensor, "features features"], *, keep: float = 1.0
) -> Float[Tensor, "features features"]:
    """`total` with Σxxᵀ added to `keep` times what it was, right in its upper triangle: `symmetric` makes it whole.

    Of a narrow one only the upper blocks are multiplied, in little more than half the time.
    """
    width = rows.shape[1]
    step = _TILE if _TILE < width <= 8 * _TILE and not rows.is_cuda else max(width, 1)
    for first in range(0, width, step):
        after = first + step
        total[first:after, first:].addmm_(rows[:, first:after].T, rows[:, first:], beta=keep)
    return total


def symmetric(upper: Float[Tensor, "features features"]) -> Float[Tensor, "features features"]:
    """The symmetric matrix with this upper triangle."""
    above = upper.triu(1)
    return above + above.T + upper.diagonal().diag()


def _lengths(rows: Float[Tensor, "samples features"]) -> Float[Tensor, " samples"]:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms


def _width(tensor: Tensor) -> int:
    return tensor[0:0].flatten(1).shape[1] if tensor.dim() > 1 else 1
