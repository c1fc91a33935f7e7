"""Attention maps: asked of Hugging Face models and of `nn.MultiheadAttention`, and put at the sites they belong to."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from collapse_cli.capture.known import inside
from collapse_cli.capture.watching import Pass, origin
from collapse_cli.core.depth import layer_numbers
from collapse_cli.core.roles import join_name
from collapse_cli.errors import InputError

__all__ = ["attention_arrays", "attention_beside", "eager_attention", "per_head"]

_NEEDED = inspect.signature(nn.MultiheadAttention.forward)


@contextmanager
def eager_attention(model: nn.Module) -> Iterator[None]:
    """The Hugging Face models in it with the attention that computes its maps; the fused ones never hold them."""
    before = [(configuration, configuration._attn_implementation) for configuration in _configurations(model)]
    try:
        done: list[str] = []
        for name, module in model.named_modules():
            # of a model and its parts, the model
            if hasattr(module, "set_attn_implementation") and not (done and inside(name, done)):
                module.set_attn_implementation("eager")
                done.append(name)
                if not name:
                    break
        yield
    finally:
        for configuration, implementation in before:
            configuration._attn_implementation = implementation


def _configurations(model: nn.Module) -> list[Any]:
    """Every configuration that names an implementation, outer ones first: to set one sets those within."""
    waiting = [getattr(module, "config", None) for module in model.modules()]
    found: dict[int, Any] = {}
    while waiting:
        configuration = waiting.pop(0)
        if hasattr(configuration, "_attn_implementation") and id(configuration) not in found:
            found[id(configuration)] = configuration
            parts = [getattr(configuration, part, None) for part in getattr(configuration, "sub_configs", ())]
            waiting = [*parts, *waiting]
    return list(found.values())


@contextmanager
def per_head(modules: Mapping[str, nn.Module], current: Pass) -> Iterator[None]:
    """Hooks on every `nn.MultiheadAttention` among the modules that take its weights per head.

    Whoever called the module is given what it asked for.
    """
    asked: dict[str, tuple[bool, bool]] = {}

    def before(name: str) -> Any:
        def ask(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
            given = _NEEDED.bind(module, *args, **kwargs)
            given.apply_defaults()
            asked[name] = given.arguments["need_weights"], given.arguments["average_attn_weights"]
            every = {**given.arguments, "need_weights": True, "average_attn_weights": False}
            return (), {key: value for key, value in every.items() if key != "self"}

        return ask

    def after(name: str) -> Any:
        def take(_module: nn.Module, _args: Any, output: Any) -> Any:
            hidden, weights = output
            if current.inputs is not None and weights.dim() == 4:
                current.maps.setdefault(name, []).append(weights.cpu())
            is_needed, is_averaged = asked[name]
            if not is_needed:
                return hidden, None
            return hidden, weights.mean(-3) if is_averaged else weights

        return take

    handles = []
    try:
        for name, module in modules.items():
            if isinstance(module, nn.MultiheadAttention):
                handles.append(module.register_forward_pre_hook(before(name), with_kwargs=True))
                handles.append(module.register_forward_hook(after(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def attention_beside(output: Any) -> Tensor | None:
    """Attention weights that a module returns beside its hidden state: samples × heads × queries × keys."""
    if not isinstance(output, tuple) or len(output) < 2 or not isinstance(output[1], Tensor):
        return None
    weights: Tensor = output[1]
    # three axes: averaged over heads
    weights = weights[:, None] if weights.dim() == 3 else weights
    return weights if weights.dim() == 4 and weights.is_floating_point() else None


def attention_arrays(
    output: Any, sites: Sequence[str], current: Pass, arrays: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The attention of one pass: what the model lists of its layers, and what was taken from modules inside the sites.

    Raises:
        InputError: nothing gives any, or maps that the model lists cannot be told to be of one layer or another.
    """
    found = _listed(output, sites, current)
    for name, calls in current.maps.items():
        for number, weights in enumerate(calls):
            place = _place(name, sites) if len(calls) == 1 else f"{name}#call={number}"
            taken = join_name(place, "attention")
            # of two modules in one site (self and cross attention) each keeps its name
            is_shared = sum(_place(other, sites) == place for other in current.maps) > 1 or taken in found
            found[join_name(name, "attention") if is_shared else taken] = weights
    if not found and not any(name.endswith("/attention") for name in arrays):
        raise InputError(
            "the model gives no attention weights",
            hint='Hugging Face models give them with attn_implementation="eager"; other modules return them as the '
            "second entry of a tuple, or are nn.MultiheadAttention",
        )
    return found


def _listed(output: Any, sites: Sequence[str], current: Pass) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key, part in (("attentions", ""), ("encoder_attentions", "encoder"), ("decoder_attentions", "decoder")):
        layers = getattr(output, key, None) or ()
        within = [site for site in sites if not part or part in site.split(".")]
        if not isinstance(layers, tuple | list) or (sites and not within):
            continue
        for number, weights in enumerate(layers):
            if not isinstance(weights, Tensor) or weights.dim() != 4:
                continue
            came = origin(weights, current)
            if came is not None:
                is_wanted = inside(came[0], within) or bool(_of_layer(came[0], within))
                place = _place(came[0], within) if is_wanted else None
            else:
                place = _numbered(number, len(layers), within)
            if place is not None:
                found[join_name(place, "attention")] = weights.cpu()
    return found


def _place(name: str, sites: Sequence[str]) -> str:
    """The site of a module's map: of a block and its parts, the block; the module itself if no site is around it."""
    around = [site for site in sites if inside(name, [site])] or _of_layer(name, sites)
    return min(around, key=len) if around else name


def _of_layer(name: str, sites: Sequence[str]) -> list[str]:
    """The sites that lie in the layer of that module."""
    numbers = layer_numbers(f"{path}.features" for path in (*sites, name))
    number = numbers.get(f"{name}.features")
    return [site for site in sites if number is not None and numbers.get(f"{site}.features") == number]


def _numbered(number: int, count: int, sites: Sequence[str]) -> str | None:
    """The site of a map whose module did not return it: that of the layer of its number."""
    if not sites:
        return f"layer.{number}"
    numbers = layer_numbers(f"{site}.features" for site in sites)
    if max(numbers.values(), default=0) >= count:
        raise InputError(
            f"the model gives {count:,} attention maps, which should be those of its layers",
            got=f"a site is in layer {max(numbers.values()):,}",
            hint="name the attention modules as sites",
        )
    at = [site for site in sites if numbers.get(f"{site}.features") == number]
    return min(at, key=len) if at else None
