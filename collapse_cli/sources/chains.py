"""Consecutive layers: pairs of plain linear or convolution weights, the second of which reads what the first writes."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from collapse_cli.core.site import Role
from collapse_cli.sources.recipes import BlockRecipe, Effective, module_of

__all__ = ["chain_blocks"]

_SHORTCUTS = ("downsample", "shortcut", "skip", "identity", "proj")
_NORMS = (Role.NORM_GAIN, Role.NORM_BIAS, Role.NORM_MEAN, Role.NORM_VAR)


def chain_blocks(effective: Sequence[Effective]) -> Iterator[BlockRecipe]:
    """One block per consecutive pair, named after its first weight."""
    modules: dict[str, list[Effective]] = {}
    for one in effective:
        modules.setdefault(module_of(one.name), []).append(one)
    for group in _groups(effective, {Role.LINEAR, Role.HEAD}):
        for first, second in _pairs(group):
            if first.placement.role is Role.LINEAR:
                yield _block(first, second, Role.LINEAR, modules)
    for group in _groups((one for one in effective if not _is_shortcut(one.name)), {Role.CONV}):
        for first, second in _pairs(group):
            yield _block(first, second, Role.CONV, modules)


def _is_shortcut(name: str) -> bool:
    return any(word in part for part in module_of(name).split(".")[-2:] for word in _SHORTCUTS)


def _groups(effective: Iterable[Effective], roles: set[Role]) -> Iterator[list[Effective]]:
    """Weights that may follow one another: linear ones by the module that holds their modules, others by block."""
    groups: dict[str, list[Effective]] = {}
    for one in effective:
        if one.placement.role not in roles or len(one.shape) < 2 or one.is_unsplit:
            continue
        parent = module_of(module_of(one.name))
        key = (one.placement.block or parent) if Role.CONV in roles else parent
        groups.setdefault(key, []).append(one)
    for group in groups.values():
        yield sorted(group, key=_numbers) if _is_numbered(group) else group


def _numbers(one: Effective) -> tuple[bool, list[int]]:
    return one.placement.role is Role.HEAD, [int(digits) for digits in re.findall(r"\d+", one.name)]


def _without_numbers(name: str) -> str:
    return re.sub(r"\d+", "", name)


def _is_numbered(group: Sequence[Effective]) -> bool:
    """Whether the names differ in nothing but numbers (a head apart): then numbers give the order, not the file."""
    return len({_without_numbers(one.name) for one in group if one.placement.role is not Role.HEAD}) == 1


def _pairs(group: Sequence[Effective]) -> Iterator[tuple[Effective, Effective]]:
    for first, second in pairwise(group):
        if second.shape[1] != first.shape[0]:
            continue
        # siblings of equal square shape and unrelated names may as well stand side by side (query, key, value)
        is_ambiguous = first.shape == second.shape and _without_numbers(first.name) != _without_numbers(second.name)
        if not is_ambiguous or second.placement.role is Role.HEAD:
            yield first, second


def _block(first: Effective, second: Effective, role: Role, modules: Mapping[str, Sequence[Effective]]) -> BlockRecipe:
    members: dict[Role, tuple[str, ...]] = {role: (first.name, second.name)}
    bias_role = Role.LINEAR_BIAS if role is Role.LINEAR else Role.CONV_BIAS
    own = [one.name for one in modules.get(module_of(first.name), ()) if one.placement.role is bias_role]
    if own:
        members[bias_role] = tuple(own[:1])
    if role is Role.CONV:
        members |= _batch_norm(first, modules)
    site = replace(first.recipe.site, name=f"{first.name}#chain", role=role)
    return BlockRecipe(site, members)


def _batch_norm(conv: Effective, modules: Mapping[str, Sequence[Effective]]) -> dict[Role, tuple[str, ...]]:
    """The batch norm that follows a convolution: by the same number, or next in a sequence."""
    path = module_of(conv.name)
    parent, dot, leaf = path.rpartition(".")
    names = [leaf.replace("conv", norm) for norm in ("bn", "norm", "batchnorm", "batch_norm") if "conv" in leaf]
    if leaf.isdigit():
        names.append(str(int(leaf) + 1))
    for name in names:
        found = {one.placement.role: (one.name,) for one in modules.get(parent + dot + name, ())}
        variances = [one for one in modules.get(parent + dot + name, ()) if one.placement.role is Role.NORM_VAR]
        if variances and variances[0].shape == conv.shape[:1]:
            return {role: found[role] for role in _NORMS if role in found}
    return {}
