"""Trends of many short series at once: slopes, tests of monotony, change points. Series × members, float64."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["ChangePoints", "Lines", "Monotony", "adjusted", "change_points", "lines", "monotony", "slope"]

#: Entries of one block of pairwise slopes: 32 MiB in float64.
_BLOCK_ENTRIES: Final = 1 << 22
#: Members of a segment on either side of a change point.
_SEGMENT: Final = 3
#: A residual below this share of the largest magnitude is rounding.
_ROUNDING: Final = 1e-12
#: Members up to which the distribution of Kendall's S is exact where no values are equal; the same as SciPy's.
_EXACT: Final = 33
#: MAD of a Gaussian is 1/1.4826 of its standard deviation.
_MAD: Final = 1.4826
#: Distances in residual scales end here: a series without residuals would be infinitely far.
_FARTHEST: Final = 1e6


@final
@dataclass(frozen=True, slots=True)
class Lines:
    """Theil–Sen lines: slope per step, intercept, and the move over the run in scales of the residuals, ≤ 10⁶."""

    slope: Float[Tensor, " series"]
    intercept: Float[Tensor, " series"]
    distance: Float[Tensor, " series"]


@final
@dataclass(frozen=True, slots=True)
class Monotony:
    """Mann–Kendall after trend-free pre-whitening: two-sided p, Z, and the serial correlation taken out (0: none)."""

    p: Float[Tensor, " series"]
    z: Float[Tensor, " series"]
    correlation: Float[Tensor, " series"]


@final
@dataclass(frozen=True, slots=True)
class ChangePoints:
    """The member that begins the second of two constant parts, and the gain of BIC over one part, nats."""

    first: Int[Tensor, " series"]
    gain: Float[Tensor, " series"]
    before: Float[Tensor, " series"]
    after: Float[Tensor, " series"]


def lines(values: Float[Tensor, "series members"], steps: Float[Tensor, " members"]) -> Lines:
    """Theil–Sen lines through all pairs of members (Theil 1950, Sen 1968); steps ascend, at least two members."""
    slope = _slopes(values, steps)
    detrended = values - slope[:, None] * steps
    intercept = _medians(detrended)
    # the residuals' own median is 0
    scale = _MAD * _medians((detrended - intercept[:, None]).abs())
    move = (slope * (steps[-1] - steps[0])).abs()
    is_flat = move <= _ROUNDING * values.abs().amax(1)
    distance = torch.where(is_flat, 0.0, (move / scale).nan_to_num(0.0, _FARTHEST).clamp_max(_FARTHEST))
    return Lines(slope, intercept, distance)


def slope(steps: Sequence[float], values: Sequence[float]) -> float:
    """The Theil–Sen slope of one series of two members or more."""
    at, series = torch.tensor(steps, dtype=torch.float64), torch.tensor([values], dtype=torch.float64)
    return float(_slopes(series, at))


def _slopes(values: Tensor, steps: Tensor) -> Float[Tensor, " series"]:
    left, right = torch.triu_indices(steps.numel(), steps.numel(), 1)
    gaps = steps[right] - steps[left]
    block = max(1, _BLOCK_ENTRIES // gaps.numel())
    return torch.cat([_medians((part[:, right] - part[:, left]) / gaps) for part in torch.split(values, block)])


def _medians(values: Float[Tensor, "rows entries"]) -> Float[Tensor, " rows"]:
    """Medians of rows; NumPy selects ten times as fast as torch sorts."""
    return torch.from_numpy(np.median(values.numpy(), axis=1))


def monotony(
    values: Float[Tensor, "series members"], steps: Float[Tensor, " members"], slope: Float[Tensor, " series"]
) -> Monotony:
    """Mann–Kendall after trend-free pre-whitening (Yue et al. 2002) with the Theil–Sen slopes; five members or more.

    The lag-one correlation is that of the detrended series, so that a trend is not taken for memory. Corrected for its
    bias, it is taken out of the series where it exceeds 1.645/√T, and the trend shrinks with the noise. p is exact up
    to 33 different values, else normal with continuity and tie correction.
    """
    count = steps.numel()
    centred = values - slope[:, None] * steps
    centred = centred - centred.mean(1, keepdim=True)
    energy = centred.square().sum(1)
    lagged = (centred[:, 1:] * centred[:, :-1]).sum(1)
    is_noise = energy > (_ROUNDING * values.abs().amax(1)).square() * count
    correlation = torch.where(is_noise, lagged / energy, 0.0)
    correlation = ((count * correlation + 2.0) / (count - 4)).clamp_max(0.99)
    is_whitened = is_noise & (correlation > 1.645 / math.sqrt(count))
    white = values[:, 1:] - correlation[:, None] * values[:, :-1]
    p, z = _mann_kendall(values)
    p_white, z_white = _mann_kendall(white)
    return Monotony(
        torch.where(is_whitened, p_white, p),
        torch.where(is_whitened, z_white, z),
        torch.where(is_whitened, correlation, 0.0),
    )


def _mann_kendall(values: Float[Tensor, "series members"]) -> tuple[Tensor, Tensor]:
    """Two-sided p and Z of Kendall's S against time (Mann 1945, Kendall 1975)."""
    count = values.shape[1]
    left, right = torch.triu_indices(count, count, 1)
    rounding = _ROUNDING * values.abs().amax(1, keepdim=True)
    score, equal = [], []
    block = max(1, _BLOCK_ENTRIES // left.numel())
    for part, least in zip(torch.split(values, block), torch.split(rounding, block), strict=True):
        rises = part[:, right] - part[:, left]
        rises = rises.where(rises.abs() > least, 0.0)
        score.append(rises.sign().sum(1))
        equal.append((rises == 0.0).any(1))
    total, is_tied = torch.cat(score), torch.cat(equal)
    variance = count * (count - 1) * (2 * count + 5) / 18.0 - _tie_correction(values, rounding)
    z = torch.where(variance > 0.0, (total - total.sign()) / variance.clamp_min(1e-300).sqrt(), 0.0)
    p = torch.special.erfc(z.abs() / math.sqrt(2.0))
    if count <= _EXACT:
        exact = torch.tensor(_exact_p(count), dtype=torch.float64)[total.abs().long()]
        p = torch.where(is_tied, p, exact)
    return p.clamp_max(1.0), z


def _tie_correction(values: Tensor, rounding: Tensor) -> Float[Tensor, " series"]:
    """Σ t(t−1)(2t+5)/18 over groups of equal values: by position in a run of equals, t(t−1)(2t+5) telescopes."""
    ordered = values.sort(1).values
    length = torch.ones(values.shape[0], dtype=torch.float64)
    total = torch.zeros(values.shape[0], dtype=torch.float64)
    for place in range(1, values.shape[1]):
        is_same = ordered[:, place] - ordered[:, place - 1] <= rounding[:, 0]
        length = torch.where(is_same, length + 1.0, 1.0)
        grown, less = length, length - 1.0
        total += torch.where(is_same, grown * (grown - 1) * (2 * grown + 5) - less * (less - 1) * (2 * less + 5), 0.0)
    return total / 18.0


@cache
def _exact_p(count: int) -> tuple[float, ...]:
    """P(∣S∣ ≥ s) of so many different values in random order, by s; Mahonian numbers (Kendall 1975)."""
    ways = [1]
    for size in range(2, count + 1):
        grown = [0] * (len(ways) + size - 1)
        for inversions, number in enumerate(ways):
            for more in range(size):
                grown[inversions + more] += number
        ways = grown
    pairs, everything = len(ways) - 1, sum(ways)
    tails, total = [0] * (pairs + 2), 0
    # S = pairs − 2·inversions; both tails are equal
    for score in range(pairs, 0, -1):
        if (pairs - score) % 2 == 0:
            total += 2 * ways[(pairs - score) // 2]
        tails[score] = total
    tails[0] = everything
    return tuple(min(1.0, tail / everything) for tail in tails[: pairs + 1])


def change_points(values: Float[Tensor, "series members"]) -> ChangePoints:
    """The split into two means of least BIC, parts of at least three members (Schwarz 1978); at least six members.

    gain = T/2·ln(RSS₁/RSS₂) − ln T: the second part costs two parameters, its mean and its place.
    """
    count = values.shape[1]
    level = values.mean(1, keepdim=True)
    scale = values.abs().amax(1, keepdim=True).clamp_min(1e-300)
    centred = (values - level) / scale
    total = centred.square().sum(1)
    sums = centred.cumsum(1)
    places = torch.arange(_SEGMENT, count - _SEGMENT + 1)
    left = sums[:, places - 1]
    between = left.square() * count / (places * (count - places))
    best = between.max(1)
    first = places[best.indices]
    floor = count * _ROUNDING**2
    least = (total - best.values).clamp_min(floor)
    gain = torch.where(total > floor, 0.5 * count * (total / least).log(), 0.0) - math.log(count)
    chosen = left.gather(1, best.indices[:, None])[:, 0]
    return ChangePoints(
        first,
        gain,
        chosen / first * scale[:, 0] + level[:, 0],
        -chosen / (count - first) * scale[:, 0] + level[:, 0],
    )


def adjusted(p: Float[Tensor, " tests"]) -> Float[Tensor, " tests"]:
    """p-values adjusted for their number to bound the share of false discoveries (Benjamini & Hochberg 1995)."""
    count = p.numel()
    order = p.argsort(descending=True, stable=True)
    scaled = p[order] * count / torch.arange(count, 0, -1, dtype=torch.float64)
    result = torch.empty_like(p)
    result[order] = scaled.cummin(0).values.clamp_max(1.0) if count else scaled
    return result
