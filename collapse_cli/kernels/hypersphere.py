"""How evenly directions cover the unit sphere: the Gaussian pair potential and its value for uniform directions."""

import math
from dataclasses import dataclass
from functools import cache
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["MAX_ROWS", "Potential", "evenly_spaced", "pair_potential", "uniformity_ideal", "unit_rows"]

#: Rows whose pairs are all compared: 8 million pairs, which leave a standard error of the logarithm below 1e-2.
MAX_ROWS = 4096
#: Entries of one tile of the pair matrix: 8 MiB in float64.
_TILE_ENTRIES = 1 << 20


@final
@dataclass(frozen=True, slots=True)
class Potential:
    """ln of the mean of exp(−2‖z_i−z_j‖²) over pairs i ≠ j, its standard error, and how many rows were paired."""

    value: float
    error: float
    rows: int


@cache
def uniformity_ideal(width: int) -> float:
    """The potential of uniform directions in D dimensions, −4 + ln ₀F₁(;D/2;4): −3.0825 at D = 8, −4 in the limit.

    E exp(t·cos) over the sphere is ₀F₁(;D/2;t²/4), here with t = 4 (the Bessel function of directional statistics,
    Mardia & Jupp 2000). For D = 1, two points, it is −4 + ln cosh 4.
    """
    term = total = 1.0
    for k in range(200):
        term *= 4.0 / ((width / 2 + k) * (k + 1))
        total += term
        if term < 1e-17 * total:
            break
    return -4.0 + math.log(total)


def unit_rows(rows: Float[Tensor, "rows features"]) -> Float[Tensor, "rows features"]:
    """x/‖x‖ in float64, in two steps so that no square overflows; a zero row stays zero."""
    exact = rows.flatten(1).double()
    if exact.numel() == 0:
        return exact
    largest = exact.abs().amax(1, keepdim=True)
    scaled = exact / torch.where(largest > 0.0, largest, 1.0)
    norms: Tensor = torch.linalg.vector_norm(scaled, dim=1, keepdim=True)
    return scaled / torch.where(norms > 0.0, norms, 1.0)


def evenly_spaced(count: int, wanted: int) -> Tensor:
    """Places of at most `wanted` of `count` rows, evenly spaced so that sorted classes all take part."""
    if count <= wanted:
        return torch.arange(count)
    return torch.arange(wanted) * count // wanted


def pair_potential(units: Float[Tensor, "rows features"]) -> Potential | None:
    """The potential of unit rows in tiles; None below two rows.

    The standard error is that of a U-statistic by its row means, 2·sd(h_i)/√n (Hoeffding 1948), over the mean.

    References: Wang & Isola, Understanding contrastive representation learning through alignment and uniformity (2020).
    """
    count = units.shape[0]
    if count < 2:
        return None
    squares = units.square().sum(1)
    sums = torch.empty(count, dtype=torch.float64)
    step = max(1, _TILE_ENTRIES // count)
    for first in range(0, count, step):
        last = min(first + step, count)
        distances = (units[first:last] @ units.T).mul_(-2.0).add_(squares).add_(squares[first:last, None])
        sums[first:last] = distances.clamp_min_(0.0).mul_(-2.0).exp_().sum(1)
    # a row is at distance zero from itself
    means = (sums - 1.0).clamp_min_(0.0) / (count - 1)
    mean = float(means.mean())
    return Potential(min(math.log(mean), 0.0), 2.0 * float(means.std()) / math.sqrt(count) / mean, count)
