"""The vectors of a batch one by one: its finite rows, or the tokens of its sequences that are real and finite."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collapse_cli.kernels.batches import STRUCTURED, Batch, finite_rows

__all__ = ["RealRows", "real_positions", "real_rows"]


class RealRows(NamedTuple):
    """Vectors as stored, the row of the dump each belongs to, and its position in that row's sequence (0 without)."""

    rows: Float[Tensor, "vectors features"]
    sample: Int[Tensor, " vectors"]
    position: Int[Tensor, " vectors"]


def real_positions(batch: Batch) -> Bool[Tensor, "samples tokens"]:
    """Which positions of `tokens` hold one: those of `mask`, all where there is no mask of that shape."""
    tokens = batch.roles["tokens"]
    mask = batch.roles.get("mask")
    if mask is None or mask.shape != tokens.shape[:2]:
        return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    found: Tensor = mask.to(tokens.device) != 0
    return found


def real_rows(batch: Batch, role: str) -> RealRows:
    """The finite rows of a role flattened; of `tokens`, the real tokens without those that are not finite."""
    return batch._once(("real rows", role), lambda: _found(batch, role))


def _found(batch: Batch, role: str) -> RealRows:
    if role not in STRUCTURED:
        rows = batch.selected(role)
        index = batch.finite_indices()
        return RealRows(rows.flatten(1) if rows.dim() > 1 else rows[:, None], index, index.new_zeros(index.shape))
    tokens = batch.roles[role]
    place, position = real_positions(batch).nonzero(as_tuple=True)
    rows, index = tokens[place, position], batch.indices[place]
    # padding is left out before: what stands in it does not matter
    is_finite = finite_rows(rows)
    if bool(is_finite.all()):
        return RealRows(rows, index, position)
    return RealRows(rows[is_finite], index[is_finite], position[is_finite])
