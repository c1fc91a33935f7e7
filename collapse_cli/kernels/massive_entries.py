"""Entries orders of magnitude above the rest: which count as massive, where they are, and what chance gives."""

import math
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.channel_moments import ChannelMoments
from collapse_cli.kernels.top_entries import TopEntries
from collapse_cli.kernels.views import Activations

__all__ = ["GAUSSIAN_OUTLIER_SHARE", "Massive", "OutlierShare", "largest_null", "massive", "outlier_share", "top_three"]

#: An entry is massive above 100 and above 1,000 times the median magnitude (Sun et al. 2024, section 2).
_LARGER_THAN, _TIMES_MEDIAN = 100.0, 1000.0
#: Standard deviations of its own channel beyond which an entry is an outlier, and the share a Gaussian has there.
_OUTLIER_DEVIATIONS: Final = 6.0
GAUSSIAN_OUTLIER_SHARE: Final = math.erfc(_OUTLIER_DEVIATIONS / math.sqrt(2.0))
#: The median of ∣N(0, 1)∣.
_NORMAL_MEDIAN = 0.6744897501960817
#: Rows that are upcast at once.
_BLOCK_ROWS = 1024


class Massive(NamedTuple):
    """How many entries are massive, in how many channels, Σh² of them; lower bounds where not `is_exact`."""

    threshold: float
    entries: int
    channels: int
    energy: float
    is_exact: bool


class OutlierShare(NamedTuple):
    """Share of entries beyond six standard deviations of their channel, of so many entries; of all if `is_exact`."""

    share: float
    entries: int
    is_exact: bool


def largest_null(count: int) -> float:
    """Φ⁻¹(1 − 1/(2n))/Φ⁻¹(¾): the median of the largest of n Gaussian magnitudes, nearly, over their median."""
    return -float(torch.special.ndtri(torch.tensor(0.5 / count, dtype=torch.float64))) / _NORMAL_MEDIAN


def massive(top: TopEntries, median: float) -> Massive:
    """The massive entries among the top ones."""
    threshold = max(_LARGER_THAN, _TIMES_MEDIAN * median)
    is_massive = top.values.abs() > threshold
    count = int(is_massive.sum())
    return Massive(
        threshold,
        count,
        torch.unique(top.coordinates[is_massive, 2]).numel(),
        float(top.values[is_massive].square().sum()),
        count < top.kept or top.is_all,
    )


def outlier_share(point: Activations, role: str, moments: ChannelMoments) -> OutlierShare:
    """Counted on the sample of rows or tokens, against mean and deviation of all of them."""
    rows, is_exact = _sampled(point, role)
    deviation = _OUTLIER_DEVIATIONS * moments.variance.sqrt()
    mean, outside = moments.mean, 0
    for block in torch.split(rows, _BLOCK_ROWS):
        outside += int(((block.to(torch.float64) - mean).abs() > deviation).sum())
    return OutlierShare(outside / max(rows.numel(), 1), rows.numel(), is_exact)


def _sampled(point: Activations, role: str) -> tuple[Float[Tensor, "rows channels"], bool]:
    if role == "tokens":
        sample = point.read("token_sample")
        return sample.rows, sample.is_exact
    sample = point.read("sample")
    rows = sample.rows("features")[sample.is_uniform]
    return rows.flatten(1) if rows.dim() > 1 else rows[:, None], sample.is_exact


def top_three(top: TopEntries) -> list[dict[str, Any]]:
    """The three largest entries, and of each how its position and channel fare in other rows.

    `rows` counts those in which it is among the top entries, `variation` is the coefficient of variation over them: 0
    is a constant, that is a bias.
    """
    found = []
    for value, (row, position, channel) in zip(top.values[:3].tolist(), top.coordinates[:3].tolist(), strict=True):
        here = (top.coordinates[:, 1] == position) & (top.coordinates[:, 2] == channel)
        values = top.values[here]
        entry = {"value": value, "row": row, "token": position, "channel": channel, "rows": int(here.sum())}
        if values.numel() > 1 and float(values.mean()) != 0.0:
            entry["variation"] = float(values.std(correction=0) / values.mean().abs())
        found.append(entry)
    return found
