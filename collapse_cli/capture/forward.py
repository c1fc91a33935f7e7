"""`capture`: the outputs of chosen modules of a model, over a data loader, written as a dump."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from collapse_cli.capture.attention import attention_arrays, attention_beside, eager_attention, per_head
from collapse_cli.capture.batches import Column, Inputs, column, first_tensor, inputs_of
from collapse_cli.capture.choices import (
    HIDDEN,
    Wanted,
    at_sites,
    is_hugging_face,
    matches,
    modules_named,
    no_site,
    taken_roles,
)
from collapse_cli.capture.heads import head_arrays
from collapse_cli.capture.known import inside, known_metadata
from collapse_cli.capture.lengths import lengthened
from collapse_cli.capture.pooling import Pooling, pooled, pooling_name
from collapse_cli.capture.routers import Router, found_routers, routed
from collapse_cli.capture.tokenwise import REPEATED, next_tokens, routed_tokens
from collapse_cli.capture.watching import Pass, evaluated, named_outputs
from collapse_cli.capture.writer import DumpWriter
from collapse_cli.core.roles import OUTPUT, join_name
from collapse_cli.errors import InputError

__all__ = ["capture"]


def capture(  # noqa: PLR0913 # the choices of a capture, each by its name
    model: nn.Module,
    loader: Iterable[Any],
    *,
    sites: Sequence[str],
    out: str | os.PathLike[str],
    pooling: Pooling = "mean",
    max_samples: int | None = None,
    max_length: int | None = None,
    dtype: torch.dtype | None = None,
    labels: Column | None = None,
    roles: Collection[str] = ("features",),
    routers: Sequence[str] = (),
    columns: Mapping[str, Column] = MappingProxyType({}),
    head: str | None = None,
    attach: Mapping[str, Any] = MappingProxyType({}),
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """The folder of a dump of what the modules at `sites` gave for each sample of `loader`.

    `sites` are names of modules or globs (`encoder.layer.*`; `*` stops at a dot), or `hidden_states.*` for the list of
    hidden states of a Hugging Face model, embeddings first. Batches are tensors, mappings of them (Hugging Face), or
    tuples that begin with either. `labels`, and every role in `columns`, say where the batch has them: a key, a
    position, or a function of it. `dtype` is that of stored floating arrays.
    An `attention_mask` in the batch rules the pooling and gives `lengths`.

    `roles`, one row per sample unless said otherwise:

    - `features`, pooled;
    - `tokens` with `mask`; batches of various lengths are padded to `max_length`;
    - `attention`, of Hugging Face models (computed the eager way during the capture), of `nn.MultiheadAttention` inside
      the sites, and of modules that return it as the second entry of a tuple;
    - `logits`; of a causal language model one row per token, with the next token as its label, at `next_token`;
    - `router_logits` and `expert_index`, one row per real token, at the routers inside the sites: those that a Hugging
      Face model lists, or the modules that `routers` names. `labels` and `groups` are repeated for every token.

    `head` names the linear classifier that reads the last of the sites, `attach` gives further arrays without rows.
    Metadata that the model and the first batch make certain (`causal`, `cls`, `grid`, `window`, `top_k`,
    `training_dtype`) are filled in; `metadata` goes before them.

    The model runs without gradients in eval mode on the device it is on; hooks, modes and attention are as before
    afterwards. A module that runs several times in a pass gives the sites `<name>#call=0`, `#call=1`, …

    Raises:
        InputError: a site names no module, a batch is none, outputs do not fit the pooling, or `out` is not empty.
    """
    every = {**columns, **({} if labels is None else {"labels": labels})}
    wanted = taken_roles({*roles, *(["router_logits"] * bool(routers))}, pooling, every, max_length)
    wanted = at_sites(model, sites, wanted)
    first, batches = _peeked(loader)
    with ExitStack() as prepared:
        prepared.enter_context(evaluated(model))
        if "attention" in wanted.roles:
            prepared.enter_context(eager_attention(model))
        inputs = None if first is None else inputs_of(first, model, _device(model), list(every.values()))
        wanted = replace(wanted, routers=_routers(model, wanted, routers, inputs))
        known = known_metadata(model, list(wanted.modules), inputs, list(wanted.routers))
        said = {**known, "pooling": pooling_name(pooling), **metadata}
        wanted = replace(wanted, is_causal=said.get("causal") == "true")
        current = prepared.enter_context(_watched(model, wanted))
        with DumpWriter(out, metadata=said, dtype=dtype) as writer:
            writer.attach(attach)
            done = 0
            for batch in batches:
                left = None if max_samples is None else max_samples - done
                if left is not None and left <= 0:
                    break
                appends, samples = _appends(model, batch, current, wanted, left)
                for arrays in appends:
                    writer.append(arrays)
                if head is not None and done == 0:
                    writer.attach(head_arrays(model, head, appends[0] if appends else {}))
                done += samples
    return writer.path


def _peeked(loader: Iterable[Any]) -> tuple[Any, Iterator[Any]]:
    """The first batch, None without one, and all of them."""
    batches = iter(loader)
    first = list(islice(batches, 1))
    return (first[0] if first else None), chain(first, batches)


def _routers(model: nn.Module, wanted: Wanted, patterns: Sequence[str], inputs: Inputs | None) -> dict[str, Router]:
    if "router_logits" not in wanted.roles or inputs is None:
        return {}
    if patterns:
        named = modules_named(model, [patterns] if isinstance(patterns, str) else patterns)
        return {name: Router(module) for name, module in named.items()}
    return found_routers(model, list(wanted.modules), inputs, partial(model, *inputs.args, **inputs.named))


# --- one forward pass ------------------------------------------------------------------------------------------------


def _device(model: nn.Module) -> torch.device:
    first = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


@contextmanager
def _watched(model: nn.Module, wanted: Wanted) -> Iterator[Pass]:
    """A hook at every site and router, and at what gives attention."""
    current = Pass()
    with ExitStack() as hooks:
        hooks.enter_context(routed(wanted.routers, current))
        if "attention" in wanted.roles:
            named = {name: module for name, module in model.named_modules() if name}
            within = {name: module for name, module in named.items() if inside(name, wanted.modules)}
            hooks.enter_context(per_head(within, current))
            if is_hugging_face(model):
                hooks.enter_context(named_outputs(named, current))
        if wanted.roles & {"features", "tokens", "attention"}:
            for site, module in wanted.modules.items():
                handle = module.register_forward_hook(partial(_record, current, wanted, site))
                hooks.callback(handle.remove)
        yield current


def _record(current: Pass, wanted: Wanted, site: str, module: nn.Module, _args: Any, output: Any) -> None:
    """A forward hook: what is wanted of an output, reduced at once so that nothing large is kept."""
    if current.inputs is None:
        return
    taken = _taken(first_tensor(output), wanted, site, current.inputs)
    is_beside = "attention" in wanted.roles and not isinstance(module, nn.MultiheadAttention)
    if is_beside and (weights := attention_beside(output)) is not None:
        taken["attention"] = weights.cpu()
    current.seen.setdefault(site, []).append(taken)


def _taken(hidden: Tensor | None, wanted: Wanted, site: str, inputs: Inputs) -> dict[str, Tensor]:
    if hidden is None:
        raise InputError(f'site "{site}" should give a floating tensor', got="it gives none")
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
    return taken


def _appends(
    model: nn.Module, batch: Any, current: Pass, wanted: Wanted, left: int | None
) -> tuple[list[dict[str, Tensor]], int]:
    """What one batch adds to the dump, arrays with one population of rows together, and how many samples it has."""
    inputs = inputs_of(batch, model, _device(model), list(wanted.columns.values()))
    current.begin(inputs)
    asked = {
        "output_attentions": "attention" in wanted.roles and is_hugging_face(model),
        "output_hidden_states": bool(wanted.hidden),
    }
    output = model(*inputs.args, **{**inputs.named, **{key: True for key, is_asked in asked.items() if is_asked}})
    arrays = _measured(output, current, wanted)
    by_token = list(routed_tokens(current))
    if "logits" in wanted.roles:
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        next_ones = next_tokens(logits, inputs) if wanted.is_causal else None
        by_token += [] if next_ones is None else [next_ones]
        arrays |= {} if next_ones is not None else {join_name(OUTPUT, "logits"): _logits(logits, output)}
    notes = {role: column(batch, where, role, inputs.samples) for role, where in wanted.columns.items()}
    if not arrays and (lost := sorted(set(notes) - set(REPEATED))):
        raise InputError(f"{', '.join(lost)} should go with one row per sample", got="every row captured is a token's")
    appends = [rows.rows(notes, left) for rows in by_token]
    if arrays:
        arrays |= _annotations(inputs, wanted) | {join_name(OUTPUT, role): note for role, note in notes.items()}
        arrays = arrays if wanted.max_length is None else lengthened(arrays, wanted.max_length)
        appends.insert(0, {name: tensor[:left] for name, tensor in arrays.items()})
    current.inputs = None
    return appends, inputs.samples


def _measured(output: Any, current: Pass, wanted: Wanted) -> dict[str, Tensor]:
    """What the sites gave in a pass, by the name of its array."""
    seen = {**current.seen, **_hidden_states(output, current, wanted)}
    arrays: dict[str, Tensor] = {}
    for site, calls in seen.items():
        for number, taken in enumerate(calls):
            place = site if len(calls) == 1 else f"{site}#call={number}"
            arrays |= {join_name(place, role): tensor for role, tensor in taken.items()}
    is_watched = bool(wanted.roles & {"features", "tokens", "attention"})
    watched = [*wanted.routers, *(wanted.modules if is_watched else ())]
    if idle := [site for site in watched if site not in seen and site not in current.routed]:
        raise InputError(
            f'site "{idle[0]}" should run in the forward pass',
            got="it did not",
            hint="choose a module that the model uses",
        )
    if "attention" in wanted.roles:
        arrays |= attention_arrays(output, list(wanted.modules), current, arrays)
    if "tokens" in wanted.roles and not any(name.endswith("/tokens") for name in arrays):
        raise InputError("no site gives tokens, samples × tokens × features")
    return arrays


def _hidden_states(output: Any, current: Pass, wanted: Wanted) -> dict[str, list[dict[str, Tensor]]]:
    """Those that the model lists, at the sites `hidden_states.0`, `hidden_states.1`, …."""
    if not wanted.hidden or current.inputs is None:
        return {}
    listed = getattr(output, HIDDEN, None)
    if not isinstance(listed, tuple | list):
        got = f"it gives {type(output).__name__}"
        raise InputError("the model should list its hidden states", got=got, hint="name its modules as sites")
    named = {f"{HIDDEN}.{number}": hidden for number, hidden in enumerate(listed)}
    for pattern in wanted.hidden:
        if not any(matches(name, pattern) for name in named):
            raise no_site(pattern, named)
    return {
        name: [_taken(hidden, wanted, name, current.inputs)]
        for name, hidden in named.items()
        if any(matches(name, pattern) for pattern in wanted.hidden)
    }


def _annotations(inputs: Inputs, wanted: Wanted) -> dict[str, Tensor]:
    if inputs.mask is None:
        return {}
    lengths = {join_name(OUTPUT, "lengths"): inputs.mask.sum(1)}
    is_per_token = bool(wanted.roles & {"tokens", "attention"})
    return lengths | ({join_name(OUTPUT, "mask"): inputs.mask.cpu()} if is_per_token else {})


def _logits(logits: Any, output: Any) -> Tensor:
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        got = f"it gives {type(output).__name__}" if not isinstance(logits, Tensor) else f"it gives {logits.dim()} axes"
        raise InputError(
            "the model should give logits, samples × classes",
            got=got,
            hint='leave logits out of roles, or say metadata={"causal": "true"} of a language model that is',
        )
    return logits
