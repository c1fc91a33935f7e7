"""Everything a report knows of one site: each metric with its null and limits, and curves as plots of characters."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from collapse_cli.core.manual import Manual
from collapse_cli.core.metric import Measurement, Metric
from collapse_cli.core.report import Report, Subject
from collapse_cli.core.text import plain
from collapse_cli.render.finding_block import SHAPES
from collapse_cli.render.spark import spark
from collapse_cli.render.verdict import findings_by_severity, limit_words, number

__all__ = ["plot", "print_detail"]

#: Rows of a plot, and most columns: more adds nothing that an eye can use.
_HEIGHT, _WIDTH = 12, 72
#: Sites shown before the rest is counted.
_SITES = 6
#: Dots of a braille character, from the upper left down, then the right column.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def print_detail(console: Console, report: Report, subject: Subject, pattern: str) -> None:
    """The sites of a subject whose name is, or matches, the pattern; nothing where none does."""
    measured = dict.fromkeys(one.site for one in subject.measurements)
    names = [name for name in measured if name == pattern or fnmatchcase(name, pattern)]
    for name in names[:_SITES]:
        _site(console, report, subject, name)
    if len(names) > _SITES:
        console.print(Text(f"+{len(names) - _SITES:,} more sites match {plain(pattern)}", style="dim"))
    if not names:
        console.print(
            Text(f"--detail {plain(pattern)}: nothing was measured there{_instead(measured)}", style="yellow")
        )
    console.print()


def _instead(measured: Iterable[str]) -> str:
    names = [plain(name) for name in measured]
    more = f", and {len(names) - _SITES:,} more" if len(names) > _SITES else ""
    return f"; sites with numbers: {', '.join(names[:_SITES])}{more}" if names else ""


def _site(console: Console, report: Report, subject: Subject, name: str) -> None:
    site = next((one for one in subject.sites if one.name == name), None)
    facts = []
    if site is not None:
        facts = ["×".join(map(str, site.shape)), site.dtype, str(site.role)]
        facts += [] if site.layer is None else [f"layer {site.layer}"]
    console.print(Text.assemble((plain(name), "bold"), "   " + " · ".join(fact for fact in facts if fact)))
    manuals = {manual.name: manual for manual in report.manuals}
    mine = [one for one in subject.measurements if one.site == name]
    for analyzer in dict.fromkeys(one.analyzer for one in mine):
        group = [one for one in mine if one.analyzer == analyzer]
        manual = manuals.get(analyzer)
        console.print(Padding(Group(*_analyzer(manual, group, subject, console.width - 4)), (0, 0, 0, 2)))
    console.print()


def _analyzer(
    manual: Manual | None, group: Sequence[Measurement], subject: Subject, width: int
) -> Iterator[RenderableType]:
    title = manual.title if manual else group[0].analyzer
    yield Text.assemble((plain(title), "bold"), (f"   {plain(group[0].analyzer)}", "dim"))
    grid = Table.grid(padding=(0, 2))
    for justify in ("left", "right", "left", "left"):
        grid.add_column(justify=justify, overflow="fold")
    severities = {(f.measurement.rule, f.measurement.site): f.severity for f in findings_by_severity(subject)}
    for one in group:
        severity = severities.get((one.rule, one.site))
        shape, style = SHAPES[severity] if severity is not None else (" ", "")
        metric = _metric(manual, one.metric)
        unit = "" if metric is None or metric.unit == "1" else f" {metric.unit}"
        null = "" if one.null is None else f"null {number(one.null)}"
        bounds = "" if metric is None else _limits(metric)
        grid.add_row(Text(f"{shape} {plain(one.metric)}", style=style), Text(number(one.value) + unit), null, bounds)
    yield grid
    for one in group:
        yield from _curves(one.evidence, width)


def _metric(manual: Manual | None, name: str) -> Metric | None:
    return next((one for one in manual.metrics if one.name == name), None) if manual else None


def _limits(metric: Metric) -> str:
    said = [
        f"{word} {limit_words(limit).removeprefix('limit ')}"
        for word, limit in (("error", metric.error), ("warning", metric.warn))
        if limit is not None
    ]
    return ", ".join(said)


def _curves(evidence: Mapping[str, Any], width: int) -> Iterator[RenderableType]:
    """The curves in the evidence of one measurement: a spectrum on two logarithmic axes, others as a spark line."""
    for name, curve in evidence.items():
        if not isinstance(curve, Mapping):
            continue
        columns = {key: value for key, value in curve.items() if _is_series(value)}
        if {"rank", "value"} <= columns.keys():
            edge = columns.get("null_edge", ())
            yield Text(f"{plain(name)}, both axes logarithmic" + (f"; ─ null edge {number(edge[0])}" if edge else ""))
            lines = plot(columns["rank"], columns["value"], edge=edge[0] if edge else None, width=min(width, _WIDTH))
            yield Text("\n".join(lines), no_wrap=True)
        elif "value" in columns and len(columns["value"]) > 1:
            values = columns["value"]
            ends = f"{number(values[0])} → {number(values[-1])}"
            yield Text(f"{plain(name)}  {spark(values, width=min(width, 48))}  {ends}")


def _is_series(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(one, int | float) for one in value)


def plot(
    x: Sequence[float], y: Sequence[float], *, edge: float | None = None, width: int = _WIDTH, height: int = _HEIGHT
) -> list[str]:
    """Points on two logarithmic axes as lines of braille characters, with the ends of the axes in numbers.

    Points that are not positive have no logarithm and are left out. `edge` is drawn as a line where it is in range.
    """
    points = [(math.log10(a), math.log10(b)) for a, b in zip(x, y, strict=True) if a > 0 and b > 0]
    if not points:
        return ["(no positive value)"]
    left, right = min(a for a, _ in points), max(a for a, _ in points)
    low, high = min(b for _, b in points), max(b for _, b in points)
    labels = [f"{number(10**high)}", f"{number(10**low)}"]
    margin = max(map(len, labels))
    columns = max(8, width - margin - 2)
    cells = [[0] * columns for _ in range(height)]
    for a, b in points:
        across = round((a - left) / ((right - left) or 1.0) * (2 * columns - 1))
        down = round((high - b) / ((high - low) or 1.0) * (4 * height - 1))
        cells[down // 4][across // 2] |= _DOTS[across % 2][down % 4]
    at = math.log10(edge) if edge is not None and edge > 0 else None
    row = round((high - at) / ((high - low) or 1.0) * (height - 1)) if at is not None and low <= at <= high else None
    lines = []
    for place, cell in enumerate(cells):
        label = labels[0] if place == 0 else labels[1] if place == height - 1 else ""
        blank = "─" if place == row else " "
        drawn = "".join(chr(0x2800 + dots) if dots else blank for dots in cell)
        lines.append(f"{label:>{margin}} │{drawn}".rstrip())
    first, last = number(10**left), number(10**right)
    lines.append(f"{'':>{margin}} └{'─' * columns}")
    lines.append(f"{'':>{margin}}  {first}{last:>{max(1, columns - len(first))}}")
    return lines
