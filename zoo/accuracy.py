"""How often the tool is right on the held-out models: found, missed, false alarms, and whether the name was right."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import final

from collapse_cli.core.finding import Severity
from zoo.kinds import kinds
from zoo.verdicts import Row

__all__ = ["Accuracy", "KindAccuracy", "Share", "accuracy"]


@final
@dataclass(frozen=True, slots=True)
class Share:
    """`hits` of `count`, with the 95 % interval of Wilson 1927."""

    hits: int
    count: int

    @property
    def value(self) -> float:
        """NaN of none."""
        return self.hits / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high."""
        if not self.count:
            return 0.0, 1.0
        z, n, p = 1.96, self.count, self.value
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)


@final
@dataclass(frozen=True, slots=True)
class KindAccuracy:
    """One view of one kind.

    `collapsed`: an error by the named family. `mild`: a warning at least. `failed` and `warned`: healthy models with
    a finding of that severity or worse from any analyzer. `named`: of the models found, those whose first diagnosis
    is this kind. `first` counts the analyzers of the primary findings, `says` the alarms on healthy models.
    """

    kind: str
    view: str
    collapsed: Share
    mild: Share
    failed: Share
    warned: Share
    named: Share
    unclear: int
    first: tuple[tuple[str, int], ...]
    says: tuple[tuple[str, int], ...]


@final
@dataclass(frozen=True, slots=True)
class Accuracy:
    """All kinds, the slices of what is held out, the whole, and true against diagnosed kind of the models found."""

    of_kinds: tuple[KindAccuracy, ...]
    slices: tuple[tuple[str, KindAccuracy], ...]
    whole: KindAccuracy
    confusion: tuple[tuple[str, str, int], ...]


def accuracy(rows: Iterable[Row]) -> Accuracy:
    """The figures over these rows, as a rule those that are held out."""
    every = list(rows)
    keys = dict.fromkeys((row.case.kind, row.view) for row in every)
    parts = tuple(_of(*key, [row for row in every if (row.case.kind, row.view) == key]) for key in keys)
    confusion = Counter((row.case.kind, row.kind or "-") for row in every if _is_found(row))
    slices = tuple((name, _of(name, "", [row for row in every if is_in(row)])) for name, is_in in _SLICES.items())
    whole = _of("all", "", every)
    return Accuracy(parts, slices, whole, tuple((*pair, count) for pair, count in sorted(confusion.items())))


def _is_new(row: Row) -> tuple[bool, bool]:
    kind = kinds()[row.case.kind]
    return row.case.architecture != kind.architectures[0], row.case.data != kind.data[0]


_SLICES: dict[str, Callable[[Row], bool]] = {
    "architecture not seen": lambda row: _is_new(row) == (True, False),
    "data set not seen": lambda row: _is_new(row) == (False, True),
    "neither seen": lambda row: _is_new(row) == (True, True),
}


def _is_found(row: Row) -> bool:
    if row.truth == "collapsed":
        return row.severity is Severity.ERROR
    return row.truth == "mild" and row.is_detected


def _of(kind: str, view: str, rows: Sequence[Row]) -> KindAccuracy:
    collapsed = [row for row in rows if row.truth == "collapsed"]
    mild = [row for row in rows if row.truth == "mild"]
    sound = [row for row in rows if row.truth in ("healthy", "control")]
    found = [row for row in rows if _is_found(row)]
    first = Counter(str(row.primary).partition("/")[0] for row in found)
    return KindAccuracy(
        kind,
        view,
        collapsed=_share(collapsed, lambda row: row.severity is Severity.ERROR),
        mild=_share(mild, lambda row: row.is_detected),
        failed=_share(sound, lambda row: row.alarm is Severity.ERROR),
        warned=_share(sound, lambda row: row.alarm is not None),
        named=_share(found, lambda row: row.kind == row.case.kind),
        unclear=sum(row.truth == "unclear" for row in rows),
        first=tuple(first.most_common()),
        says=tuple(Counter(rule for row in sound for rule in row.alarms).most_common()),
    )


def _share(rows: Sequence[Row], is_hit: Callable[[Row], bool]) -> Share:
    return Share(sum(is_hit(row) for row in rows), len(rows))
