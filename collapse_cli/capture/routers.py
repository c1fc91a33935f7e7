"""Routers of mixtures of experts: which modules they are, and their logits, one row per token."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, final

from torch import nn

from collapse_cli.capture.batches import Inputs
from collapse_cli.capture.known import inside
from collapse_cli.capture.watching import Pass, named_outputs, origin, tensors_in
from collapse_cli.errors import InputError

__all__ = ["Router", "found_routers", "routed"]

_LISTED = ("router_logits", "encoder_router_logits", "decoder_router_logits")


@final
@dataclass(frozen=True, slots=True)
class Router:
    """A module that gives a logit per expert and token; `place` says which of the tensors it returns that is."""

    module: nn.Module
    place: int | None = None


def found_routers(
    model: nn.Module, sites: Sequence[str], inputs: Inputs, call: Callable[..., Any]
) -> dict[str, Router]:
    """The routers inside the sites of a Hugging Face model, by one pass that is asked for router logits.

    They are the modules that returned the very tensors that the model then lists: a list alone leaves open which
    layers have a router.

    Raises:
        InputError: the model lists none, or no module returned them.
    """
    current = Pass(inputs=inputs)
    hint = 'name the modules that give them: routers=["layers.*.gate"]'
    if not hasattr(getattr(model, "config", None), "output_router_logits"):
        raise InputError("the model gives no router logits", hint=hint)
    modules = {name: module for name, module in model.named_modules() if name}
    with named_outputs(modules, current):
        output = call(output_router_logits=True)
        listed = [entry for key in _LISTED for entry in getattr(output, key, None) or ()]
        # a layer without a router has an entry without tensors
        logits = [held[0] for entry in listed if (held := [t for t in tensors_in(entry) if t.is_floating_point()])]
        places = [origin(tensor, current) for tensor in logits]
    found = {}
    for came in places:
        if came is None:
            raise InputError("no module returned the router logits that the model lists", hint=hint)
        if inside(came[0], sites):
            found[came[0]] = Router(modules[came[0]], came[1])
    if not found:
        raise InputError("the sites have no router", got=f"the model lists {len(logits)}", hint=hint)
    return found


@contextmanager
def routed(routers: Mapping[str, Router], current: Pass) -> Iterator[None]:
    """Hooks on the routers that take their logits, and the experts they chose where they return them."""
    handles = []
    try:
        for name, router in routers.items():
            handles.append(router.module.register_forward_hook(partial(_record, current, name, router.place)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _record(current: Pass, site: str, place: int | None, _module: nn.Module, _args: Any, output: Any) -> None:
    if current.inputs is None:
        return
    held = tensors_in(output)
    logits = held[place] if place is not None else next((one for one in held if one.is_floating_point()), None)
    if logits is None or logits.dim() < 2:
        raise InputError(
            f'router "{site}" should give logits, tokens × experts', got=f"it gives {type(output).__name__}"
        )
    rows, samples = logits.numel() // logits.shape[-1], current.inputs.samples
    mask = current.inputs.mask
    tokens = rows // samples
    if rows % samples or (mask is not None and tokens not in (1, mask.shape[1])):
        wanted = f"{samples:,} samples" if mask is None else f"{samples:,} samples of {mask.shape[1]:,} tokens"
        raise InputError(f'router "{site}" should give a row for each token of {wanted}', got=f"it gives {rows:,}")
    taken = {"router_logits": logits.reshape(samples, tokens, -1).cpu()}
    chosen = next((one for one in held if not one.is_floating_point() and one.shape[:-1] == logits.shape[:-1]), None)
    if chosen is not None and chosen.shape[-1] <= logits.shape[-1] and chosen.dtype.itemsize > 1:
        taken["expert_index"] = chosen.reshape(samples, tokens, -1).cpu()
    current.routed.setdefault(site, []).append(taken)
