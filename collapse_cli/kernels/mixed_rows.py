"""Softmax on mixed-up samples, two classes in known proportion: is it as sure as the mixture is one-sided?"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.rank_correlation import spearman
from collapse_cli.kernels.softmax_rows import label_column, pieces, softmax_rows

__all__ = ["MixedRows", "mixed_rows"]


@final
@dataclass(frozen=True, slots=True)
class MixedRows:
    """Of `rows` mixed-up samples: Spearman's ρ of confidence and max(λ, 1 − λ), None where one of them is constant.

    Over the `pairs` of two different classes: the mean of p_a + p_b and of p_a/(1 − p_b) (Liu et al. 2022, the
    decoupled probability of the first class); None without any. `impossible` counts second labels that are no class.
    """

    rows: int
    correlation: float | None
    pairs: int
    mass: float | None
    decoupled: float | None
    impossible: int


def mixed_rows(
    logits: Float[Tensor, "rows classes"],
    mix: Float[Tensor, " rows"],
    *,
    first: Int[Tensor, " rows"] | None,
    second: Int[Tensor, " rows"] | None,
) -> MixedRows:
    """The rows of logits of mixed-up samples, λ the weight of the first class."""
    confidence, share, mass, decoupled = ([torch.zeros(0, dtype=torch.float64)] for _ in range(4))
    impossible = 0
    for kept in pieces(logits):
        rows = softmax_rows(logits[kept])
        confidence.append(rows.confidence)
        share.append(torch.maximum(mix[kept], 1.0 - mix[kept]).double())
        if first is None or second is None:
            continue
        a, b = (label_column(labels[kept], logits.shape[1]) for labels in (first, second))
        impossible += b.impossible
        is_pair = a.is_labelled & b.is_labelled & (a.values != b.values)
        pair = rows.probabilities[is_pair]
        # the mass of all but b, without 1 − p_b, which cancels where b is nearly certain
        others = pair.scatter(1, b.values[is_pair, None], 0.0).sum(1)
        own, other = (pair.gather(1, column.values[is_pair, None])[:, 0] for column in (a, b))
        mass.append(own + other)
        decoupled.append((own / others)[others > 0.0])
    known, split = torch.cat(mass), torch.cat(decoupled)
    return MixedRows(
        sum(part.numel() for part in confidence),
        spearman(torch.cat(confidence), torch.cat(share)),
        known.numel(),
        float(known.mean()) if known.numel() else None,
        float(split.mean()) if split.numel() else None,
        impossible,
    )
