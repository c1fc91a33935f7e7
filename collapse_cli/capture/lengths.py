"""Batches of various lengths brought to one: everything per token is padded to it, behind the tokens."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from collapse_cli.core.roles import OUTPUT, ROLES, join_name, split_name
from collapse_cli.errors import InputError

__all__ = ["lengthened"]

#: Axes of the roles that are as long as the sequence.
_ALONG = frozenset({"tokens", "queries", "keys"})


def lengthened(arrays: Mapping[str, Tensor], length: int) -> dict[str, Tensor]:
    """The arrays with every axis of tokens `length` long, zeros behind, and the mask that says which are real.

    Attention from one sequence to another has two lengths and stays as it is.

    Raises:
        InputError: a sequence is longer.
    """
    found: dict[str, Tensor] = {}
    mask = arrays.get(join_name(OUTPUT, "mask"))
    for name, tensor in arrays.items():
        axes = ROLES[split_name(name)[1]].axes(tensor.shape) or ()
        along = [axis for axis, called in enumerate(axes) if called in _ALONG]
        sides = {tensor.shape[axis] for axis in along}
        if len(sides) != 1:
            found[name] = tensor
            continue
        (side,) = sides
        if side > length:
            raise InputError(
                f'array "{name}" should have at most max_length tokens, {length:,}',
                got=f"it has {side:,}",
                hint="raise max_length, or let the tokenizer truncate: truncation=True, max_length=…",
            )
        margins = [
            margin for axis in reversed(range(tensor.dim())) for margin in (0, (length - side) * (axis in along))
        ]
        found[name] = pad(tensor, margins)
        if mask is None:
            mask = found[join_name(OUTPUT, "mask")] = torch.arange(length).expand(tensor.shape[0], length) < side
    return found
