"""How the entries of a weight are distributed: moments, tails, what four bits would leave, zeros and their pattern.

Everything is taken in blocks, so that no wider copy of a weight exists. Entries are first multiplied by a power of two
where their squares or float32 words would overflow or lose digits; all ratios are free of it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.views import Weight

__all__ = [
    "GAUSSIAN_P99",
    "MIN_LEFT_OUT",
    "Moments",
    "Pattern",
    "Tails",
    "gaussian_maximum",
    "moments",
    "pattern",
    "pattern_null",
    "rtn4_error",
    "rtn4_null",
    "share_below",
    "tails",
    "tiny_count",
    "tiny_null",
    "top_energy_null",
]

#: Entries of one block: it and its float64 copies stay in the second-level cache (measured, twice as fast as 2²⁰).
_BLOCK_ENTRIES = 1 << 16
#: Above this share of exact zeros they are left out: a density ρ alone gives an excess kurtosis of 3/ρ − 3.
MIN_LEFT_OUT = 0.01
#: Bins of the histogram: float32 words without the sign and the 16 lowest bits, seven binary digits per binade.
_BINS, _SHIFT = 1 << 15, 16
#: An entry is tiny below this share of the root mean square.
TINY = 0.1
#: 99 % of the magnitudes of Gaussian entries stay below this many standard deviations: Φ⁻¹(0.995).
GAUSSIAN_P99 = 2.5758293035489004
#: N:M patterns that hardware or training recipes know: of every P consecutive weights at least P − Q are zero.
_PATTERNS = ((1, 4), (2, 4), (4, 8))


def _pieces(weight: Weight) -> Iterator[tuple[slice, slice, Tensor]]:
    """The matrix in pieces of whole rows, or of parts of one row where a row is longer; with their rows and columns."""
    matrix = weight.matrix
    # on a GPU the kernel launches cost more than the memory
    entries = _BLOCK_ENTRIES if matrix.device.type == "cpu" else 1 << 24
    rows, columns = matrix.shape
    height, width = max(1, entries // max(columns, 1)), entries
    for start in range(0, rows, height):
        for left in range(0, columns, width):
            part = slice(start, min(start + height, rows)), slice(left, min(left + width, columns))
            yield *part, matrix[part]


def _widened(piece: Tensor) -> Tensor:
    return piece if piece.dtype == torch.float64 else piece.float()


def _row_maxima(weight: Weight) -> Float[Tensor, " out"]:
    """Largest absolute entry of every row."""
    maxima = torch.zeros(weight.matrix.shape[0], dtype=weight.tensor.dtype, device=weight.tensor.device)
    for rows, _, piece in _pieces(weight):
        maxima[rows] = torch.maximum(maxima[rows], piece.abs().amax(1))
    return maxima


def _unit(weight: Weight) -> float:
    """The power of two that the entries are multiplied by: 1 unless the largest is far from 1 or the dtype is wide."""
    largest = float(weight.get(_row_maxima).max()) if weight.tensor.numel() else 0.0
    if largest == 0.0 or (weight.tensor.dtype != torch.float64 and 1e-30 < largest < 1e30):
        return 1.0
    return 2.0 ** min(-math.frexp(largest)[1], 1000)


def _zeros_of_pieces(weight: Weight) -> tuple[int, ...]:
    """Exact zeros in each of the pieces."""
    return weight.get(_histogram_and_zeros)[1]


# --- moments ----------------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Moments:
    """Moments of the entries, in units of the weight's own power of two where that matters.

    `entries` that were counted, `zeros` all exact zeros, `are_zeros_left_out`; `largest` ∣w∣ and `root_mean_square` as
    stored; `excess_kurtosis` is None where there is no spread; `within_rows` is the same with every row divided by its
    own rms, None where zeros are left out.
    """

    entries: int
    zeros: int
    are_zeros_left_out: bool
    mean: float
    largest: float
    root_mean_square: float
    max_over_rms: float
    excess_kurtosis: float | None
    within_rows: float | None


def moments(weight: Weight) -> Moments | None:
    """Mean, spread and fourth moment in one float64 pass about a provisional mean; None if every entry is zero."""
    total = weight.tensor.numel()
    zeros = sum(weight.get(_zeros_of_pieces))
    if zeros == total:
        return None
    is_left_out = zeros > MIN_LEFT_OUT * total
    shift = _provisional_mean(weight)
    second, fourth, first, third = _power_sums(weight, shift)
    sums = [first, float(second.sum()), third, float(fourth.sum())]
    entries = total - zeros if is_left_out else total
    if is_left_out:
        sums = [value - zeros * (-shift) ** (power + 1) for power, value in enumerate(sums)]
    s1, s2, s3, s4 = (value / entries for value in sums)
    variance = max(s2 - s1 * s1, 0.0)
    central = s4 - 4 * s1 * s3 + 6 * s1**2 * s2 - 3 * s1**4
    largest = float(weight.get(_row_maxima).max()) * weight.get(_unit)
    mean, rms = shift + s1, math.sqrt(variance + (shift + s1) ** 2)
    # spread below the digits of float32 is rounding
    has_spread = math.sqrt(variance) > 1e-7 * largest
    rows = None if is_left_out or not has_spread else _kurtosis_within_rows(second, fourth, total // second.numel())
    return Moments(
        entries,
        zeros,
        is_left_out,
        mean / weight.get(_unit),
        largest / weight.get(_unit),
        rms / weight.get(_unit),
        largest / rms,
        central / variance**2 - 3.0 if has_spread else None,
        rows,
    )


def _provisional_mean(weight: Weight) -> float:
    """Mean of some 65,536 rows and columns apart: near enough to the mean that no digits are lost about it."""
    rows, columns = weight.matrix.shape
    sample = weight.matrix[:: max(1, rows // 256), :: max(1, columns // 256)]
    return float((sample.double() * weight.get(_unit)).mean())


def _power_sums(weight: Weight, shift: float) -> tuple[Tensor, Tensor, float, float]:
    """Per row Σ(w−s)² and Σ(w−s)⁴, and over all entries Σ(w−s) and Σ(w−s)³, float64."""
    count, unit = weight.matrix.shape[0], weight.get(_unit)
    second = torch.zeros(count, dtype=torch.float64, device=weight.tensor.device)
    fourth = torch.zeros_like(second)
    first, third = [], []
    for rows, _, piece in _pieces(weight):
        away = piece.to(torch.float64, copy=True, memory_format=torch.contiguous_format)
        if unit != 1.0:
            away *= unit
        away -= shift
        squares = away * away
        first.append(float(away.sum()))
        third.append(float(torch.dot(squares.reshape(-1), away.reshape(-1))))
        second[rows] += squares.sum(1)
        fourth[rows] += squares.mul_(squares).sum(1)
    return second, fourth, math.fsum(first), math.fsum(third)


def _kurtosis_within_rows(second: Tensor, fourth: Tensor, columns: int) -> float | None:
    alive = second > 1e-24 * second.max()
    if columns < 2 or not bool(alive.any()):
        return None
    return float((fourth[alive] / second[alive] / second[alive]).mean()) * columns - 3.0


# --- tails ------------------------------------------------------------------------------------------------------------


def _histogram(weight: Weight) -> Tensor:
    """Entries per bin of ∣w∣·unit as float32 words; int64 on the CPU. Bin 0 holds zeros and what is next to them."""
    return weight.get(_histogram_and_zeros)[0]


def _histogram_and_zeros(weight: Weight) -> tuple[Tensor, tuple[int, ...]]:
    counts = torch.zeros(_BINS, dtype=torch.int64, device=weight.tensor.device)
    unit, zeros = weight.get(_unit), []
    for *_, piece in _pieces(weight):
        narrow = (piece if unit == 1.0 else piece * unit).float().contiguous()
        words = (narrow.view(torch.int32).reshape(-1) & 0x7FFFFFFF) >> _SHIFT
        its = torch.bincount(words, minlength=_BINS)
        zeros.append(piece.numel() - int(piece.count_nonzero()) if int(its[0]) else 0)
        counts += its
    return counts.cpu(), tuple(zeros)


@cache
def _bin_edges() -> Tensor:
    """Lower edges of the bins, float64; the last ones, beyond the largest number, are infinite or none."""
    return (torch.arange(_BINS, dtype=torch.int32) << _SHIFT).view(torch.float32).double()


@final
@dataclass(frozen=True, slots=True)
class Tails:
    """99 % quantile of ∣w∣ in units of the largest, and the share of the energy that the largest 0.1 % hold."""

    p99_over_max: float
    top_energy: float
    top_entries: int


def tails(weight: Weight) -> Tails | None:
    """Quantile and energy by a histogram of float words, exact to one bin of 2⁻⁷; None if every entry is zero.

    Exact zeros are left out like in `moments`.
    """
    known = weight.get(moments)
    if known is None:
        return None
    counts = weight.get(_histogram).clone()
    if known.are_zeros_left_out:
        counts[0] -= known.zeros
    largest = known.largest * weight.get(_unit)
    filled = counts.nonzero()
    held = slice(int(filled[0]), int(filled[-1]) + 1)
    counts, lower = counts[held], _bin_edges()[held]
    upper = _bin_edges()[held.start + 1 : held.stop + 1].clone()
    upper[-1] = largest
    # the mean of the squares of a number spread evenly over the bin; a lone largest entry is known exactly
    squares = (lower.square() + lower * upper + upper.square()) / 3.0
    squares[-1] = largest**2 if int(counts[-1]) == 1 else squares[-1]
    from_top = counts.flip(0).cumsum(0)
    top = max(1, known.entries // 1000)
    return Tails(
        _quantile(counts, lower, upper, 0.99) / largest,
        _energy_of(counts.flip(0), from_top, squares.flip(0), top) / float((counts * squares).sum()),
        top,
    )


def _quantile(counts: Tensor, lower: Tensor, upper: Tensor, share: float) -> float:
    """Value below which that share of the entries lies, spread evenly inside its bin."""
    below = counts.cumsum(0)
    wanted = share * float(below[-1])
    place = int((below < wanted).sum())
    inside = (wanted - float(below[place] - counts[place])) / max(float(counts[place]), 1.0)
    return float(lower[place] + (upper[place] - lower[place]) * inside)


def _energy_of(counts: Tensor, cumulated: Tensor, squares: Tensor, top: int) -> float:
    """Energy of the `top` largest entries; of the last bin only as many as are wanted."""
    taken = (cumulated.clamp_max(top) - (cumulated - counts).clamp_max(top)).double()
    return float((taken * squares).sum())


@cache
def gaussian_maximum(entries: int) -> float:
    """Expected largest ∣z∣ of that many standard normal entries, b + 0.577/b with b = Φ⁻¹(1 − 1/(2·entries)).

    Gumbel's limit (Gumbel 1958); 5.0 at 10⁶.
    """
    if entries < 2:
        return math.sqrt(2.0 / math.pi)
    quantile = -NormalDist().inv_cdf(0.5 / entries)
    return quantile + 0.5772156649 / quantile


def top_energy_null() -> float:
    """Share of the energy in the largest 0.1 % of Gaussian entries, 2(zφ(z) + 1 − Φ(z)) with Φ(z) = 0.9995: .0127."""
    normal = NormalDist()
    z = normal.inv_cdf(0.9995)
    return 2.0 * (z * normal.pdf(z) + 1.0 - normal.cdf(z))


# --- four bits --------------------------------------------------------------------------------------------------------


def rtn4_error(weight: Weight) -> float:
    """‖W − Q₄(W)‖_F/‖W‖_F: rounded to the nearest of −7…7 steps of a seventh of the row's largest; 0 if all zero."""
    maxima, unit = weight.get(_row_maxima), weight.get(_unit)
    wide = (maxima.double() * unit).float() if maxima.dtype != torch.float64 else (maxima * unit).float()
    # rows that weak add nothing to either norm, and their reciprocal would overflow
    steps = 7.0 / torch.where(wide > 1e-30, wide, torch.ones_like(wide))
    lost = torch.zeros(maxima.shape[0], dtype=torch.float64, device=maxima.device)
    held = torch.zeros_like(lost)
    for rows, _, piece in _pieces(weight):
        narrow = (piece if unit == 1.0 else piece * unit).float() * steps[rows, None]
        held[rows] += torch.linalg.vector_norm(narrow, dim=1, dtype=torch.float64).square()
        narrow -= narrow.round()
        lost[rows] += torch.linalg.vector_norm(narrow, dim=1, dtype=torch.float64).square()
    scale = steps.double().reciprocal().square()
    energy = float((held * scale).sum())
    return math.sqrt(float((lost * scale).sum()) / energy) if energy > 0.0 else 0.0


