"""Counts on raw words against the same counts on decoded numbers, for every word of every format."""

import math

import numpy as np
import pytest
import torch

from collapse_cli.core.site import Role
from collapse_cli.kernels import words
from tests.views import stored

NARROW = [
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
]
#: Largest finite, smallest normal and smallest subnormal number (IEEE 754, OCP OFP8 2023, LLVM for FNUZ).
ENDS = {
    torch.float64: (1.7976931348623157e308, 2.2250738585072014e-308, 5e-324),
    torch.float32: (3.4028234663852886e38, 2.0**-126, 2.0**-149),
    torch.bfloat16: (255 * 2.0**120, 2.0**-126, 2.0**-133),
    torch.float16: (65504.0, 2.0**-14, 2.0**-24),
    torch.float8_e4m3fn: (448.0, 2.0**-6, 2.0**-9),
    torch.float8_e5m2: (57344.0, 2.0**-14, 2.0**-16),
    torch.float8_e4m3fnuz: (240.0, 2.0**-7, 2.0**-10),
    torch.float8_e5m2fnuz: (57344.0, 2.0**-15, 2.0**-17),
    torch.float8_e8m0fnu: (2.0**127, 2.0**-127, 2.0**-127),
}


def every_word(dtype: torch.dtype) -> torch.Tensor:
    if torch.finfo(dtype).bits == 8:
        return torch.arange(256, dtype=torch.uint8).view(dtype)
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_every_word_is_counted_as_the_number_it_is(dtype: torch.dtype) -> None:
    tensor = every_word(dtype)
    numbers = tensor.float().double().numpy()
    found, view = words.non_finite(stored(tensor)), stored(tensor)
    assert (found.nan, found.positive, found.negative) == (
        np.isnan(numbers).sum(),
        np.isposinf(numbers).sum(),
        np.isneginf(numbers).sum(),
    )
    finite = np.abs(numbers[np.isfinite(numbers)])
    ends = words.word_range(view)
    largest, normal, _ = ENDS[dtype]
    assert (ends.finite, ends.zeros) == (finite.size, (finite == 0).sum())
    assert ends.subnormal == ((finite > 0) & (finite < normal)).sum()
    assert (ends.saturated, ends.largest) == ((finite == largest).sum(), largest)
    assert ends.root_mean_square == pytest.approx(np.sqrt(np.mean(finite**2)), rel=1e-12)


@pytest.mark.parametrize("dtype", ENDS, ids=str)
def test_ends_of_the_formats(dtype: torch.dtype) -> None:
    view = stored(torch.ones(4).to(dtype))
    measured = words.largest_finite(view), words.smallest_normal(view), words.smallest_subnormal(view)
    assert measured == ENDS[dtype]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_wide_formats_with_everything_in_them(dtype: torch.dtype) -> None:
    largest, normal, smallest = ENDS[dtype]
    special = [math.nan, -math.nan, math.inf, -math.inf, -math.inf, 0.0, -0.0, smallest, -normal / 2, normal, largest]
    tensor = torch.cat([torch.ones(100, dtype=dtype), torch.tensor(special, dtype=dtype)])
    found = words.non_finite(stored(tensor))
    assert (found.nan, found.positive, found.negative, found.rows) == (2, 1, 2, 5)
    ends = words.word_range(stored(tensor))
    assert (ends.finite, ends.zeros, ends.subnormal, ends.saturated) == (106, 2, 2, 1)
    assert ends.root_mean_square == pytest.approx(largest / math.sqrt(106), rel=1e-12)


def test_a_block_scale_of_0xff_is_nan_and_word_0_is_no_zero() -> None:
    tensor = torch.tensor([0, 1, 127, 254, 255], dtype=torch.uint8).view(torch.float8_e8m0fnu)
    assert words.non_finite(stored(tensor)).nan == 1
    ends = words.word_range(stored(tensor))
    assert (ends.finite, ends.zeros, ends.subnormal, ends.saturated) == (4, 0, 0, 1)


@pytest.mark.parametrize("place", [0, 2**18 - 1, 2**18, 2**18 + 17, 3 * 2**18 + 4])
def test_a_hit_in_any_chunk_is_found_where_it_is(place: int) -> None:
    tensor = torch.ones(3 * 2**18 + 5)
    tensor[place] = math.nan
    found = words.non_finite(stored(tensor))
    assert (found.nan, found.first, found.pattern, found.span) == (1, (place,), "one entry", (place, place))
    assert words.word_range(stored(tensor)).finite == tensor.numel() - 1


def _hit(index: object, shape: tuple[int, ...] = (6, 4, 5)) -> torch.Tensor:
    tensor = torch.ones(shape)
    tensor[index] = math.inf
    return tensor


@pytest.mark.parametrize(
    ("tensor", "pattern", "rows", "first"),
    [
        pytest.param(_hit([2, 4]), "whole rows", 2, (2, 0, 0), id="rows"),
        pytest.param(_hit((slice(1, 2), slice(1, 3))), "one run", 1, (1, 1, 0), id="run"),
        pytest.param(_hit((slice(None), 0, 0)), "scattered", 6, (0, 0, 0), id="column"),
        pytest.param(_hit(slice(None)), "everything", 6, (0, 0, 0), id="everything"),
        pytest.param(torch.tensor(math.nan), "everything", 1, (), id="scalar"),
        pytest.param(_hit(slice(3, 6), (9,)), "one run", 3, (3,), id="vector"),
    ],
)
def test_where_it_lies(tensor: torch.Tensor, pattern: str, rows: int, first: tuple[int, ...]) -> None:
    found = words.non_finite(stored(tensor))
    assert (found.pattern, found.rows, found.first) == (pattern, rows, first)


def test_minus_infinity_of_a_mask_takes_no_place() -> None:
    tensor = torch.full((4, 4), -math.inf).triu(1)
    tensor[3, 0] = math.inf
    found = words.non_finite(stored(tensor, role=Role.MASK))
    assert (found.positive, found.negative, found.rows, found.first) == (1, 6, 1, (3, 0))


def test_strided_and_empty_tensors() -> None:
    tensor = torch.ones(8, 6)
    tensor[2, 1] = math.nan
    assert words.non_finite(stored(tensor.T)).first == (1, 2)
    assert words.word_range(stored(torch.zeros(0, 4))).finite == 0
    assert words.non_finite(stored(torch.zeros(0, 4))).nan == 0


def test_gaussian_below() -> None:
    assert words.gaussian_below(1.0, 0.5) == pytest.approx(0.9544997361036416, rel=1e-12)  # two standard deviations
    assert words.gaussian_below(1.0, 0.0) == 1.0
