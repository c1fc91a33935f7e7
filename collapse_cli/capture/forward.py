"""`capture`: the outputs of chosen modules of a model, over a data loader, written as a dump."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor, nn

from collapse_cli.capture.batches import Column, Inputs, column, first_tensor, inputs_of
from collapse_cli.capture.pooling import POOLINGS, Pooling, pooled, pooling_name
from collapse_cli.capture.writer import DumpWriter
from collapse_cli.core.depth import layer_numbers
from collapse_cli.core.roles import OUTPUT, join_name
from collapse_cli.errors import InputError

__all__ = ["capture"]

#: What can be taken from a model; every other role comes with the batch, by `labels` and `columns`.
_TAKEN = ("features", "tokens", "attention", "logits")


@final
@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is taken from every forward pass."""

    roles: frozenset[str]
    pooling: Pooling
    columns: Mapping[str, Column]


@final
@dataclass(slots=True)
class _Pass:
    """One forward pass: its inputs, and what the hooks have seen so far, by site, a list entry per call."""

    inputs: Inputs | None = None
    seen: dict[str, list[dict[str, Tensor]]] = field(default_factory=dict)


def capture(  # noqa: PLR0913 # the choices of a capture, each by its name
    model: nn.Module,
    loader: Iterable[Any],
    *,
    sites: Sequence[str],
    out: str | os.PathLike[str],
    pooling: Pooling = "mean",
    max_samples: int | None = None,
    dtype: torch.dtype | None = None,
    labels: Column | None = None,
    roles: Collection[str] = ("features",),
    columns: Mapping[str, Column] = MappingProxyType({}),
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """The folder of a dump of what the modules at `sites` gave for each sample of `loader`.

    `sites` are names of modules or globs (`encoder.layer.*`; `*` stops at a dot). Batches are tensors, mappings of them
    (Hugging Face), or tuples that begin with either. `labels`, and every role in `columns`, say where the batch has
    them: a key, a position, or a function of it. `roles` are `features` (pooled, one row per sample), `tokens` (with
    `mask`), `attention` (where the model returns it) and `logits`. `dtype` is that of stored floating arrays.
    An `attention_mask` in the batch rules the pooling and gives `lengths`.

    The model runs without gradients in eval mode on the device it is on; hooks and modes are as before afterwards. A
    module that runs several times in a pass gives the sites `<name>#call=0`, `#call=1`, …

    Raises:
        InputError: a site names no module, a batch is none, outputs do not fit the pooling, or `out` is not empty.
    """
    wanted = _wanted(roles, pooling, {**columns, **({} if labels is None else {"labels": labels})})
    modules = _modules(model, sites, wanted)
    said = {**_metadata(model, pooling), **metadata}
    with DumpWriter(out, metadata=said, dtype=dtype) as writer, _watched(model, modules, wanted) as current:
        left = max_samples
        for batch in loader:
            if left is not None and left <= 0:
                break
            arrays = _arrays(model, batch, current, wanted)
            _check_ran(modules, current)
            writer.append({name: tensor[:left] for name, tensor in arrays.items()})
            left = None if left is None else left - len(next(iter(arrays.values())))
    return writer.path


def _wanted(roles: Collection[str], pooling: Pooling, columns: Mapping[str, Column]) -> _Wanted:
    if unknown := sorted(set(roles) - set(_TAKEN)):
        raise InputError(
            f"roles should be of {', '.join(_TAKEN)}",
            got=f"{', '.join(unknown)} given",
            hint="what the batch holds is named with columns={role: key}",
        )
    if isinstance(pooling, str) and pooling not in POOLINGS:
        raise InputError(f"pooling should be {', '.join(POOLINGS)} or a function", got=f"it is {pooling!r}")
    return _Wanted(frozenset(roles), pooling, columns)


def _modules(model: nn.Module, sites: Sequence[str], wanted: _Wanted) -> dict[str, nn.Module]:
    """The modules that the names and globs mean, in the order of the model."""
    named = {name: module for name, module in model.named_modules() if name}
    chosen = set()
    for pattern in [sites] if isinstance(sites, str) else sites:
        found = {name for name in named if _matches(name, pattern)}
        if not found:
            import difflib

            close = difflib.get_close_matches(pattern, named, 3) or list(named)[:6]
            raise InputError(f'site "{pattern}" names no module', hint=f"there are {', '.join(close)}")
        chosen |= found
    if not chosen and wanted.roles & {"features", "tokens"}:
        raise InputError("sites should name at least one module", got="it names none")
    return {name: module for name, module in named.items() if name in chosen}


def _matches(name: str, pattern: str) -> bool:
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _check_ran(modules: Collection[str], current: _Pass) -> None:
    if idle := [site for site in modules if site not in current.seen]:
        raise InputError(
            f'site "{idle[0]}" should run in the forward pass',
            got="it did not",
            hint="choose a module that the model uses",
        )


def _metadata(model: nn.Module, pooling: Pooling) -> dict[str, str]:
    said = {"model": type(model).__name__, "pooling": pooling_name(pooling)}
    floating = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), None)
    return said if floating is None else {**said, "training_dtype": str(floating.dtype).removeprefix("torch.")}


