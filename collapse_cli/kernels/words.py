"""Raw words of stored floating numbers: which are no numbers, and how near the rest come to the ends of their dtype.

With the sign bit off, words of one dtype compare as integers the way the numbers do: zero, subnormal, normal, infinite,
not a number. So everything is an integer comparison at memory speed, without a copy in a wider dtype.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from collapse_cli.kernels.views import Stored

__all__ = [
    "NonFinite",
    "WordRange",
    "gaussian_below",
    "is_readable",
    "largest_finite",
    "non_finite",
    "smallest_normal",
    "smallest_subnormal",
    "word_range",
]

#: Words looked at per step: they and their magnitudes stay in the second-level cache.
_CHUNK = 1 << 18


@final
@dataclass(frozen=True, slots=True)
class _Format:
    """Words of one dtype: mask without the sign, infinity (None: has none), largest finite and smallest normal word.

    `has_negative_zero_as_nan`: 0x80 is the only NaN. `has_zero`: word 0 is the number zero.
    """

    integer: torch.dtype
    magnitude: int
    infinity: int | None
    largest: int
    normal: int
    has_negative_zero_as_nan: bool = False
    has_zero: bool = True


#: IEEE 754 (2019), OCP 8-bit floating point (2023) and OCP microscaling formats (2023); `FNUZ` as in LLVM and ONNX.
_FORMATS = {
    "float64": _Format(torch.int64, 2**63 - 1, 0x7FF << 52, (0x7FF << 52) - 1, 1 << 52),
    "float32": _Format(torch.int32, 0x7FFFFFFF, 0x7F800000, 0x7F7FFFFF, 1 << 23),
    "bfloat16": _Format(torch.int16, 0x7FFF, 0x7F80, 0x7F7F, 1 << 7),
    "float16": _Format(torch.int16, 0x7FFF, 0x7C00, 0x7BFF, 1 << 10),
    "float8_e5m2": _Format(torch.uint8, 0x7F, 0x7C, 0x7B, 1 << 2),
    "float8_e4m3fn": _Format(torch.uint8, 0x7F, None, 0x7E, 1 << 3),
    "float8_e5m2fnuz": _Format(torch.uint8, 0x7F, None, 0x7F, 1 << 2, has_negative_zero_as_nan=True),
    "float8_e4m3fnuz": _Format(torch.uint8, 0x7F, None, 0x7F, 1 << 3, has_negative_zero_as_nan=True),
    "float8_e8m0fnu": _Format(torch.uint8, 0xFF, None, 0xFE, 0, has_zero=False),
}


def _format(dtype: torch.dtype) -> _Format | None:
    return _FORMATS.get(str(dtype).removeprefix("torch."))


def is_readable(stored: Stored) -> bool:
    """Whether the words of this dtype are known; packed 4- and 6-bit formats are not."""
    return _format(stored.tensor.dtype) is not None


def _known(stored: Stored) -> _Format:
    found = _format(stored.tensor.dtype)
    if found is None:
        raise ValueError(f"{stored.site.name}: words of {stored.tensor.dtype} are not known; ask `is_readable` first")
    return found


def _number(word: int, stored: Stored) -> float:
    words = torch.tensor([word], dtype=_known(stored).integer)
    return float(words.view(stored.tensor.dtype).to(torch.float64 if words.dtype == torch.int64 else torch.float32))


def largest_finite(stored: Stored) -> float:
    """The largest finite number of the stored dtype: 65504 for fp16, 448 for e4m3."""
    return _number(_known(stored).largest, stored)


def smallest_normal(stored: Stored) -> float:
    """The smallest positive number with all digits: 6.1e-5 for fp16, 1.2e-38 for fp32 and bf16."""
    return _number(_known(stored).normal, stored)


def smallest_subnormal(stored: Stored) -> float:
    """The smallest positive number: 6e-8 for fp16, 1.4e-45 for fp32."""
    return _number(1 if _known(stored).has_zero else 0, stored)


def gaussian_below(bound: float, root_mean_square: float) -> float:
    """P(∣w∣ < bound) of a centred Gaussian of that rms; 1 if the rms is 0."""
    return math.erf(bound / (root_mean_square * math.sqrt(2.0))) if root_mean_square > 0.0 else 1.0


def _words(stored: Stored) -> Tensor:
    return stored.tensor.detach().contiguous().reshape(-1).view(_known(stored).integer)


def _chunks(stored: Stored) -> Iterator[Tensor]:
    words = _words(stored)
    # on a GPU the kernel launches cost more than the memory
    step = _CHUNK if words.device.type == "cpu" else max(_CHUNK, 1 << 25)
    for start in range(0, words.numel(), step):
        yield words[start : start + step]


def _extremes(stored: Stored) -> tuple[tuple[int, int], ...]:
    """Least and greatest magnitude word of every chunk: the screen after which only chunks with a hit are counted."""
    mask = _known(stored).magnitude
    found = []
    for chunk in _chunks(stored):
        # numbers, not tensors: a tiny tensor kept from every chunk pins the heap above what each chunk has freed
        low, high = (chunk & mask).aminmax()
        found.append((int(low), int(high)))
    return tuple(found)


# --- numbers that are none --------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class NonFinite:
    """Counts of NaN and of ±inf, rows (axis 0) with any, and where they lie.

    `first` is the index of the first one. `pattern`: "one entry", "whole rows" (a row has all or none), "one run" (they
    follow one another in memory), "scattered"; with `pattern` "everything" no entry is finite.
    """

    nan: int = 0
    positive: int = 0
    negative: int = 0
    rows: int = 0
    first: tuple[int, ...] | None = None
    pattern: Literal["", "one entry", "whole rows", "one run", "scattered", "everything"] = ""
    span: tuple[int, int] | None = None


def _non_finite_mask(words: Tensor, known: _Format) -> Tensor:
    if known.has_negative_zero_as_nan:
        return words == 0x80
    return (words & known.magnitude) > known.largest


def _is_suspect(low: int, high: int, known: _Format) -> bool:
    return low == 0 if known.has_negative_zero_as_nan else high > known.largest


def non_finite(stored: Stored) -> NonFinite:
    """Everything that is no finite number; of a mask, whose −inf is meant, rows and places leave −inf out."""
    known, extremes = _known(stored), stored.get(_extremes)
    if not any(_is_suspect(low, high, known) for low, high in extremes):
        return NonFinite()
    words = _words(stored)
    hit = _non_finite_mask(words, known)
    infinite, below = torch.zeros_like(hit), torch.zeros_like(hit)
    if known.infinity is not None:
        infinite = (words & known.magnitude) == known.infinity
        # the sign bit: negative as a signed word, from 0x80 on as an unsigned byte
        below = infinite & ((words < 0) if words.dtype != torch.uint8 else (words >= 0x80))
    infinities, negative = int(infinite.sum()), int(below.sum())
    total = int(hit.sum())
    if stored.site.role.value == "mask":
        hit = hit & ~below
    places = hit.nonzero().reshape(-1)
    found = NonFinite(total - infinities, infinities - negative, negative)
    return found if places.numel() == 0 else _located(found, hit, places, tuple(stored.tensor.shape))


def _located(found: NonFinite, hit: Tensor, places: Tensor, shape: tuple[int, ...]) -> NonFinite:
    rows = hit.reshape(shape[0] if shape else 1, -1)
    affected, whole = rows.any(1), rows.all(1)
    begin, end, count = int(places[0]), int(places[-1]), places.numel()
    pattern: Literal["one entry", "whole rows", "one run", "scattered", "everything"] = "scattered"
    if count == hit.numel():
        pattern = "everything"
    elif count == 1:
        pattern = "one entry"
    elif rows.shape[1] > 1 and torch.equal(affected, whole):
        pattern = "whole rows"
    elif end - begin + 1 == count:
        pattern = "one run"
    first, rest = [], begin
    for side in reversed(shape):
        rest, index = divmod(rest, side)
        first.append(index)
    return NonFinite(
        found.nan,
        found.positive,
        found.negative,
        int(affected.sum()),
        tuple(reversed(first)),
        pattern,
        (begin, end),
    )


# --- ends of the range ------------------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class WordRange:
    """How many finite entries lie where in the range of their dtype, the largest ∣w∣ and the root mean square."""

    finite: int
    zeros: int
    subnormal: int
    saturated: int
    largest: float
    root_mean_square: float


def word_range(stored: Stored) -> WordRange:
    """Counts at both ends of the range of the stored dtype; entries that are not finite are left out."""
    known = _known(stored)
    finite = zeros = subnormal = saturated = largest = 0
    for words, low, high in _finite_chunks(stored):
        finite += words.numel()
        largest = max(largest, high)
        if low >= known.normal and high < known.largest:
            continue
        magnitudes = words & known.magnitude
        at_zero = int((magnitudes == 0).sum()) if known.has_zero else 0
        zeros += at_zero
        subnormal += int((magnitudes < known.normal).sum()) - at_zero
        saturated += int((magnitudes == known.largest).sum())
    top = _number(largest, stored) if finite else 0.0
    return WordRange(finite, zeros, subnormal, saturated, top, _root_mean_square(stored, top, finite))


def _finite_chunks(stored: Stored) -> Iterator[tuple[Tensor, int, int]]:
    """The words of every chunk that has finite ones, with their least and greatest magnitude."""
    known = _known(stored)
    for words, (low, high) in zip(_chunks(stored), stored.get(_extremes), strict=True):
        if not _is_suspect(low, high, known):
            yield words, low, high
            continue
        rest = words[~_non_finite_mask(words, known)]
        if rest.numel():
            least, greatest = (rest & known.magnitude).aminmax()
            yield rest, int(least), int(greatest)


def _root_mean_square(stored: Stored, largest: float, finite: int) -> float:
    """Of the finite entries; float64 ones are divided by the largest first, for their squares overflow."""
    if not finite or largest == 0.0:
        return 0.0
    is_double = stored.tensor.dtype == torch.float64
    scale, norms = largest if is_double else 1.0, []
    for words, _, _ in _finite_chunks(stored):
        numbers = words.view(stored.tensor.dtype)
        wide = numbers / scale if is_double else numbers.float()
        norms.append(float(torch.linalg.vector_norm(wide, dtype=torch.float64)))
    return scale * (math.hypot(*norms) / math.sqrt(finite))
