"""What a model, its configuration and a first batch say of a dump; what they leave open is not filled in."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from collapse_cli.capture.batches import Inputs

__all__ = ["inside", "known_metadata"]

#: Encoders of text whose tokenizers put a class token first, by `model_type`.
_TEXT: Final = frozenset(
    {"bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "albert", "mpnet", "deberta"}
    | {"deberta-v2", "modernbert"}
)
#: Encoders of images that cut them into patches once, with the tokens that lead; register tokens come on top.
_IMAGE: Final = {
    **dict.fromkeys(("vit", "vit_msn", "dinov2", "dinov2_with_registers", "dinov3_vit", "beit", "data2vec-vision"), 1),
    "clip_vision_model": 1,
    "deit": 2,
    "siglip_vision_model": 0,
    "ijepa": 0,
}
#: What configurations call the experts per token. Not `top_k`, which is an option of sampling.
_EXPERTS_PER_TOKEN: Final = ("num_experts_per_tok", "moe_topk", "moe_top_k", "moe_k", "top_k_experts")


def inside(name: str, sites: Iterable[str]) -> bool:
    """Whether a module is one of the sites or a part of one; of no sites, every module is."""
    listed = list(sites)
    return not listed or any(name == site or name.startswith(f"{site}.") for site in listed)


def known_metadata(
    model: nn.Module, sites: Sequence[str], inputs: Inputs | None, routers: Sequence[str] = ()
) -> dict[str, str]:
    """The metadata of a dump of those sites, as far as all of them agree: a dump has one value for each key.

    `inputs` are those of the first batch; a class token of texts and the grid of images are read off them.
    """
    configurations = _configurations(model, sites)

    def agreed(fact: Callable[[Any], str | None]) -> str | None:
        values = {fact(configuration) for configuration in configurations}
        return values.pop() if len(values) == 1 else None

    facts = {
        "model": type(model).__name__,
        "training_dtype": agreed(_stored_dtype) or _dtype_of_parameters(model),
        "causal": agreed(_causal_of_encoder) or _causal_of_modules(model, sites),
        "cls": agreed(lambda configuration: _leading_tokens(configuration, inputs)),
        "grid": agreed(lambda configuration: _grid(configuration, inputs)),
        "window": agreed(_window),
    }
    if routers:
        owners = _configurations(model, routers)
        chosen = {_chosen_by(model.get_submodule(name)) for name in routers} - {None}
        chosen = chosen or {_experts_per_token(configuration) for configuration in owners}
        facts["top_k"] = chosen.pop() if len(chosen) == 1 else None
    return {key: value for key, value in facts.items() if value is not None}


def _configurations(model: nn.Module, sites: Sequence[str]) -> list[Any]:
    """The configuration of the innermost module around every site that has one, each once."""
    found: dict[int, Any] = {}
    for site in sites or [""]:
        parts = site.split(".") if site else []
        for end in range(len(parts), -1, -1):
            configuration = getattr(model.get_submodule(".".join(parts[:end])), "config", None)
            if hasattr(configuration, "model_type"):
                found[id(configuration)] = configuration
                break
    return list(found.values())


def _dtype_name(dtype: Any) -> str | None:
    return str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype | str) else None


def _stored_dtype(configuration: Any) -> str | None:
    # `torch_dtype` is what it was called before `dtype`
    return _dtype_name(getattr(configuration, "dtype", None) or vars(configuration).get("torch_dtype"))


def _dtype_of_parameters(model: nn.Module) -> str | None:
    return _dtype_name(next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), None))


def _causal_of_encoder(configuration: Any) -> str | None:
    if configuration.model_type in _IMAGE:
        return "false"
    if configuration.model_type in _TEXT:
        return "true" if getattr(configuration, "is_decoder", False) else "false"
    return None


def _causal_of_modules(model: nn.Module, sites: Sequence[str]) -> str | None:
    """Of attention modules that say so, or of a class of models that is so by its name.

    A module that says it is not may still be given a causal mask, so that this is not taken for an answer.
    """
    named = {name: module.is_causal for name, module in model.named_modules() if hasattr(module, "is_causal")}
    said = {is_causal for site in sites or [""] for is_causal in _around(site, named)}
    if said == {True} or (not said and type(model).__name__.endswith("ForCausalLM")):
        return "true"
    return None


def _around(site: str, named: Mapping[str, Any]) -> set[Any]:
    """What modules say inside a site, or else inside the nearest module around it that has any."""
    parts = site.split(".")
    for end in range(len(parts), -1, -1):
        scope = ".".join(parts[:end])
        if found := {said for name, said in named.items() if inside(name, [scope] if scope else [])}:
            return found
    return set()


def _leading_tokens(configuration: Any, inputs: Inputs | None) -> str | None:
    if configuration.model_type in _IMAGE:
        registers = getattr(configuration, "num_register_tokens", 0)
        count = _IMAGE[configuration.model_type] + (registers if isinstance(registers, int) else 0)
        return {0: "false", 1: "true"}.get(count, str(count))
    ids = None if inputs is None else inputs.named.get("input_ids")
    if configuration.model_type not in _TEXT or not isinstance(ids, Tensor) or ids.dim() != 2 or ids.numel() == 0:
        return None
    is_first_real = inputs is None or inputs.mask is None or bool(inputs.mask[:, 0].all())
    # a tokenizer that was told to leave it out leaves rows that begin with whatever the text does
    return "true" if is_first_real and bool((ids[:, 0] == ids[0, 0]).all()) else None


def _grid(configuration: Any, inputs: Inputs | None) -> str | None:
    if configuration.model_type not in _IMAGE or inputs is None:
        return None
    given = [*inputs.args, *inputs.named.values()]
    images = next(
        (one for one in given if isinstance(one, Tensor) and one.is_floating_point() and one.dim() == 4), None
    )
    patch = getattr(configuration, "patch_size", None)
    sides = (patch, patch) if isinstance(patch, int) else tuple(patch or ())
    if images is None or len(sides) != 2 or min(sides) < 1:
        return None
    return "x".join(str(length // side) for length, side in zip(images.shape[2:], sides, strict=True))


def _window(configuration: Any) -> str | None:
    window = getattr(configuration, "sliding_window", None)
    if not isinstance(window, int) or getattr(configuration, "use_sliding_window", True) is False:
        return None
    kinds = set(getattr(configuration, "layer_types", None) or ["sliding_attention"])
    # layers of both kinds would need a window each
    return str(window) if kinds == {"sliding_attention"} else None


def _chosen_by(router: nn.Module) -> str | None:
    chosen = getattr(router, "top_k", None)
    return str(chosen) if type(chosen) is int and chosen > 0 else None


def _experts_per_token(configuration: Any) -> str | None:
    return next(_numbers(configuration, _EXPERTS_PER_TOKEN), None)


def _numbers(configuration: Any, names: Sequence[str]) -> Iterator[str]:
    for name in names:
        value = getattr(configuration, name, None)
        if type(value) is int and value > 0:
            yield str(value)
