"""Low-rank adapters: pairs of factors A (rank × in) and B (out × rank), and the scale of their product."""

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from collapse_cli.core.naming import Placement
from collapse_cli.core.site import Role, Site
from collapse_cli.sources.composition import Material
from collapse_cli.sources.recipes import BlockRecipe, Effective

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["adapter_blocks", "adapter_scales"]

#: How the factor A is called and how its B is, in PEFT, kohya and diffusers.
_PAIRS = (
    ("lora_embedding_A", "lora_embedding_B"),
    ("lora_A", "lora_B"),
    ("lora_a", "lora_b"),
    ("lora_down", "lora_up"),
    ("lora.down", "lora.up"),
    ("lora_linear_layer.down", "lora_linear_layer.up"),
    (".down.", ".up."),
)


def adapter_scales(materials: Iterable[Material], placed: Mapping[str, Placement]) -> list[Material]:
    """The materials, a stored α replaced by the scale α/rank it stands for."""
    materials = list(materials)
    ranks = {
        _target(one.site.name): one.site.shape[0]
        for one in materials
        if placed[one.site.name].role is Role.ADAPTER_A and one.site.shape
    }

    def scale(material: Material) -> Material:
        path, _, leaf = material.site.name.rpartition(".")
        is_alpha = (
            leaf == "alpha" and material.site.numel == 1 and placed[material.site.name].role is Role.ADAPTER_SCALE
        )
        return replace(material, compose=partial(ratio, rank=ranks[path])) if is_alpha and ranks.get(path) else material

    return [scale(material) for material in materials]


def ratio(alpha: "Tensor", *, rank: int) -> "Tensor":
    """α/rank (Hu et al., LoRA 2021, section 4.1)."""
    return alpha.double() / rank


def adapter_blocks(effective: Iterable[Effective], adapter: Mapping[str, Any]) -> Iterator[BlockRecipe]:
    """One block per pair of factors, named after A."""
    effective = list(effective)
    by_name = {one.name: one for one in effective}
    directional = {name.partition(".lora_magnitude_vector")[0] for name in by_name if ".lora_magnitude_vector" in name}
    for first in effective:
        if first.placement.role is not Role.ADAPTER_A:
            continue
        path = _target(first.name)
        members = {Role.ADAPTER_A: (first.name,)}
        partner = _partner(first.name, by_name)
        if partner is not None:
            members[Role.ADAPTER_B] = (partner,)
        alpha = by_name.get(f"{path}.alpha")
        if alpha is not None and alpha.placement.role is Role.ADAPTER_SCALE:
            members[Role.ADAPTER_SCALE] = (alpha.name,)
        facts = _facts(path, first.shape[0] if first.shape else 1, adapter, is_directional=path in directional)
        if partner is None:
            facts["skip"] = "companion tensor missing: the second factor"
        own = first.recipe.site
        site = Site(own.name.removesuffix(".weight") + "#delta", own.shape, own.dtype, own.layer, Role.ADAPTER_A)
        yield BlockRecipe(site, members, facts)


def _target(name: str) -> str:
    """Path of the module the adapter changes."""
    for first, _ in _PAIRS:
        path, found, _ = name.partition(first)
        if found:
            return path.rstrip("._")
    return name.rpartition(".")[0]


def _partner(name: str, by_name: Mapping[str, Effective]) -> str | None:
    for first, second in _PAIRS:
        other = name.replace(first, second)
        if other != name and other in by_name and by_name[other].placement.role is Role.ADAPTER_B:
            return other
    block = by_name[name].placement.block
    same = [
        one.name for one in by_name.values() if one.placement.role is Role.ADAPTER_B and one.placement.block == block
    ]
    return same[0] if block and len(same) == 1 else None


def _facts(path: str, rank: int, adapter: Mapping[str, Any], *, is_directional: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"r": rank, "target": path.removeprefix("base_model.model.")}
    declared = str(adapter.get("peft_type", "LORA")).lower()
    facts["kind"] = "dora" if declared == "lora" and (is_directional or adapter.get("use_dora")) else declared
    if not adapter:
        return facts
    facts["use_rslora"] = bool(adapter.get("use_rslora", False))
    alpha = _matched(adapter.get("alpha_pattern"), facts["target"], adapter.get("lora_alpha"))
    # JSON knows integers that no float holds, and NaN, which no comparison lets through
    if isinstance(alpha, int | float) and abs(alpha) <= sys.float_info.max and rank > 0:
        facts["alpha"] = alpha
        # rank-stabilised scale: Kalajdzievski, rsLoRA 2023
        facts["lora_scale"] = alpha / math.sqrt(rank) if facts["use_rslora"] else alpha / rank
    return facts


def _matched(patterns: object, target: str, default: object) -> object:
    """The value of the first pattern that ends the module's path, as PEFT matches them."""
    if isinstance(patterns, Mapping):
        for pattern, value in patterns.items():
            try:
                if re.match(rf"(.*\.)?({pattern})$", target):
                    return value
            except re.error:
                continue
    return default