def rtn4_null(columns: int) -> float:
    """The same of a Gaussian matrix: a uniform error of one step, (b + 0.577/b)/(7√12); .143 at 1024 columns.

    A row of one entry is exact.
    """
    return gaussian_maximum(columns) / (7.0 * math.sqrt(12.0)) if columns > 1 else 0.0


# --- zeros and what is next to them -----------------------------------------------------------------------------------


def tiny_count(weight: Weight) -> int:
    """#{0 < ∣w∣ < 0.1·rms}, the rms of the entries that are not zero."""
    known = weight.get(moments)
    if known is None:
        return 0
    total = weight.tensor.numel()
    counted = known.entries if known.are_zeros_left_out else total
    cut = TINY * known.root_mean_square * math.sqrt(counted / (total - known.zeros))
    # compared in float32: a float16 tensor would round the cut to its own digits
    below = torch.stack([(_widened(piece).abs() < cut).count_nonzero() for *_, piece in _pieces(weight)]).sum()
    return int(below) - known.zeros


def share_below(weight: Weight, cut: float) -> float:
    """Share of the entries with ∣w∣ below an absolute cut, zeros included, exact to one bin of the histogram."""
    edges = _bin_edges() / weight.get(_unit)
    return float(weight.get(_histogram)[edges < cut].sum()) / max(weight.tensor.numel(), 1)


