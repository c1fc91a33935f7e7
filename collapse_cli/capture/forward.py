"""`capture`: the outputs of chosen modules of a model, over a data loader, written as a dump."""

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import torch
from torch import Tensor, nn

from collapse_cli.capture.attention import attention_arrays, attention_beside, eager_attention, per_head
from collapse_cli.capture.batches import Column, Inputs, column, first_tensor, inputs_of
from collapse_cli.capture.heads import head_arrays
from collapse_cli.capture.known import inside, known_metadata
from collapse_cli.capture.lengths import lengthened
from collapse_cli.capture.pooling import POOLINGS, Pooling, pooled, pooling_name
from collapse_cli.capture.routers import Router, found_routers, routed
from collapse_cli.capture.tokenwise import next_token_logits, token_arrays
from collapse_cli.capture.watching import Pass, evaluated, named_outputs
from collapse_cli.capture.writer import DumpWriter
from collapse_cli.core.roles import OUTPUT, join_name
from collapse_cli.errors import InputError

__all__ = ["capture"]

#: What can be taken from a model; every other role comes with the batch, by `labels` and `columns`.
_TAKEN = ("features", "tokens", "attention", "logits", "router_logits")
#: The site that stands for the list of hidden states of a Hugging Face model: the embeddings are number 0.
_HIDDEN = "hidden_states"


@final
@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is taken from every forward pass, and the modules it is taken from.

    `hidden` are globs over the model's own list of hidden states.
    """

    roles: frozenset[str]
    pooling: Pooling
    columns: Mapping[str, Column]
    max_length: int | None = None
    modules: Mapping[str, nn.Module] = field(default_factory=dict)
    hidden: tuple[str, ...] = ()
    routers: Mapping[str, Router] = field(default_factory=dict)


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
    wanted = _chosen(model, sites, _wanted({*roles, *(["router_logits"] * bool(routers))}, pooling, every, max_length))
    first, batches = _peeked(loader)
    with ExitStack() as prepared:
        prepared.enter_context(evaluated(model))
        if "attention" in wanted.roles:
            prepared.enter_context(eager_attention(model))
        inputs = None if first is None else inputs_of(first, model, _device(model), list(every.values()))
        wanted = _with_routers(model, wanted, routers, inputs)
        known = known_metadata(model, list(wanted.modules), inputs, list(wanted.routers))
        said = {**known, "pooling": pooling_name(pooling), **metadata}
        current = prepared.enter_context(_watched(model, wanted))
        with DumpWriter(out, metadata=said, dtype=dtype) as writer:
            writer.attach(attach)
            left = max_samples
            for batch in batches:
                if left is not None and left <= 0:
                    break
                arrays = _arrays(model, batch, current, wanted)
                if left == max_samples and head is not None:
                    writer.attach(head_arrays(model, head, arrays))
                for together in _appends(batch, arrays, current, wanted, left):
                    writer.append(together)
                left = None if left is None else left - _samples(current)
    return writer.path
