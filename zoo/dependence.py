"""How judged metrics of dumps move with the number of rows, columns and classes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

from collapse_cli.core.metric import Limit, Metric
from collapse_cli.core.report import Subject
from collapse_cli.sources.dump import Dump, open_dump
from zoo.case import Case, Kind, Truth, View
from zoo.kinds import kinds
from zoo.measure import measured
from zoo.store import made
from zoo.verdicts import manuals
from zoo.writing import write_dump

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Dependence", "dependence"]

Which = Literal["N", "D", "K"]
#: What is left of the rows, the columns and the classes.
REDUCTIONS: tuple[tuple[Which, float], ...] = (("N", 0.5), ("N", 0.25), ("D", 0.5), ("K", 0.5))
#: Roles whose last axis holds columns that are alike, none of which stands for something of its own.
_COLUMNS = frozenset({"features", "view_a", "view_b", "modality_a", "modality_b", "samples", "reference"})
#: A dump with one of these means the order or the place of its columns.
_PLACED = frozenset({"head_weight", "codebook"})


@final
@dataclass(frozen=True, slots=True)
class Dependence:
    """One judged metric of one dump, whole and reduced.

    `ratio` is that of the worst values, or of the worst value ÷ null where the limit is stated so; None where the
    whole reads 0. `crosses` says whether the reduced dump lies beyond a limit that the whole one keeps.
    """

    rule: str
    kind: str
    truth: Truth
    which: Which
    factor: float
    ratio: float | None
    crosses: bool


def dependence(root: Path) -> list[Dependence]:
    """Of the sound and the collapsed dump of seed 0 in the first corner of every kind, against reduced copies."""
    judged = {
        f"{manual.name}/{metric.name}": metric
        for manual in manuals()
        for metric in manual.metrics
        if metric.warn or metric.error
    }
    found: list[Dependence] = []
    for kind in kinds().values():
        for name, view in kind.views.items():
            if view.how != "scan" or kind.is_control:
                continue
            for level in ("healthy", "collapsed"):
                case = Case(kind.name, kind.architectures[0], kind.data[0], level, 0)
                found += _of_model(made(root, kind, case), kind, (name, view), judged)
    return found


def _of_model(folder: Path, kind: Kind, named: tuple[str, View], judged: Mapping[str, Metric]) -> Iterator[Dependence]:
    name, view = named
    if not (folder / name / "dump.index.json").exists():
        return
    truth: Truth = json.loads((folder / "truth.json").read_text(encoding="utf-8"))["truth"]
    subject = measured(folder, name, view)
    whole, beyond = _worst(subject, judged), _beyond(subject, judged, view)
    for which, factor in REDUCTIONS:
        reduced = _reduced(folder, named, which, factor)
        if reduced is None:
            continue
        crossing = _beyond(reduced, judged, view) - beyond
        for rule, value in _worst(reduced, judged).items():
            if rule in whole:
                ratio = value / whole[rule] if whole[rule] else None
                yield Dependence(rule, kind.name, truth, which, factor, ratio, rule in crossing)


def _reduced(folder: Path, named: tuple[str, View], which: Which, factor: float) -> Subject | None:
    """What is measured on a reduced copy, kept beside the model; None where there is nothing to take away."""
    name, view = named
    copy = folder / f"{name}-{which}{factor:g}-{_recipe()}"
    shutil.rmtree(copy, ignore_errors=True)
    dump = open_dump(folder / name)
    try:
        is_written = _write(dump, copy, which, factor)
    finally:
        dump.close()
    if not is_written:
        return None
    try:
        return measured(folder, copy.name, view)
    except ValueError:  # too little is left to be read
        return None
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _recipe() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:6]


def _write(dump: Dump, folder: Path, which: Which, factor: float) -> bool:
    """A copy of a dump with fewer rows, columns or classes; false where it has none to spare."""
    import torch

    roles = {role for point in dump.points for role in point.arrays}
    if (which == "K" and "labels" not in roles) or (which == "D" and (_PLACED & roles or not _COLUMNS & roles)):
        return False
    rows: dict[str, Tensor] = {}
    whole: dict[str, Tensor] = {}
    for point in dump.points:
        for role, array in point.arrays.items():
            value = dump.read(point.name, role)
            key = f"{point.name}/{role}"
            if array.role.rows is None:
                whole[key] = value
            else:
                rows[key] = value[..., : max(int(value.shape[-1] * factor), 1)] if _loses(which, role) else value
    chosen = _rows(rows, which, factor)
    if chosen is None:
        return False
    kept = {
        key: value[chosen] if len(value) == len(chosen) else value[: _left(value, which, factor)]
        for key, value in rows.items()
    }
    dtype = next((value.dtype for value in kept.values() if value.is_floating_point()), torch.float32)
    write_dump(folder, kept, dump.metadata, whole=whole, dtype=dtype)
    return True


def _loses(which: Which, role: str) -> bool:
    return which == "D" and role in _COLUMNS


def _left(value: Tensor, which: Which, factor: float) -> int:
    return int(len(value) * factor) if which == "N" else len(value)


def _rows(rows: Mapping[str, Tensor], which: Which, factor: float) -> Tensor | None:
    """Which rows of the labelled population, or else of the longest, stay."""
    import torch

    labels = next((value for key, value in rows.items() if key.rpartition("/")[2] == "labels"), None)
    count = len(labels) if labels is not None else max(map(len, rows.values()))
    chosen = torch.ones(count, dtype=torch.bool)
    if which == "N":
        chosen[int(count * factor) :] = False
    elif which == "K":
        if labels is None or labels.is_floating_point():
            return None
        classes = labels.unique()
        if len(classes) < 4:
            return None
        chosen = torch.isin(labels.flatten(), classes[: int(len(classes) * factor)])
    return chosen


def _worst(subject: Subject, judged: Mapping[str, Metric]) -> dict[str, float]:
    """By rule the value that is nearest to its limit or farthest beyond, as the limit is stated."""
    found: dict[str, float] = {}
    for one in subject.measurements:
        metric = judged.get(one.rule)
        limit = metric and (metric.error or metric.warn)
        if not limit or (limit.of == "null" and not one.null):
            continue
        value = one.value / one.null if limit.of == "null" and one.null else one.value
        worst = min if limit.side == "below" else max
        found[one.rule] = worst(found.get(one.rule, value), value)
    return found


def _beyond(subject: Subject, judged: Mapping[str, Metric], view: View) -> set[str]:
    """The rules with a value beyond a limit that holds for the intent of the view."""
    return {
        one.rule
        for one in subject.measurements
        for limit in _limits(judged.get(one.rule), view)
        if limit.is_crossed(one.value, one.null)
    }


def _limits(metric: Metric | None, view: View) -> list[Limit]:
    both = (metric.warn, metric.error) if metric else ()
    return [one for one in both if one and (one.intent is None or view.intent in one.intent)]
