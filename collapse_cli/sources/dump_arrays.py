"""The arrays of a dump: which array has which role at which site, joined over the shards and checked by shape."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import NoReturn, final

from collapse_cli.core.roles import ROLES, SYNONYMS, DumpRole, join_name, split_name
from collapse_cli.core.site import FLOATING, Site
from collapse_cli.errors import BadPolicy, UnreadableDump
from collapse_cli.sources.dtypes import BITS
from collapse_cli.sources.quoting import quoted

__all__ = ["DumpArray", "Piece", "Resolved", "joined", "resolved"]

#: Arrays that a message names before it says that there are more.
_NAMED = 6


@final
@dataclass(frozen=True, slots=True)
class Piece:
    """The part of an array in one shard: the position of the shard, its header, and whether rows are read alone."""

    shard: int
    stored: Site
    is_by_rows: bool


@final
@dataclass(frozen=True, slots=True)
class DumpArray:
    """One array of a dump, joined over its shards along the first axis; its rows are given in `dtype`."""

    site: str
    role: DumpRole
    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[Piece, ...]

    @property
    def name(self) -> str:
        """`<site>/<role>`."""
        return join_name(self.site, self.role.name)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return prod(self.shape[1:]) * BITS.get(self.dtype, 64) // 8

    def length(self, axis: str) -> int | None:
        """The length of an axis by its name; None if it has no such axis."""
        axes = self.role.axes(self.shape) or ()
        return self.shape[axes.index(axis)] if axis in axes else None


@final
@dataclass(frozen=True, slots=True)
class Resolved:
    """Which site and role every array has that has one, by its name in the file; and what to say about the others."""

    roles: Mapping[str, tuple[str, str]]
    notices: tuple[str, ...] = ()
    unknown: tuple[str, ...] = field(default=())


def resolved(arrays: Mapping[str, Site], mapped: Mapping[str, str], where: str) -> Resolved:
    """The site and role of every array: as `mapped` says (role → array), by its own name, or by a synonym of it.

    Raises:
        BadPolicy: `mapped` names no role.
        UnreadableDump: `mapped` names no array.
    """
    taken = dict(_mapped(arrays, mapped, where))
    roles = {name: place for place, name in taken.items()}
    notices: list[str] = []
    unknown: list[str] = []
    by_synonym = [name for name in arrays if split_name(name)[1] not in ROLES]
    for name in sorted(set(arrays) - set(by_synonym), key=list(arrays).index) + by_synonym:
        if name in roles:
            continue
        place, is_synonym = _named(name, arrays[name])
        if place is None:
            unknown.append(name)
        elif place in taken:
            notices.append(f"array {quoted(name)} is not read: {quoted(taken[place])} is {join_name(*place)} already")
        else:
            taken[place], roles[name] = name, place
            if is_synonym:
                notices.append(f"array {quoted(name)} is read as {join_name(*place)}")
    if unknown:
        some = ", ".join(quoted(name) for name in unknown[:_NAMED]) + (", …" if len(unknown) > _NAMED else "")
        notices.append(f"{_counted(unknown)} no role and not read: {some}; --map ROLE=ARRAY gives one")
    return Resolved({name: roles[name] for name in arrays if name in roles}, tuple(notices), tuple(unknown))


def _counted(names: Sequence[str]) -> str:
    return f"{len(names):,} arrays have" if len(names) > 1 else "1 array has"


def _named(name: str, array: Site) -> tuple[tuple[str, str] | None, bool]:
    site, last = split_name(name)
    role = last if last in ROLES else SYNONYMS.get(last)
    # whole numbers, one per sample, that somebody wants predicted are classes
    if role == "targets" and len(array.shape) == 1 and not array.is_floating:
        role = "labels"
    return ((site, role), role != last) if role else (None, False)


def _mapped(arrays: Mapping[str, Site], mapped: Mapping[str, str], where: str) -> Iterator[tuple[tuple[str, str], str]]:
    for wanted, name in mapped.items():
        site, role = split_name(wanted)
        if role not in ROLES:
            close = difflib.get_close_matches(role, ROLES, 3)
            raise BadPolicy(
                f"{quoted(role)} is no role of a dump",
                hint=f"did you mean {', '.join(close)}?" if close else f"the roles are {', '.join(ROLES)}",
            )
        if name not in arrays:
            close = difflib.get_close_matches(name, arrays, 3) or list(arrays)[:_NAMED]
            raise UnreadableDump(
                f"--map {wanted}={name} names no array", where=where, hint=f"there are {', '.join(map(quoted, close))}"
            )
        yield (site if "/" in wanted else split_name(name)[0], role), name


# --- over the shards -------------------------------------------------------------------------------------------------


def joined(place: tuple[str, str], pieces: Sequence[tuple[str, Piece]], where: str) -> tuple[DumpArray, list[str]]:
    """One array from its pieces, each with the label of its shard, and what is to be said about it.

    Raises:
        UnreadableDump: the pieces do not fit together, or the whole cannot have its role.
    """
    role = ROLES[place[1]]
    label, first = pieces[0]
    shape, notices = first.stored.shape, []
    for other_label, piece in pieces[1:]:
        other = piece.stored.shape
        if other[1:] != shape[1:] or not other or (role.rows is None and other != shape):
            _refuse(
                where, place, f"should have one shape in every shard, {shape} in {label}", f"{other_label}: {other}"
            )
    dtypes: dict[str, str] = {}
    for shard, piece in pieces:
        dtypes.setdefault(piece.stored.dtype, shard)
    if len(dtypes) > 1:
        said = ", ".join(f"{dtype} ({shard})" for dtype, shard in dtypes.items())
        if not FLOATING.issuperset(dtypes):
            _refuse(where, place, "should have one dtype in every shard", f"it has {said}")
        notices.append(f"array {quoted(join_name(*place))} has several dtypes, read as {_wider(dtypes)}: {said}")
    kept = [piece for _, piece in pieces]
    if role.rows is None:
        if len(pieces) > 1:
            notices.append(
                f"array {quoted(join_name(*place))} stands in {len(pieces):,} shards; that of {label} is read"
            )
        kept = kept[:1]
    elif shape:
        shape = (sum(piece.stored.shape[0] for piece in kept), *shape[1:])
    if fault := role.fault(shape, _wider(dtypes)):
        _refuse(where, place, *fault)
    return DumpArray(place[0], role, shape, _wider(dtypes), tuple(kept)), notices


def _wider(dtypes: Iterable[str]) -> str:
    """The dtype that holds all of them; half and bfloat16 do not hold each other."""
    kinds = list(dtypes)
    return kinds[0] if len(kinds) == 1 else "F64" if "F64" in kinds else "F32"


def _refuse(where: str, place: tuple[str, str], expected: str, got: str) -> NoReturn:
    hints = {
        "features": "keep one row per sample: pool or flatten the other axes, or name it with --map tokens=ARRAY",
        "labels": "classes are whole numbers; for a regression call the array targets",
    }
    if expected == "should hold floating-point numbers":
        hints = {place[1]: "save it as float32: array.astype('float32')"}
    raise UnreadableDump(
        f"array {quoted(join_name(*place))}",
        where=where,
        expected=expected,
        got=got,
        hint=hints.get(place[1], "save it as its role asks, or leave it out"),
    )
