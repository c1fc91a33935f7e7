"""A model while it is watched: in eval mode, without gradients, with hooks that are gone afterwards."""

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor, nn

from collapse_cli.capture.batches import Inputs

__all__ = ["Pass", "evaluated", "named_outputs", "origin", "tensors_in"]


@final
@dataclass(slots=True)
class Pass:
    """One forward pass: its inputs, and what the hooks have seen so far, by module, a list entry per call.

    `seen` is what is taken at each site, `maps` the attention of modules that are watched for it, `routed` the logits
    of routers and the experts they chose. `given` are tensors that modules returned, innermost first, not kept alive.
    """

    inputs: Inputs | None = None
    seen: dict[str, list[dict[str, Tensor]]] = field(default_factory=dict)
    maps: dict[str, list[Tensor]] = field(default_factory=dict)
    routed: dict[str, list[dict[str, Tensor]]] = field(default_factory=dict)
    given: "list[tuple[str, int, weakref.ref[Tensor]]]" = field(default_factory=list)

    def begin(self, inputs: Inputs) -> None:
        """Forgets the last batch."""
        self.inputs = inputs
        for memory in (self.seen, self.maps, self.routed, self.given):
            memory.clear()


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, without gradients; the mode of every module is as before afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    # the fused encoder layers of torch pass by the hooks of their parts and hand on ragged tensors
    is_fused = torch.backends.mha.get_fastpath_enabled()
    try:
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fused)
        for module, mode in modes:
            # not train(mode): that would reach the children, which have modes of their own
            module.training = mode


@contextmanager
def named_outputs(modules: Mapping[str, nn.Module], current: Pass) -> Iterator[None]:
    """Hooks that remember which module returned which tensor: a model's own lists do not say whose they are."""

    def remember(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            current.given += [(name, place, weakref.ref(tensor)) for place, tensor in enumerate(tensors_in(output))]

        return hook

    handles = [module.register_forward_hook(remember(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def origin(tensor: Tensor, current: Pass) -> tuple[str, int] | None:
    """The innermost module that returned this very tensor, and which of its tensors it was; None if none did."""
    return next(((name, place) for name, place, held in current.given if held() is tensor), None)


def tensors_in(output: Any) -> list[Tensor]:
    """The tensors that a module returns, in order."""
    if isinstance(output, Tensor):
        return [output]
    entries = output.values() if isinstance(output, Mapping) else output if isinstance(output, list | tuple) else ()
    return [tensor for entry in entries for tensor in tensors_in(entry)]