def tiny_null() -> float:
    """The share of Gaussian entries below a tenth of the rms, erf(0.1/√2): .0797."""
    return math.erf(TINY / math.sqrt(2.0))


@final
@dataclass(frozen=True, slots=True)
class Pattern:
    """An N:M pattern: of `of` neighbours along the axis at most `kept` are not zero, in `share` of the groups."""

    kept: int
    of: int
    axis: Literal["input", "output"]
    share: float
    null: float


def pattern(weight: Weight) -> Pattern:
    """The N:M pattern that most groups keep to, and among equals the strictest: a 2:4 is a 4:8 too.

    A convolution is grouped along its input channels, which is what sparse kernels group.
    """
    zeros, found = sum(weight.get(_zeros_of_pieces)), []
    share = zeros / max(weight.tensor.numel(), 1)
    axes: tuple[Literal["input", "output"], ...] = ("input", "output")
    places = _zero_places(weight) if 0 < zeros <= MIN_LEFT_OUT * weight.tensor.numel() else None
    for axis in axes:
        counts: dict[int, Tensor] = {}
        if places is not None:
            counts = {size: _few_zeros_in_groups(weight, places, axis=axis, size=size) for size in (4, 8)}
        elif zeros:
            counts = {size: _zeros_in_groups(_along(weight, axis), size) for size in (4, 8)}
        for kept, size in _PATTERNS:
            held = _share_at_least(counts[size], size - kept) if zeros else 0.0
            found.append(Pattern(kept, size, axis, held, pattern_null(share, kept, size)))
    return max(found, key=lambda one: one.share)


