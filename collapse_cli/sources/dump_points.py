"""The hook points of a dump: arrays brought together by site, in depth order, checked against one another."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import final

from collapse_cli.core.depth import layer_numbers
from collapse_cli.core.roles import OUTPUT, ROLES
from collapse_cli.core.site import Role, Site
from collapse_cli.errors import UnreadableDump
from collapse_cli.sources.dump_arrays import DumpArray
from collapse_cli.sources.quoting import quoted

__all__ = ["HookPoint", "hook_points"]

#: Axes in which the arrays of one site agree.
_AGREEING = ("samples", "reference", "classes", "tokens", "queries")


@final
@dataclass(frozen=True, slots=True)
class HookPoint:
    """One site of a dump: its arrays by role, in the order of the roles, with the annotations it shares with `output`.

    `layer` counts from 0 along the depth of the model; None outside a numbered stack.
    """

    name: str
    layer: int | None
    arrays: Mapping[str, DumpArray]

    @property
    def site(self) -> Site:
        """The site as reports name it, with the shape and dtype of its first array that is not an annotation."""
        first = next(array for array in self.arrays.values() if not array.role.is_shared)
        return Site(self.name, first.shape, first.dtype, self.layer, Role.ACTIVATION)

    @property
    def rows(self) -> int | None:
        """Number of samples; None if no array has a row per sample."""
        return next((array.shape[0] for array in self.arrays.values() if array.role.rows == "samples"), None)


def hook_points(arrays: Sequence[DumpArray], path: str) -> tuple[list[HookPoint], list[str]]:
    """The hook points of a dump in depth order, and what is to be said about them.

    Raises:
        UnreadableDump: arrays that describe the same samples have different lengths.
    """
    own: dict[str, dict[str, DumpArray]] = {}
    for array in arrays:
        own.setdefault(array.site, {})[array.role.name] = array
    measured = {site: held for site, held in own.items() if any(not array.role.is_shared for array in held.values())}
    notices: list[str] = []
    for site, held in own.items():
        _check_agreement(site, held, path)
        if site not in measured and site != OUTPUT and measured:
            notices.append(f"site {quoted(site)} has only {', '.join(held)}, nothing to measure")
    for array in own.get(OUTPUT, {}).values():
        if array.role.is_shared:
            notices += _share(array, measured, path)
    layers = layer_numbers(f"{site}.features" for site in measured)
    points = [
        HookPoint(site, layers.get(f"{site}.features"), MappingProxyType(_in_order(held)))
        for site, held in measured.items()
    ]
    for point in points:
        lacking = [
            f"{role} without {need}"
            for role, array in point.arrays.items()
            for need in array.role.needs
            if need not in point.arrays
        ]
        notices += [f"site {quoted(point.name)} has {', '.join(lacking)}"] if lacking else []
    return sorted(points, key=_depth), notices


def _check_agreement(site: str, held: Mapping[str, DumpArray], path: str) -> None:
    """Arrays of one site have one length along the axes that they share, whichever way the axis is called twice."""
    for axis in _AGREEING:
        lengths = {role: length for role, array in held.items() if (length := array.length(axis)) is not None}
        if len(set(lengths.values())) > 1:
            (first, one), *others = lengths.items()
            second, two = next((role, length) for role, length in others if length != one)
            raise UnreadableDump(
                f"{first} and {second} of site {quoted(site)} should have as many {axis}",
                where=path,
                got=f"{first} has {one:,}, {second} has {two:,}",
                hint="both describe the same samples, in the same order; write them together",
            )


def _share(array: DumpArray, measured: dict[str, dict[str, DumpArray]], path: str) -> list[str]:
    """Give an annotation of the samples to every site that lacks it and has as many; say which have not."""
    role = array.role
    others: list[tuple[str, int]] = []
    took = role.name in measured.get(OUTPUT, {})
    for site, held in measured.items():
        if role.name in held or not (role.rows is None or any(other.role.rows == role.rows for other in held.values())):
            continue
        try:
            _check_agreement(site, {**held, role.name: array}, path)
        except UnreadableDump:
            rows = next((other.shape[0] for other in held.values() if other.role.rows == role.rows), 0)
            others.append((site, rows))
        else:
            held[role.name] = array
            took = True
    if others and not took:
        site, rows = others[0]
        raise UnreadableDump(
            f"{role.name} should have as many {' × '.join(role.shapes[0])} as site {quoted(site)}",
            where=path,
            got=f"{role.name} has {' × '.join(f'{side:,}' for side in array.shape)}, the site has {rows:,} samples",
            hint="both describe the same samples, in the same order; write them together",
        )
    return [f"{role.name} ({array.shape[0]:,} rows) are not those of site {quoted(site)}" for site, _ in others]


def _in_order(held: Mapping[str, DumpArray]) -> dict[str, DumpArray]:
    return {role: held[role] for role in ROLES if role in held}


def _depth(point: HookPoint) -> tuple[bool, bool, int, list[tuple[int, int, str]]]:
    pieces = re.split(r"(\d+)", point.name)
    natural = [(1, int(piece), "") if piece.isdecimal() else (0, 0, piece) for piece in pieces]
    return point.name == OUTPUT, point.layer is None, point.layer or 0, natural
