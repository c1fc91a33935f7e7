"""What was checked: every analyzer that measured something, and what was not analysed, with the reason."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from collapse_cli.core.manual import Manual
from collapse_cli.core.metric import Metric
from collapse_cli.core.report import Subject
from collapse_cli.render.verdict import counted, findings_by_severity

__all__ = ["Checked", "SkipRow", "checked", "checked_words", "is_judged", "skip_rows"]

#: Sites named under one reason.
_MOST_SITES = 40


@final
@dataclass(frozen=True, slots=True)
class Checked:
    """One analyzer at one subject: sites, values, metrics with a limit in force, findings."""

    manual: Manual
    sites: int
    values: int
    judged: tuple[str, ...]
    reported: tuple[str, ...]
    findings: int
    skipped: int
    failed: int


@final
@dataclass(frozen=True, slots=True)
class SkipRow:
    """One reason of one analyzer, and where it held; without an analyzer a tensor that could not be read."""

    analyzer: str
    reason: str
    count: int
    sites: tuple[str, ...]


def is_judged(metric: Metric, intent: str | None) -> bool:
    """Whether a limit of the metric is in force: one without an intent, or with the declared one."""
    return any(limit and (limit.intent is None or intent in limit.intent) for limit in (metric.warn, metric.error))


def checked(subject: Subject, manuals: Sequence[Manual], intent: str | None) -> list[Checked]:
    """The analyzers that measured, failed or found something, in the order of the manuals."""
    sites: dict[str, set[str]] = {}
    for measured in subject.measurements:
        sites.setdefault(measured.analyzer, set()).add(measured.site)
    values = Counter(measured.analyzer for measured in subject.measurements)
    found = Counter(finding.measurement.analyzer for finding in findings_by_severity(subject))
    skipped = Counter(skip.analyzer for skip in subject.skips)
    failed = Counter(failure.analyzer for failure in subject.failures)
    rows = []
    for manual in manuals:
        name = manual.name
        if not (values[name] or failed[name] or found[name]):
            continue
        taken = {measured.metric for measured in subject.measurements if measured.analyzer == name}
        metrics = [metric for metric in manual.metrics if metric.name in taken]
        judged = tuple(metric.name for metric in metrics if is_judged(metric, intent))
        reported = tuple(metric.name for metric in metrics if metric.name not in judged)
        at = len(sites.get(name, ()))
        rows.append(Checked(manual, at, values[name], judged, reported, found[name], skipped[name], failed[name]))
    return rows


def checked_words(rows: Sequence[Checked], subject: Subject) -> str:
    """What stands behind an empty list of findings."""
    if not subject.measurements:
        return "Nothing was measured here."
    judged = sum(len(row.judged) for row in rows)
    reported = sum(len(row.reported) for row in rows)
    analyzers = sum(1 for row in rows if row.values)
    return (
        f"{counted(analyzers, 'analyzer')} took {counted(len(subject.measurements), 'measurement')} of "
        f"{counted(judged + reported, 'metric')}. Metrics with a limit in force: {judged:,}; reported and "
        f"not judged: {reported:,}."
    )


def skip_rows(subject: Subject) -> list[SkipRow]:
    """Every reason once, those of tensors that could not be read first."""
    where: dict[tuple[str, str], list[str]] = {}
    for skip in sorted(subject.skips, key=lambda skip: skip.analyzer is not None):
        where.setdefault((skip.analyzer or "", skip.reason), []).append(skip.site or "")
    rows = []
    for (analyzer, reason), names in where.items():
        known = [name for name in names if name]
        rows.append(SkipRow(analyzer, reason, len(names), tuple(known[:_MOST_SITES])))
    return rows
