"""Saved optimizer state: moments by parameter."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from collapse_cli.core.naming import Placement
from collapse_cli.core.site import Role, Site
from collapse_cli.sources.base import OptimizerGroup
from collapse_cli.sources.composition import Material
from collapse_cli.sources.recipes import BlockRecipe, Effective

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["moments_of", "optimizer_blocks"]

_ROLES = {
    "exp_avg": Role.OPTIMIZER_M,
    "momentum_buffer": Role.OPTIMIZER_M,
    "exp_avg_sq": Role.OPTIMIZER_V,
    "square_avg": Role.OPTIMIZER_V,
    "step": Role.OPTIMIZER_STEP,
}
_ROW, _COLUMN = "exp_avg_sq_row", "exp_avg_sq_col"
_SETTINGS = ("betas", "eps", "lr", "weight_decay", "step")


def moments_of(
    groups: Iterable[OptimizerGroup], materials: Iterable[Material], placed: dict[str, Placement]
) -> list[Material]:
    """The materials with optimizer state in its roles (written into `placed`), factored second moments expanded."""
    by_name = {material.site.name: material for material in materials}
    for group in groups:
        layer = placed[group.parameter].layer if group.parameter in placed else None
        for key, name in group.moments.items():
            if name in by_name:
                placed[name] = Placement(_ROLES.get(key, Role.BUFFER), layer, group.parameter)
        row, column = by_name.get(group.moments.get(_ROW, "")), by_name.get(group.moments.get(_COLUMN, ""))
        if row is None or column is None:
            continue
        shape = (*row.site.shape, *column.site.shape[-1:])
        whole = replace(row.site, name=f"{row.site.name}#v", shape=shape)
        by_name[whole.name] = Material(whole, (row.site.name, column.site.name), expanded)
        placed[whole.name] = Placement(Role.OPTIMIZER_V, layer, group.parameter)
    return list(by_name.values())


def expanded(row: "Tensor", column: "Tensor") -> "Tensor":
    """Second moment r cᵀ / mean(r), float32 (Shazeer & Stern, Adafactor 2018, algorithm 4)."""
    row, column = row.float(), column.float()
    return (row / row.mean(dim=-1, keepdim=True)).unsqueeze(-1) * column.unsqueeze(-2)


def optimizer_blocks(groups: Iterable[OptimizerGroup], effective: Iterable[Effective]) -> Iterator[BlockRecipe]:
    """One block per parameter: its first and second moment, its step, and the settings of its group."""
    by_name = {one.name: one for one in effective}
    for group in groups:
        names = [*group.moments.values(), f"{group.moments.get(_ROW, '')}#v"]
        found = [by_name[name] for name in names if name in by_name]
        members: dict[Role, tuple[str, ...]] = {}
        for role in (Role.OPTIMIZER_M, Role.OPTIMIZER_V, Role.OPTIMIZER_STEP):
            of_role = tuple(one.name for one in found if one.placement.role is role)
            if of_role:
                members[role] = of_role
        if not members:
            continue
        first = by_name[next(iter(members.values()))[0]].recipe.site
        site = Site(f"{group.parameter}#optimizer", first.shape, first.dtype, first.layer, next(iter(members)))
        facts = {key: group.settings[key] for key in _SETTINGS if group.settings.get(key) is not None}
        yield BlockRecipe(site, members, {**facts, "kind": _kind(group.moments), "parameter": group.parameter})


def _kind(moments: Mapping[str, str]) -> str:
    keys = set(moments) - {"step"}
    if {_ROW, _COLUMN} & keys:
        return "adafactor"
    if {"exp_avg", "exp_avg_sq"} <= keys:
        return "adam"
    if keys == {"exp_avg"}:
        return "lion"
    return "unknown"
