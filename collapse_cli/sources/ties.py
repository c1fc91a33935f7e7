"""Tensors that stand under two names: declared by the configuration, or stored once."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from collapse_cli.core.naming import Placement
from collapse_cli.core.site import Role
from collapse_cli.sources.base import Checkpoint
from collapse_cli.sources.composition import Material
from collapse_cli.sources.fused import scoped
from collapse_cli.sources.recipes import Effective

__all__ = ["aliased", "ties_of"]

#: Names under which transformers stores a word embedding that shares its weight with another (T5, BART).
_WORD_EMBEDDINGS = frozenset({"shared", "embed_tokens", "wte", "word_embeddings"})


def ties_of(checkpoint: Checkpoint, materials: Sequence[Material], placed: Mapping[str, Placement]) -> dict[str, str]:
    """Second name → first, for names with the same bytes and for embeddings and heads declared tied."""
    ties: dict[str, str] = {}
    stored = {material.site.name: material for material in materials if material.reads == (material.site.name,)}
    first_at: dict[tuple[Any, ...], str] = {}
    for name, material in stored.items():
        origin = checkpoint.origin(name)
        if origin.end <= origin.begin:
            continue
        first = first_at.setdefault((origin, material.site.shape, material.site.dtype), name)
        if first != name:
            ties[name] = first
    return ties | _declared(checkpoint.config, [name for name in stored if name not in ties], stored, placed)


def _declared(
    config: Mapping[str, Any], names: Iterable[str], stored: Mapping[str, Material], placed: Mapping[str, Placement]
) -> dict[str, str]:
    names = [name for name in names if _is_word_table(name, placed[name].role)]
    embeddings = [name for name in names if placed[name].role is Role.EMBEDDING]
    if not embeddings:
        return {}
    first = embeddings[0]
    shape = stored[first].site.shape
    if scoped(config, first).get("tie_word_embeddings", config.get("tie_word_embeddings")) is not True:
        return {}
    return {name: first for name in names if name != first and stored[name].site.shape == shape}


def _is_word_table(name: str, role: Role) -> bool:
    module = name.removesuffix(".weight").rpartition(".")[2]
    return role is Role.HEAD or (role is Role.EMBEDDING and module in _WORD_EMBEDDINGS)


def aliased(effective: Sequence[Effective], ties: Mapping[str, str]) -> list[Effective]:
    """The members of blocks: a second name stands for the weight of the first, in its own place.

    Modules tied as a whole (shared layers) are left out: their blocks are analysed under the first name.
    """
    by_name = {one.name: one for one in effective}
    members: list[Effective] = []
    for one in effective:
        stored, hash_sign, part = one.name.partition("#")
        if stored not in ties:
            members.append(one)
            continue
        first = by_name.get(ties[stored] + hash_sign + part)
        if first is not None and one.placement.role is Role.HEAD:
            members.append(Effective(first.recipe, one.placement, one.stands_for))
    return members
