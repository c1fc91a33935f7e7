"""What a capture is to take, and what the names and globs of its sites mean in a model."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Final, final

from torch import nn

from collapse_cli.capture.batches import Column
from collapse_cli.capture.pooling import POOLINGS, Pooling
from collapse_cli.capture.routers import Router
from collapse_cli.errors import InputError

__all__ = ["HIDDEN", "Wanted", "at_sites", "is_hugging_face", "matches", "modules_named", "no_site", "taken_roles"]

#: What can be taken from a model; every other role comes with the batch, by `labels` and `columns`.
_TAKEN: Final = ("features", "tokens", "attention", "logits", "router_logits")
#: The site that stands for the list of hidden states of a Hugging Face model: the embeddings are number 0.
HIDDEN: Final = "hidden_states"


@final
@dataclass(frozen=True, slots=True)
class Wanted:
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
    is_causal: bool = False


def taken_roles(
    roles: Collection[str], pooling: Pooling, columns: Mapping[str, Column], max_length: int | None
) -> Wanted:
    """What is wanted of every pass, wherever.

    Raises:
        InputError: a role is none that a model gives, or there is no such pooling.
    """
    if unknown := sorted(set(roles) - set(_TAKEN)):
        raise InputError(
            f"roles should be of {', '.join(_TAKEN)}",
            got=f"{', '.join(unknown)} given",
            hint="what the batch holds is named with columns={role: key}",
        )
    if isinstance(pooling, str) and pooling not in POOLINGS:
        raise InputError(f"pooling should be {', '.join(POOLINGS)} or a function", got=f"it is {pooling!r}")
    return Wanted(frozenset(roles), pooling, columns, max_length)


def at_sites(model: nn.Module, sites: Sequence[str], wanted: Wanted) -> Wanted:
    """What is wanted, at the modules and hidden states that the sites mean.

    Raises:
        InputError: a site means none, or hidden states of a model that lists none.
    """
    patterns = [sites] if isinstance(sites, str) else sites
    own = [pattern for pattern in patterns if pattern.split(".")[0] == HIDDEN and not hasattr(model, HIDDEN)]
    if own and not is_hugging_face(model):
        raise InputError(f'site "{own[0]}" is of Hugging Face models', got=f"the model is {type(model).__name__}")
    modules = modules_named(model, [pattern for pattern in patterns if pattern not in own])
    if not (modules or own) and wanted.roles & {"features", "tokens"}:
        raise InputError("sites should name at least one module", got="it names none")
    return replace(wanted, modules=modules, hidden=tuple(own))


def modules_named(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Module]:
    """The modules that the names and globs mean, in the order of the model.

    Raises:
        InputError: one means none.
    """
    named = {name: module for name, module in model.named_modules() if name}
    chosen = set()
    for pattern in patterns:
        found = {name for name in named if matches(name, pattern)}
        if not found:
            raise no_site(pattern, named)
        chosen |= found
    return {name: module for name, module in named.items() if name in chosen}


def matches(name: str, pattern: str) -> bool:
    """Whether a name is what a glob means; `*` stops at a dot."""
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def no_site(pattern: str, names: Collection[str]) -> InputError:
    """The error of a site that is not there, with names that are like it."""
    import difflib

    close = difflib.get_close_matches(pattern, names, 3) or list(names)[:6]
    return InputError(f'site "{pattern}" names no module', hint=f"there are {', '.join(close)}")


def is_hugging_face(model: nn.Module) -> bool:
    """Whether the model can be asked to return what it has inside."""
    return hasattr(model, "config") and hasattr(model.config, "output_attentions")
