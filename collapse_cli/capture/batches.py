"""What a data loader gives, taken apart: the inputs of the model, the mask of real tokens, and columns like labels."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn

from collapse_cli.errors import InputError

__all__ = ["Column", "Inputs", "column", "first_tensor", "inputs_of"]

#: Where a column of a batch is found: a key, a position, or a function of the batch.
Column = str | int | Callable[[Any], Any]


@final
@dataclass(frozen=True, slots=True)
class Inputs:
    """What the model is called with, on its device; `mask` is true where a token is real, None for inputs without."""

    args: tuple[Any, ...]
    named: Mapping[str, Any]
    mask: Tensor | None
    samples: int


def inputs_of(batch: Any, model: nn.Module, device: torch.device, columns: Sequence[Column]) -> Inputs:
    """The inputs in a batch: a tensor, a mapping of them by name, or the first entry of a tuple that holds either.

    Of a mapping the model is given the tensors that it accepts and that are no column.

    Raises:
        InputError: there is no tensor in it.
    """
    held = batch[0] if isinstance(batch, list | tuple) and len(batch) else batch
    if isinstance(held, Tensor):
        return Inputs((held.to(device),), {}, None, held.shape[0])
    if not isinstance(held, Mapping):
        raise InputError(
            "a batch should be a tensor, a mapping of tensors, or a tuple that begins with either",
            got=f"it is {type(batch).__name__}",
            hint="give a loader that yields one of these",
        )
    tensors = {name: value for name, value in held.items() if isinstance(value, Tensor)}
    mask = tensors.get("attention_mask")
    accepted = _accepted(model)
    named = {
        name: value.to(device)
        for name, value in tensors.items()
        if (accepted is None or name in accepted) and (held is not batch or name not in columns)
    }
    if not named:
        raise InputError("a batch should hold a tensor that the model accepts", got=f"it has {', '.join(held)}")
    # of two axes: decoders also take masks of pairs of tokens
    plain = mask.to(device).bool() if mask is not None and mask.dim() == 2 else None
    return Inputs((), named, plain, next(iter(named.values())).shape[0])


def _accepted(model: nn.Module) -> set[str] | None:
    """The names that the model may be called with; None if it takes any."""
    parameters = inspect.signature(model.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters}


def column(batch: Any, where: Column, role: str, samples: int) -> Tensor:
    """A column of the batch as a tensor with one row per sample.

    Raises:
        InputError: there is none, or it has another number of rows.
    """
    try:
        value = where(batch) if callable(where) else batch[where]
    except (KeyError, IndexError, TypeError) as error:
        keys = f"it has {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else f"it is {type(batch).__name__}"
        raise InputError(f"{role}: the batch should have {where!r}", got=keys) from error
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(value)
    if tensor.dim() == 0 or tensor.shape[0] != samples:
        raise InputError(f"{role} should have {samples:,} rows, as the batch", got=f"it has {tuple(tensor.shape)}")
    return tensor


def first_tensor(output: Any) -> Tensor | None:
    """The hidden state in what a module returns: itself, or the first floating tensor of a tuple or mapping."""
    if isinstance(output, Tensor):
        return output if output.is_floating_point() else None
    entries = output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else ()
    return next((found for entry in entries if (found := first_tensor(entry)) is not None), None)