# --- one forward pass ------------------------------------------------------------------------------------------------


@contextmanager
def _watched(model: nn.Module, modules: Mapping[str, nn.Module], wanted: _Wanted) -> Iterator[_Pass]:
    """The model in eval mode, without gradients, with a hook at every site; all as before afterwards."""
    current = _Pass()
    modes = [(module, module.training) for module in model.modules()]
    handles = []
    try:
        for site, module in modules.items():
            handles.append(module.register_forward_hook(partial(_record, current, wanted, site)))
        model.eval()
        with torch.no_grad():
            yield current
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            # not train(mode): that would reach the children, which have modes of their own
            module.training = mode


def _record(current: _Pass, wanted: _Wanted, site: str, _module: nn.Module, _args: Any, output: Any) -> None:
    """A forward hook: what is wanted of an output, reduced at once so that nothing large is kept."""
    inputs, hidden = current.inputs, first_tensor(output)
    if inputs is None:
        return
    if hidden is None:
        raise InputError(f'site "{site}" should give a floating tensor', got=f"it gives {type(output).__name__}")
    if hidden.dim() < 2 or hidden.shape[0] != inputs.samples:
        raise InputError(
            f'site "{site}" should give {inputs.samples:,} rows, one per sample',
            got=f"its shape is {' × '.join(map(str, hidden.shape))}",
            hint="samples stand on the first axis: batch_first=True, or hook another module",
        )
    taken: dict[str, Tensor] = {}
    if "features" in wanted.roles:
        taken["features"] = pooled(hidden, inputs.mask, wanted.pooling, site=site).cpu()
    if "tokens" in wanted.roles and hidden.dim() == 3:
        taken["tokens"] = hidden.cpu()
    if "attention" in wanted.roles and (weights := _attention_beside(output)) is not None:
        taken["attention"] = weights.cpu()
    current.seen.setdefault(site, []).append(taken)


def _attention_beside(output: Any) -> Tensor | None:
    """Attention weights that a module returns beside its hidden state: samples × heads × queries × keys."""
    if not isinstance(output, tuple) or len(output) < 2 or not isinstance(output[1], Tensor):
        return None
    weights: Tensor = output[1]
    # nn.MultiheadAttention averages over heads unless told otherwise
    weights = weights[:, None] if weights.dim() == 3 else weights
    return weights if weights.dim() == 4 and weights.is_floating_point() else None


def _arrays(model: nn.Module, batch: Any, current: _Pass, wanted: _Wanted) -> dict[str, Tensor]:
    """Everything that one batch gives, by the name of its array."""
    inputs = inputs_of(batch, model, _device(model), list(wanted.columns.values()))
    current.inputs, current.seen = inputs, {}
    asked = {"output_attentions": True} if "attention" in wanted.roles and _is_hugging_face(model) else {}
    try:
        output = model(*inputs.args, **{**inputs.named, **asked})
    finally:
        current.inputs = None
    arrays: dict[str, Tensor] = {}
    for site, calls in current.seen.items():
        for number, taken in enumerate(calls):
            place = site if len(calls) == 1 else f"{site}#call={number}"
            arrays |= {join_name(place, role): tensor for role, tensor in taken.items()}
    if "attention" in wanted.roles:
        arrays |= _attention(output, list(current.seen), arrays)
    if "logits" in wanted.roles:
        arrays[join_name(OUTPUT, "logits")] = _logits(output)
    if "tokens" in wanted.roles and not any(name.endswith("/tokens") for name in arrays):
        raise InputError("no site gives tokens, samples × tokens × features")
    if inputs.mask is not None:
        arrays[join_name(OUTPUT, "lengths")] = inputs.mask.sum(1)
        if wanted.roles & {"tokens", "attention"}:
            arrays[join_name(OUTPUT, "mask")] = inputs.mask
    for role, where in wanted.columns.items():
        arrays[join_name(OUTPUT, role)] = column(batch, where, role, inputs.samples)
    return arrays


def _attention(output: Any, sites: Sequence[str], arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The attention of every layer that a Hugging Face model gives, at the site of that layer where one is watched."""
    given = getattr(output, "attentions", None)
    weights = [layer for layer in given or () if isinstance(layer, Tensor)]
    if not weights:
        if any(name.endswith("/attention") for name in arrays):
            return {}
        raise InputError(
            "the model gives no attention weights",
            hint='Hugging Face models give them with attn_implementation="eager"; other modules return them as the '
            "second entry of a tuple",
        )
    numbers = layer_numbers(f"{site}.features" for site in sites)
    found: dict[str, Tensor] = {}
    for number, layer in enumerate(weights):
        at = [site for site in sites if numbers.get(f"{site}.features") == number]
        if at or not sites:
            # of a block and its parts, the block
            found[join_name(min(at, key=len) if at else f"layer.{number}", "attention")] = layer
    return found


def _logits(output: Any) -> Tensor:
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        got = f"it gives {type(output).__name__}"
        raise InputError("the model should give logits, samples × classes", got=got, hint="leave logits out of roles")
    return logits


def _device(model: nn.Module) -> torch.device:
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def _is_hugging_face(model: nn.Module) -> bool:
    return hasattr(model, "config") and hasattr(model.config, "output_attentions")
