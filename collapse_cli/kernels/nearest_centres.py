"""Decisions of the nearest class mean and of the head on the sampled rows of a hook point."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collapse_cli.kernels.class_geometry import leave_one_out_factor
from collapse_cli.kernels.neural_collapse import Classes, bias_of_head, classes, head_mismatch
from collapse_cli.kernels.views import Activations

__all__ = ["CentreDecisions", "centre_decisions", "chance_agreement", "head_decisions", "head_of_rows"]

#: Entries of one tile of distances: 8 MiB.
_TILE = 1 << 20


@final
@dataclass(frozen=True, slots=True)
class CentreDecisions:
    """Of every chosen row: its label, the label of the nearest class mean, and of the nearest without the row itself.

    `chosen` are the sampled rows it is about: uniform over the dump, of classes with enough rows.
    """

    chosen: Bool[Tensor, " sampled"]
    labels: Int[Tensor, " rows"]
    nearest: Int[Tensor, " rows"]
    left_out: Int[Tensor, " rows"]


def centre_decisions(point: Activations) -> CentreDecisions:
    """Nearest class means by Euclidean distance; the own class without the row at ‖x − m‖²·(n/(n−1))²."""
    found, sample = point.get(classes), point.read("sample")
    labels = sample.rows("labels").reshape(-1).long()
    chosen = sample.is_uniform & torch.isin(labels, found.labels)
    rows, labels = sample.rows("features")[chosen], labels[chosen]
    own = torch.searchsorted(found.labels, labels)
    nearest, left_out = torch.empty_like(own), torch.empty_like(own)
    factor = leave_one_out_factor(found.counts)
    step = max(1, _TILE // max(found.count, found.width, 1))
    for start in range(0, own.numel(), step):
        part = slice(start, start + step)
        squares = _squared_distances(rows[part], found)
        nearest[part] = squares.argmin(1)
        mine = own[part, None]
        squares.scatter_(1, mine, squares.gather(1, mine) * factor[mine])
        left_out[part] = squares.argmin(1)
    return CentreDecisions(chosen, labels, found.labels[nearest], found.labels[left_out])


def _squared_distances(rows: Tensor, found: Classes) -> Float[Tensor, "rows classes"]:
    # about the mean of the means, so that a common offset costs no digits
    centre = found.means.mean(0)
    x, means = rows.flatten(1).double() - centre, found.means - centre
    scale = x.square().sum(1, keepdim=True) + means.square().sum(1)
    return torch.addmm(scale, x, means.T, alpha=-2.0).clamp_min_(0.0)


def head_of_rows(point: Activations) -> str:
    """Whose decisions `head_decisions` are: `head_weight`, `logits`, or why there are none."""
    has_head = "head_weight" in point.arrays
    mismatch = point.get(head_mismatch) if has_head else "no head and no logits"
    if has_head and not mismatch:
        return "head_weight" if point.get(bias_of_head) is not None else "head_bias does not fit head_weight"
    return "logits" if "logits" in point.shapes else mismatch


def head_decisions(point: Activations) -> Int[Tensor, " rows"] | None:
    """The output with the largest logit for the rows of `centre_decisions`; None without head and logits."""
    chosen, sample, source = point.get(centre_decisions).chosen, point.read("sample"), point.get(head_of_rows)
    if source == "logits":
        decisions: Tensor = sample.rows("logits")[chosen].flatten(1).argmax(1)
        return decisions
    bias = point.get(bias_of_head) if source == "head_weight" else None
    if bias is None:
        return None
    rows, head = sample.rows("features")[chosen].flatten(1), point.arrays["head_weight"].cpu().double()
    step = max(1, _TILE // max(head.shape[0], head.shape[1]))
    parts = [torch.addmm(bias, part.double(), head.T).argmax(1) for part in torch.split(rows, step)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def chance_agreement(first: Int[Tensor, " rows"], second: Int[Tensor, " rows"]) -> float:
    """Σ_k P(first = k)·P(second = k): agreement of independent decisions with these frequencies (Cohen 1960)."""
    everything = torch.unique(torch.cat((first, second)))
    places = [torch.searchsorted(everything, one) for one in (first, second)]
    counts = [torch.bincount(place, minlength=everything.numel()).double() for place in places]
    return float(counts[0] @ counts[1]) / max(first.numel() * second.numel(), 1)
