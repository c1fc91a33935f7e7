"""Two dumps of the same rows as one, in which the roles of the second are called `after.features` and so on."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, final

from collapse_cli.core.report import Skip
from collapse_cli.errors import UnreadableDump
from collapse_cli.sources.dump import ROWS, Dump, HookPoint

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AFTER", "PAIRING", "PairedDump", "paired_dump"]

#: What the roles and the metadata of the second dump begin with.
AFTER = "after."
#: Who says that rows could not be paired.
PAIRING = "pairing"
#: Metadata in which two dumps should agree: other values move every number without anything having happened.
_SHOULD_AGREE = ("preprocessing", "split", "pooling", "training_dtype", "embedding")


@final
class PairedDump:
    """The hook points that two dumps have in common, row by row.

    `skips` say which were not paired and why; `caveat` what the dumps should agree in and do not.
    """

    format = "dump"

    def __init__(self, before: Dump, after: Dump, points: Sequence[HookPoint], skips: Sequence[Skip]) -> None:
        self.before, self.after = before, after
        self.points, self.unreadable = tuple(points), (*before.unreadable, *after.unreadable)
        self.skips = tuple(skips)
        self.metadata: Mapping[str, str] = {
            **before.metadata,
            **{f"{AFTER}{key}": value for key, value in after.metadata.items()},
        }
        self._by_name = {point.name: point for point in points}

    def __getitem__(self, site: str) -> HookPoint:
        return self._by_name[site]

    @property
    def caveat(self) -> str:
        """What makes the two hard to compare, in words; empty where nothing does."""
        pairs = [(key, self.before.metadata.get(key), self.after.metadata.get(key)) for key in _SHOULD_AGREE]
        differing = [f"{key} {_said(old)} → {_said(new)}" for key, old, new in pairs if old is not None and old != new]
        return "the dumps differ in " + ", ".join(differing) if differing else ""

    def batches(self, site: str, roles: Sequence[str], rows: int = ROWS) -> "Iterator[dict[str, Tensor]]":
        """Windows of consecutive rows of both.

        Raises:
            UnreadableDump: bytes are gone.
        """
        old = [role for role in roles if not role.startswith(AFTER)]
        new = [role.removeprefix(AFTER) for role in roles if role.startswith(AFTER)]
        first, leading = (self.before, old) if old else (self.after, new)
        start = 0
        for window in first.batches(site, leading, rows):
            end = start + next(iter(window.values())).shape[0]
            held = dict(window) if old else {f"{AFTER}{role}": tensor for role, tensor in window.items()}
            for role in new if old else ():
                held[f"{AFTER}{role}"] = self.after.read_rows(site, role, start, end)
            yield held
            start = end

    def read(self, site: str, role: str) -> "Tensor":
        """A whole array of either dump.

        Raises:
            UnreadableDump: its bytes are gone.
        """
        dump = self.after if role.startswith(AFTER) else self.before
        return dump.read(site, role.removeprefix(AFTER))

    def read_rows(self, site: str, role: str, begin: int, end: int) -> "Tensor":
        """The rows from `begin` up to `end` of one array.

        Raises:
            UnreadableDump: its bytes are gone.
        """
        dump = self.after if role.startswith(AFTER) else self.before
        return dump.read_rows(site, role.removeprefix(AFTER), begin, end)


def paired_dump(before: Dump, after: Dump, labels: tuple[str, str] = ("OLD", "NEW")) -> PairedDump:
    """Two dumps, site by site and row by row.

    Raises:
        UnreadableDump: they have no site in common.
    """
    theirs = {point.name: point for point in after.points}
    points, skips = [], []
    for point in before.points:
        other = theirs.pop(point.name, None)
        if other is None:
            skips.append(Skip(PAIRING, point.name, f"only in {labels[0]}"))
        elif reason := _unpaired(before, after, point, other):
            skips.append(Skip(PAIRING, point.name, f"rows not paired: {reason}"))
        else:
            arrays = {**point.arrays, **{f"{AFTER}{role}": array for role, array in other.arrays.items()}}
            points.append(HookPoint(point.name, point.layer, MappingProxyType(arrays)))
    skips += [Skip(PAIRING, name, f"only in {labels[1]}") for name in theirs]
    if len(theirs) == len(after.points):
        ours, others = before.points[0].name, after.points[0].name
        raise UnreadableDump(
            f"{labels[0]} and {labels[1]}",
            expected="should be dumps of the same sites",
            got=f'no site is in both ("{ours}" against "{others}")',
            hint="`collapse inspect` lists the sites of each",
        )
    return PairedDump(before, after, points, skips)


def _unpaired(before: Dump, after: Dump, point: HookPoint, other: HookPoint) -> str:
    """Why the rows of a site are not those of the other dump; empty if they are."""
    if point.rows != other.rows:
        return f"{point.rows or 0:,} rows against {other.rows or 0:,}"
    if "ids" in point.arrays and "ids" in other.arrays:
        ours, theirs = before.read(point.name, "ids"), after.read(other.name, "ids")
        differing = (ours.long() != theirs.long()).nonzero()
        if len(differing):
            return f"{len(differing):,} ids differ, the first in row {int(differing[0, 0]):,}"
    return ""


def _said(value: str | None) -> str:
    return "not given" if value is None else f'"{value}"'