def _along(weight: Weight, axis: Literal["input", "output"]) -> Float[Tensor, "rows grouped"]:
    """The weight as a matrix whose rows run along that axis."""
    tensor = weight.tensor
    if axis == "output":
        return weight.matrix.T
    return weight.matrix if tensor.dim() < 3 else tensor.movedim(1, -1).reshape(-1, tensor.shape[1])


def _zero_places(weight: Weight) -> tuple[Tensor, Tensor]:
    """Rows and columns of the exact zeros; only pieces that have any are searched."""
    found: list[tuple[Tensor, Tensor]] = []
    for zeros, (rows, columns, piece) in zip(weight.get(_zeros_of_pieces), _pieces(weight), strict=True):
        if zeros:
            row, column = (piece == 0).nonzero(as_tuple=True)
            found.append((row + rows.start, column + columns.start))
    return torch.cat([row for row, _ in found]), torch.cat([column for _, column in found])


def _few_zeros_in_groups(
    weight: Weight, places: tuple[Tensor, Tensor], *, axis: Literal["input", "output"], size: int
) -> Tensor:
    """The same as `_zeros_in_groups` from the places of the zeros."""
    tensor = weight.tensor
    (row, column), (rows, columns) = places, weight.matrix.shape
    if axis == "output":
        row, column, rows, columns = column, row, columns, rows
    elif tensor.dim() > 2:
        kernel = columns // max(tensor.shape[1], 1)
        row, column, rows, columns = row * kernel + column % kernel, column // kernel, rows * kernel, tensor.shape[1]
    groups = columns // size
    held = (row * groups + column // size)[column < groups * size]
    filled = torch.unique(held, return_counts=True)[1]
    counts = torch.bincount(filled, minlength=size + 1).cpu()
    counts[0] = rows * groups - filled.numel()
    return counts


def _zeros_in_groups(matrix: Tensor, size: int) -> Tensor:
    """How many groups of that many neighbours in a row hold 0, 1, …, `size` zeros; the rest of a row is left out."""
    rows, groups = matrix.shape[0], matrix.shape[1] // size
    counts = torch.zeros(size + 1, dtype=torch.int64)
    if groups == 0:
        return counts
    step = max(1, 16 * _BLOCK_ENTRIES // (groups * size))
    for start in range(0, rows, step):
        is_zero = (matrix[start : start + step, : groups * size] == 0).contiguous().view(torch.uint8)
        # four bytes as one word: the product collects their sum in the highest byte
        sums = (is_zero.view(torch.int32) * 0x01010101) >> 24
        if size == 8:
            sums = sums[:, 0::2] + sums[:, 1::2]
        counts += torch.bincount(sums.reshape(-1), minlength=size + 1).cpu()
    return counts


def _share_at_least(counts: Tensor, least: int) -> float:
    total = int(counts.sum())
    return int(counts[least:].sum()) / total if total else 0.0


def pattern_null(zero_share: float, kept: int, size: int) -> float:
    """P(Bin(size, zero_share) ≥ size − kept): the groups that random zeros fill; 2:4 at one half: .6875."""
    return sum(
        math.comb(size, zeros) * zero_share**zeros * (1.0 - zero_share) ** (size - zeros)
        for zeros in range(size - kept, size + 1)
    )
