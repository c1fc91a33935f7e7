"""Consecutive rows of a dump on their way through the accumulators: finite rows, in float64, prepared once for all."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, TypeVar, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["STRUCTURED", "UNLABELLED", "Batch", "finite_rows", "row_hash"]

T = TypeVar("T")

#: Labels of rows that have none: scikit-learn's outliers and semi-supervised rows, and torch's `ignore_index`.
UNLABELLED = (-1, -100)
#: Roles whose row is a whole sequence: their accumulators look themselves at what is finite in it, and at its mask,
#: since padding may hold anything.
STRUCTURED = frozenset({"tokens", "attention", "trajectory"})
#: Fourth powers of row norms are summed and must not overflow: (2²⁴⁰)⁴ times any width is below 2¹⁰²⁴.
_LARGEST_ENTRY = 2.0**240
#: Entries of one role in one block: its float64 copy, 1 MiB, stays in the cache from one sum to the next.
_BLOCK_ENTRIES = 1 << 17
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

    def _once(self, key: Hashable, quantity: Callable[[], T]) -> T:
        if key not in self._memo:
            self._memo[key] = quantity()
        result: T = self._memo[key]
        return result

    def blocks(self) -> Iterator["Batch"]:
        """The same rows in pieces that stay in the cache: feed these, several times faster than the whole at once."""
        widest = max(tensor[0:1].numel() for tensor in self.roles.values()) if self.count else 1
        least = 1 if STRUCTURED & self.roles.keys() else _BLOCK_ROWS
        step = max(least, _BLOCK_ENTRIES // max(widest, 1))
        for first in range(0, self.count, step):
            rows = slice(first, first + step)
            indices = None if self._indices is None else self._indices[rows]
            pieces = {role: tensor[rows] for role, tensor in self.roles.items()}
            yield Batch(pieces, start=self._start + first, indices=indices)

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
            result = torch.ones(self.count, dtype=torch.bool, device=self.device)
            for role, tensor in self.roles.items():
                if role in STRUCTURED:
                    continue
                result &= finite_rows(tensor, is_logit=role.endswith("logits")).to(result.device)
            return result

        return self._once("finite", mask)

    def _is_all_finite(self) -> bool:
        return self._once("all finite", lambda: bool(self.finite().all()))

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
            chosen = self.selected(role)
            return chosen.reshape(chosen.shape[0], -1 if chosen.shape[0] else _width(chosen)).to(torch.float64)

        return self._once(("rows", role), upcast)

    def mean(self, role: str) -> Float[Tensor, " features"]:
        """The mean of the finite rows: the shift of every accumulator that begins with this batch."""
        return self._once(("mean", role), lambda: self.rows(role).mean(0))

    def shifted(self, role: str, shift: Float[Tensor, " features"]) -> Float[Tensor, "finite features"]:
        """Rows about a shift: x − c."""
        known = self._memo.get(("shifted", role))
        if known is None or not torch.equal(known[0], shift):
            known = self._memo["shifted", role] = (shift, self.rows(role) - shift)
            self._memo.pop(("scatter", role), None)
            self._memo.pop(("shifted norms", role), None)
        result: Tensor = known[1]
        return result

    def shifted_squares(self, role: str, shift: Float[Tensor, " features"]) -> Float[Tensor, " finite"]:
        """‖x − c‖²."""
        shifted = self.shifted(role, shift)
        return self._once(("shifted norms", role), lambda: _squared_norms(shifted))

    def scatter(self, role: str, shift: Float[Tensor, " features"]) -> Float[Tensor, "features features"]:
        """Σ(x − c)(x − c)ᵀ of this batch; added to, never written to, by its readers."""
        shifted = self.shifted(role, shift)
        return self._once(("scatter", role), lambda: _outer_products(shifted))

    def norms(self, role: str) -> Float[Tensor, " finite"]:
        """Lengths of the rows, ‖x‖."""

        def lengths() -> Tensor:
            result: Tensor = torch.linalg.vector_norm(self.rows(role), dim=1)
            return result

        return self._once(("norms", role), lengths)

    def unit_rows(self, role: str) -> Float[Tensor, "finite features"]:
        """x/‖x‖; a zero row stays zero and so adds nothing to a sum."""

        def units() -> Tensor:
            norms = self.norms(role)
            directions: Tensor = self.rows(role) * torch.where(norms > 0.0, norms, 1.0).reciprocal()[:, None]
            return directions

        return self._once(("units", role), units)

    def unit_gram(self, role: str) -> Float[Tensor, "features features"]:
        """Σzzᵀ of this batch."""
        units = self.unit_rows(role)
        return self._once(("unit gram", role), lambda: _outer_products(units))

    def classes(self, role: str) -> tuple[Int[Tensor, " classes"], Int[Tensor, " labelled"], Tensor | None]:
        """Sorted labels of this batch, the place among them of every labelled row, and which finite rows are labelled.

        The last is None when all are.
        """

        def grouped() -> tuple[Tensor, Tensor, Tensor | None]:
            labels = self.selected(role).reshape(-1).long()
            is_labelled = (labels != UNLABELLED[0]) & (labels != UNLABELLED[1])
            mask = None if bool(is_labelled.all()) else is_labelled
            found, place = torch.unique(labels if mask is None else labels[mask], return_inverse=True)
            return found, place, mask

        return self._once(("classes", role), grouped)

    def where(self, mask: Bool[Tensor, " samples"]) -> "Batch":
        """The batch of some of the rows."""
        chosen = Batch({role: tensor[mask] for role, tensor in self.roles.items()}, indices=self.indices[mask])
        chosen._memo["finite"] = self.finite()[mask]
        return chosen

    def halves(self, seed: int, by: str | None) -> tuple["Batch", "Batch"]:
        """Two disjoint batches by one bit of the hash of the row, or of the role that keeps rows together."""

        def split() -> tuple[Batch, Batch]:
            keys = self.indices if by is None else self.roles[by].reshape(-1)
            # another stream than the sample's, whose smallest hashes would share their bits
            bit = (row_hash(keys, seed ^ 0x5EED_F01D) & 1).bool()
            return self.where(~bit), self.where(bit)

        return self._once(("halves", seed, by), split)


def finite_rows(tensor: Tensor, *, is_logit: bool = False) -> Bool[Tensor, " samples"]:
    """Which rows have finite entries only, of magnitude below 2²⁴⁰; integers always have."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return torch.ones(tensor.shape[0], dtype=torch.bool, device=tensor.device)
    # both extremes of a row with a NaN are NaN, and no comparison with NaN holds; `aminmax` takes nine times as long
    flat = tensor.reshape(tensor.shape[0], -1)
    low, high = flat.amin(1), flat.amax(1)
    is_low_fine = (low > -_LARGEST_ENTRY) | (low == -torch.inf) if is_logit else low > -_LARGEST_ENTRY
    return is_low_fine & (high < _LARGEST_ENTRY)


def _outer_products(rows: Float[Tensor, "samples features"]) -> Float[Tensor, "features features"]:
    """Σxxᵀ; of a narrow one only the upper blocks are multiplied, three quarters of the time on one thread."""
    width = rows.shape[1]
    if not _TILE < width <= 8 * _TILE or rows.is_cuda:
        whole: Tensor = rows.T @ rows
        return whole
    result = rows.new_empty(width, width)
    for first in range(0, width, _TILE):
        after = first + _TILE
        strip = rows[:, first:after].T @ rows[:, first:]
        result[first:after, first:] = strip
        result[after:, first:after] = strip[:, _TILE:].T
    return result


def _squared_norms(rows: Float[Tensor, "samples features"]) -> Float[Tensor, " samples"]:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms.square_()


def _width(tensor: Tensor) -> int:
    return tensor[0:0].flatten(1).shape[1] if tensor.dim() > 1 else 1
