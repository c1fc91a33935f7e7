"""Sparsity of units that fire or do not: how rows and units share the firing, and what equal densities give.

N rows, F units, L0 the number of units that fire in a row, r = mean L0/F.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.unit_activity import UnitActivity

__all__ = [
    "activity_deviation",
    "density_bound",
    "density_histogram",
    "gini_null",
    "mean_active",
    "rank_frequency_exponent",
    "silent_null",
    "state_variance_ratio",
    "top_k",
]

#: A limit of 95 %: a unit of that density would have been silent with probability 0.05.
_MISSED = 0.05
#: Steeper rank-frequency laws than this put everything into one unit; where the search for the exponent ends.
_LARGEST_EXPONENT = 64.0


def mean_active(activity: UnitActivity) -> float:
    """L0, units above 0 per row."""
    return activity.active_sum / activity.count


def activity_deviation(activity: UnitActivity) -> float:
    """Standard deviation of L0 over the rows, N below the line; sums of whole numbers, hence exact."""
    squared = activity.count * activity.active_squares - activity.active_sum**2
    return math.sqrt(squared) / activity.count


def silent_null(activity: UnitActivity) -> float:
    """(1 − r)^N, the share of F units of equal density that are silent in N rows."""
    density = mean_active(activity) / activity.units
    return 0.0 if density >= 1.0 else math.exp(activity.count * math.log1p(-density))


def density_bound(rows: int) -> float:
    """−log(0.05)/N, the largest density that a silent unit can have, at 95 %; at most 1."""
    return min(1.0, -math.log(_MISSED) / rows)


def gini_null(activity: UnitActivity) -> float:
    """√((1 − r)/(πNr)), Gini coefficient that counting N rows alone gives units of equal density; at most 1."""
    density = mean_active(activity) / activity.units
    return min(1.0, math.sqrt(max(0.0, 1.0 - density) / (math.pi * activity.count * density)))


def density_histogram(activity: UnitActivity, bins: int = 64) -> dict[str, list[float]]:
    """How many units have which log10 density, from 1/N (seen once) to 1 (always); silent units are left out."""
    fired = activity.positive[activity.positive > 0].double() / activity.count
    low = min(-math.log10(activity.count), -1e-9)
    counts = torch.histc(fired.log10().clamp(low, 0.0), bins, low, 0.0)
    width = -low / bins
    return {"log10_density": [low + (k + 0.5) * width for k in range(bins)], "units": counts.tolist()}


def rank_frequency_exponent(ranking: Int[Tensor, " units"], counts: Int[Tensor, " units"]) -> float:
    """Exponent s ≥ 0 of p_r ∝ r^-s by maximum likelihood: ranks from one half of the rows, counts from the other.

    Ranks of the same counts would find a law in noise. The likelihood is stationary where the mean log rank of the
    counts is that of the law, which falls as s grows. 0 when nothing is counted. Zipf 1935.
    """
    total = int(counts.sum())
    if total == 0 or counts.numel() < 2:
        return 0.0
    order = ranking.argsort(descending=True, stable=True)
    logs = torch.arange(1, counts.numel() + 1, dtype=torch.float64).log()
    wanted = float((counts[order].double() * logs).sum()) / total
    low, high = 0.0, _LARGEST_EXPONENT
    if wanted >= _mean_log_rank(logs, low):
        return 0.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _mean_log_rank(logs, middle) > wanted else (low, middle)
    return 0.5 * (low + high)


def _mean_log_rank(logs: Float[Tensor, " units"], exponent: float) -> float:
    return float(((-exponent * logs).softmax(0) * logs).sum())


def state_variance_ratio(activity: UnitActivity) -> float | None:
    """Var(x | x > 0)/Var(x | x < 0) over all entries; None where either is missing or constant."""
    variances = []
    for place, counts in enumerate((activity.positive, activity.negative)):
        number = int(counts.sum())
        if number < 2:
            return None
        mean, square = float(activity.sums[place].sum()) / number, float(activity.squares[place].sum()) / number
        # a variance of a smaller share is rounding of the two sums
        variances.append(square - mean**2 if square - mean**2 > 1e-12 * square else 0.0)
    return variances[0] / variances[1] if min(variances) > 0.0 else None


def top_k(metadata: Mapping[str, Any]) -> int | None:
    """The number of units that fire in every row, where `top_k` of the metadata says it."""
    text = str(metadata.get("top_k", "")).strip()
    return int(text) if text.isdecimal() and int(text) > 0 else None
