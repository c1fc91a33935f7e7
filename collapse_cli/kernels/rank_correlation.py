"""Spearman's rank correlation."""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["spearman"]


def spearman(left: Float[Tensor, " samples"], right: Float[Tensor, " samples"]) -> float | None:
    """Spearman's ρ with average ranks for ties; `None` where one side is constant or has fewer than two entries."""
    first, second = _centred_ranks(left), _centred_ranks(right)
    size = float(first.norm() * second.norm())
    if size == 0.0:
        return None
    return max(-1.0, min(1.0, float(first @ second) / size))


def _centred_ranks(values: Float[Tensor, " samples"]) -> Float[Tensor, " samples"]:
    if values.numel() == 0:
        return torch.zeros(0, dtype=torch.float64)
    _, place, counts = torch.unique(values.cpu(), return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    average = last - (counts.double() - 1.0) / 2.0
    ranks: Tensor = average[place] - (values.numel() + 1) / 2.0
    return ranks
