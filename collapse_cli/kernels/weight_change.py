"""What differs between two tensors of one shape: sums over the change, equal words, equal rows, sets of entries.

Both tensors are walked in blocks, so that no float64 copy of either exists; all sums are float64.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import final

import torch
from torch import Tensor

from collapse_cli.kernels.comparisons import Comparison
from collapse_cli.kernels.precision import rounding_step

__all__ = ["RECAST", "Change", "change", "jaccard_null", "places", "robust_scores", "rounding_null", "total"]

#: Entries of one block: it and its float64 copies stay in the second-level cache.
_BLOCK_ENTRIES = 1 << 16
#: Bins of a histogram of magnitudes: float32 words without the sign and the 16 lowest bits.
BINS, SHIFT = 1 << 15, 16
#: Share of the entries in the set of the smallest.
TINY_SHARE = 0.1
#: Relative change that recasting alone makes, in rounding steps: 1.66e-3 in bf16 (measured on Gaussian weights).
RECAST = 0.2125
#: Integer types of the words of a float of so many bytes.
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def places(shape: Sequence[int], device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of consecutive blocks of a matrix: whole rows, or parts of one where a row is longer."""
    # on a GPU the kernel launches cost more than the memory
    entries = _BLOCK_ENTRIES if device.type == "cpu" else 1 << 22
    rows, columns = shape
    height = max(1, entries // max(columns, 1))
    for start in range(0, rows, height):
        for first in range(0, columns, entries):
            yield slice(start, start + height), slice(first, first + entries)


@final
@dataclass(frozen=True, slots=True)
class Change:
    """Sums and counts over the entries of two tensors.

    `squared_*` are sums of squares, `product` the inner product of both, `absolute` the sum of ∣Δw∣. `rows` is 0 for a
    vector. `beyond_rounding` counts the entries that moved by more than half a rounding step. `tiny_*` are the sizes of
    the sets of the smallest tenth and of what they have in common, `zeros_*` those of the sets of zeros.
    """

    entries: int
    changed: int
    rows: int
    unchanged_rows: int
    squared_before: float
    squared_after: float
    product: float
    squared_change: float
    absolute: float
    beyond_rounding: int
    zeros_before: int
    zeros_after: int
    zeros_in_both: int
    tiny_before: int
    tiny_after: int
    tiny_in_both: int
    rounding: float

    @property
    def relative(self) -> float | None:
        """‖ΔW‖/‖W₀‖; 0 where nothing changed, None where all was zero and is not."""
        if self.changed == 0:
            return 0.0
        return math.sqrt(self.squared_change / self.squared_before) if self.squared_before > 0.0 else None

    @property
    def cosine(self) -> float | None:
        """Cosine between the two; None where one is all zero. Exactly 1 where nothing changed."""
        norms = math.sqrt(self.squared_before) * math.sqrt(self.squared_after)
        if norms <= 0.0:
            return None
        return 1.0 if self.changed == 0 else min(max(self.product / norms, -1.0), 1.0)

    @property
    def is_within_rounding(self) -> bool:
        """Whether recasting could have made all of it."""
        relative = self.relative
        return relative is not None and (relative <= self.rounding or self.beyond_rounding == 0)

    @property
    def uniformity(self) -> float | None:
        """Coefficient of variation of ∣Δw∣ over the changed entries; None where fewer than two changed."""
        if self.changed < 2 or self.absolute <= 0.0:
            return None
        # the largest relative error of the difference is that of float64 sums: a variation below 1e-7 is one of them
        variance = self.squared_change * self.changed / self.absolute**2 - 1.0
        return math.sqrt(variance) if variance > 1e-14 else 0.0


def rounding_null(view: Comparison) -> float:
    """Relative change that recasting to the coarser of the two effective dtypes makes."""
    return RECAST * max(weight.get(rounding_step) for weight in view.members)


def change(view: Comparison) -> Change:
    """What differs between the first and the last member, in two passes over both."""
    before, after = view.before, view.after
    pair = before.matrix, after.matrix
    device, rows = pair[0].device, pair[0].shape[0]
    half_step = rounding_null(view) / RECAST / 2.0
    sums, counts = torch.zeros(5, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    unequal = torch.zeros(rows, dtype=torch.int64, device=device)
    histograms = torch.zeros(2, BINS, dtype=torch.int64, device=device)
    for place in places(pair[0].shape, device):
        stored = pair[0][place], pair[1][place]
        differs = _differs(*stored)
        unequal[place[0]] += differs.sum(1)
        old, new = (block.to(torch.float64) for block in stored)
        delta = (new - old).abs_()
        sums += _sums(old, new, delta).cpu()
        zero = old == 0, new == 0
        beyond = delta > half_step * torch.maximum(old.abs(), new.abs())
        counts += torch.stack(
            [differs.sum(), beyond.sum(), zero[0].sum(), zero[1].sum(), (zero[0] & zero[1]).sum()]
        ).cpu()
        for row, block in enumerate(stored):
            histograms[row] += torch.bincount(magnitude_words(block) >> SHIFT, minlength=BINS)
    squared_before, squared_after, product, squared_change, absolute = sums.tolist()
    changed, beyond_rounding, zeros_before, zeros_after, zeros_in_both = counts.tolist()
    tiny_before, tiny_after, tiny_in_both = _tiny(pair, histograms.cpu())
    has_rows = before.tensor.dim() > 1
    return Change(
        entries=before.matrix.numel(),
        changed=changed,
        rows=rows if has_rows else 0,
        unchanged_rows=int((unequal == 0).sum()) if has_rows and before.matrix.numel() else 0,
        squared_before=squared_before,
        squared_after=squared_after,
        product=product,
        squared_change=squared_change,
        absolute=absolute,
        beyond_rounding=beyond_rounding,
        zeros_before=zeros_before,
        zeros_after=zeros_after,
        zeros_in_both=zeros_in_both,
        tiny_before=tiny_before,
        tiny_after=tiny_after,
        tiny_in_both=tiny_in_both,
        rounding=rounding_null(view),
    )


def _sums(old: Tensor, new: Tensor, delta: Tensor) -> Tensor:
    """‖old‖², ‖new‖², ⟨old, new⟩, ‖Δ‖² and Σ∣Δ∣."""
    old, new, delta = old.reshape(-1), new.reshape(-1), delta.reshape(-1)
    return torch.stack([old @ old, new @ new, old @ new, delta @ delta, delta.sum()])


def _differs(old: Tensor, new: Tensor) -> Tensor:
    """Which words are not the same to the bit; numbers of different types are compared as numbers."""
    if old.dtype is not new.dtype:
        return old.to(torch.float64) != new.to(torch.float64)
    words = _WORDS[old.element_size()]
    return old.view(words) != new.view(words)


def magnitude_words(block: Tensor) -> Tensor:
    """∣w∣ as the words of float32, which are in the order of the magnitudes; flat, int32."""
    return block.float().contiguous().view(torch.int32).reshape(-1) & 0x7FFFFFFF


def _tiny(pair: tuple[Tensor, Tensor], histograms: Tensor) -> tuple[int, int, int]:
    """Sizes of both sets of the smallest tenth, whole bins of 2⁻⁷, and of what they have in common."""
    if not pair[0].numel():
        return 0, 0, 0
    filled = histograms.cumsum(1)
    cuts = [int((one < TINY_SHARE * float(one[-1])).sum()) for one in filled]
    common = 0
    for place in places(pair[0].shape, pair[0].device):
        inside = [(magnitude_words(one[place]) >> SHIFT) <= cut for one, cut in zip(pair, cuts, strict=True)]
        common += int((inside[0] & inside[1]).sum())
    return int(filled[0, cuts[0]]), int(filled[1, cuts[1]]), common


def jaccard_null(first: float, second: float) -> float:
    """Expected Jaccard index of two random sets of those densities, p₁p₂/(p₁+p₂−p₁p₂); 1 where both are everything."""
    both = first * second
    union = first + second - both
    return both / union if union > 0.0 else 1.0


def total(changes: Sequence[Change]) -> Change:
    """The change of all those tensors as of one; rounding is that of the coarsest."""
    names = [name for name in Change.__slots__ if name != "rounding"]
    added = {name: sum(getattr(one, name) for one in changes) for name in names}
    return Change(**added, rounding=max((one.rounding for one in changes), default=0.0))


def robust_scores(values: Sequence[float], least_spread: float) -> list[float]:
    """(value − median)/(1.4826·MAD), the spread at least `least_spread`."""
    middle = median(values)
    spread = max(1.4826 * median(abs(value - middle) for value in values), least_spread)
    return [(value - middle) / spread for value in values]
