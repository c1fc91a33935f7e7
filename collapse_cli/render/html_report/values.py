"""Every measurement: a table an analyzer, sites by metrics."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from collapse_cli.core.manual import Manual
from collapse_cli.core.metric import Limit, Measurement, Metric
from collapse_cli.core.report import Subject
from collapse_cli.render.html_report.coverage import is_judged
from collapse_cli.render.html_report.places import Places
from collapse_cli.render.verdict import limit_words, number

__all__ = ["Cell", "Column", "ValueRow", "ValueTable", "value_tables"]

_DIGITS = 4
#: The measurements of one analyzer, by site and metric.
_Sites = dict[str, dict[str, Measurement]]


@final
@dataclass(frozen=True, slots=True)
class Cell:
    """A value with four significant digits, its null where nulls differ, and the severity of its finding."""

    value: str
    null: str = ""
    mark: str = ""


@final
@dataclass(frozen=True, slots=True)
class Column:
    """A metric, its null where that is one number, and its limits in words."""

    name: str
    unit: str
    says: str
    better: str
    chance: str
    null: str
    has_nulls: bool
    limits: tuple[tuple[str, str, str], ...]
    is_judged: bool


@final
@dataclass(frozen=True, slots=True)
class ValueRow:
    """One site."""

    site: str
    layer: int | None
    cells: tuple[Cell | None, ...]


@final
@dataclass(frozen=True, slots=True)
class ValueTable:
    """The measurements of one analyzer; `left_out` sites are in the JSON report only."""

    manual: Manual
    columns: tuple[Column, ...]
    rows: tuple[ValueRow, ...]
    left_out: int
    findings: int

    @property
    def has_layers(self) -> bool:
        """Whether a row lies in the stack of layers."""
        return any(row.layer is not None for row in self.rows)


def value_tables(
    subject: Subject, manuals: Sequence[Manual], places: Places, *, intent: str | None, room: int
) -> list[ValueTable]:
    """The tables, at most `room` values in all: analyzers with findings are served first."""
    taken: dict[str, _Sites] = {}
    for measured in subject.measurements:
        taken.setdefault(measured.analyzer, {}).setdefault(measured.site, {})[measured.metric] = measured
    found = Counter(finding.measurement.analyzer for finding in places.findings.values())
    shown: dict[str, int] = {}
    for name in sorted(taken, key=lambda name: not found[name]):
        shown[name] = 0
        for values in taken[name].values():
            room -= len(values)
            shown[name] += room >= 0
    known = [manual for manual in manuals if manual.name in taken]
    return [_table(manual, taken[manual.name], places, intent=intent, most=shown[manual.name]) for manual in known]


def _table(manual: Manual, sites: _Sites, places: Places, *, intent: str | None, most: int) -> ValueTable:
    taken = {metric for values in sites.values() for metric in values}
    columns = [_column(metric, list(sites.values()), intent) for metric in manual.metrics if metric.name in taken]
    rules = {metric: f"{manual.name}/{metric}" for metric in taken}

    def findings(site: str) -> int:
        return sum((rules[metric], site) in places.findings for metric in sites[site])

    # what was found stays in the table when there is no room for all
    kept = set(sorted(sites, key=lambda site: not findings(site))[:most])
    rows = tuple(
        ValueRow(site, places.layer(site), tuple(_cell(values, column, manual.name, places) for column in columns))
        for site, values in sites.items()
        if site in kept
    )
    return ValueTable(manual, tuple(columns), rows, len(sites) - len(rows), sum(map(findings, sites)))


def _column(metric: Metric, sites: Sequence[dict[str, Measurement]], intent: str | None) -> Column:
    nulls = [values[metric.name].null for values in sites if metric.name in values]
    words = {number(null, _DIGITS) for null in nulls if null is not None}
    is_one = len(words) == 1 and None not in nulls
    limits = tuple(
        (word, _limit(limit), limit.source)
        for word, limit in (("warning", metric.warn), ("error", metric.error))
        if limit
    )
    return Column(
        metric.name,
        "" if metric.unit == "1" else metric.unit,
        metric.says,
        f"{metric.better} is better" if metric.better else "",
        metric.null or "",
        next(iter(words)) if is_one else "",
        bool(words) and not is_one,
        limits,
        is_judged(metric, intent),
    )


def _limit(limit: Limit) -> str:
    intent = f" with intent {' or '.join(sorted(limit.intent))}" if limit.intent else ""
    return f"{limit_words(limit).removeprefix('limit ')}{intent}"


def _cell(values: dict[str, Measurement], column: Column, analyzer: str, places: Places) -> Cell | None:
    one = values.get(column.name)
    if one is None:
        return None
    null = "" if one.null is None or not column.has_nulls else number(one.null, _DIGITS)
    return Cell(number(one.value, _DIGITS), null, places.mark(f"{analyzer}/{column.name}", one.site))
