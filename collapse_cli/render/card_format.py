"""A section for a model card: the verdict, the key metrics, and of which bytes and by which version it was said."""

from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final

from collapse_cli.core.manual import Manual
from collapse_cli.core.metric import Measurement, Metric
from collapse_cli.core.report import Report, Subject
from collapse_cli.core.text import tail
from collapse_cli.render.diagnoses import Group, follow_words, groups_of
from collapse_cli.render.look import Look
from collapse_cli.render.md_format import bounded, code, escaped
from collapse_cli.render.ranking import comparable, worst_sites
from collapse_cli.render.verdict import (
    counted,
    coverage_words,
    number,
    number_of,
    outcome_words,
    suppressed_findings,
    suppression_words,
    verdict_line,
)

__all__ = ["render"]

#: A card is read, and a comment on GitHub holds 65,536 characters.
_BUDGET: Final = 60_000
#: Findings, metrics and subjects in full; the rest is counted.
_FINDINGS, _METRICS, _SUBJECTS = 50, 40, 20
#: Rules named in the row of a diagnosis.
_RULES: Final = 8
_LONGEST_NAME: Final = 1_000


def render(report: Report, look: Look) -> str:
    """Short Markdown that begins with a heading of its own and fits into a model card or a comment."""
    when = f" on {report.provenance.started[:10]}" if report.provenance.started else ""
    tool = escaped(f"{report.tool.name} {report.tool.version}")
    lines = [
        "## Collapse check",
        "",
        f"**{escaped(verdict_line(report))}**",
        "",
        f"Measured{escaped(when)} with {tool}.",
        "",
    ]
    for subject in report.subjects[:_SUBJECTS]:
        lines += _section(report, subject, look, is_alone=len(report.subjects) == 1)
    lines += _more(len(report.subjects) - _SUBJECTS, "subject")
    return bounded(list(_without_double_blanks(lines)), _BUDGET)


def _section(report: Report, subject: Subject, look: Look, *, is_alone: bool) -> Iterator[str]:
    if not is_alone:
        yield f"### {code(subject.id)}"
        yield ""
    yield "| | |"
    yield "|---|---|"
    for name, value in _facts(report, subject):
        yield f"| {name} | {value} |"
    yield ""
    yield from _findings(subject, look)
    yield from _metrics(report, subject)
    yield from _unanalysed(subject)
    yield ""


def _facts(report: Report, subject: Subject) -> Iterator[tuple[str, str]]:
    yield subject.kind, f"{code(subject.id)}, {escaped(subject.format)}, {subject.bytes:,} bytes"
    if subject.digest:
        yield "digest", code(subject.digest)
    for part in subject.parts:
        yield "of", " ".join(code(word) for word in (part.id, part.digest) if word)
    words = outcome_words(subject) if subject.status in ("failed", "empty") else coverage_words(subject)
    yield "coverage", f"{subject.status}: {escaped(words)}"
    if report.provenance.intent:
        yield "intent", code(report.provenance.intent)


def _findings(subject: Subject, look: Look) -> Iterator[str]:
    groups = groups_of(subject)
    yield from _diagnoses([group for group in groups if group.diagnosis is not None])
    findings = [finding for group in groups if group.diagnosis is None for finding in group.findings]
    if findings:
        yield "| finding | at | rule | value |"
        yield "|---|---|---|---|"
    for finding in findings[:_FINDINGS]:
        one = finding.measurement
        yield f"| {finding.severity} | {code(one.site)} | {code(one.rule)} | {escaped(number_of(one, finding.limit))} |"
    if findings:
        yield ""
    yield from _more(len(findings) - _FINDINGS, "finding")
    hidden = suppressed_findings(subject) if look.show_suppressed else []
    for finding in hidden[:_FINDINGS]:
        one = finding.measurement
        words = f"{code(one.site)} {code(one.rule)} {escaped(number_of(one, finding.limit))}"
        yield f"- suppressed: {words} ({escaped(suppression_words(finding))})"
    yield from _more(len(hidden) - _FINDINGS, "suppressed finding")
    yield ""


def _diagnoses(groups: Sequence[Group]) -> Iterator[str]:
    """A row a diagnosis: the rule that names it, where it is worst, and the rules of what follows."""
    if groups:
        yield "| diagnosis | severity | at | rule | value | also |"
        yield "|---|---|---|---|---|---|"
    for group in groups[:_FINDINGS]:
        worst = worst_sites(group.first)[0]
        one, more = worst.measurement, len(group.first) - 1
        where = code(one.site) + (f" and {counted(more, 'more site')}" if more else "")
        title = escaped(group.diagnosis.title if group.diagnosis else "")
        value = escaped(number_of(one, worst.limit))
        yield f"| {title} | {group.severity} | {where} | {code(one.rule)} | {value} | {_also(group)} |"
    if groups:
        yield ""
    yield from _more(len(groups) - _FINDINGS, "diagnosis")


def _also(group: Group) -> str:
    counts = Counter(finding.measurement.rule for finding in group.follows)
    rules = [f"{code(rule)} × {count}" if count > 1 else code(rule) for rule, count in counts.items()]
    more = [f"+{len(rules) - _RULES} more"] if len(rules) > _RULES else []
    return ": ".join(words for words in (follow_words(group), ", ".join([*rules[:_RULES], *more])) if words)


def _metrics(report: Report, subject: Subject) -> Iterator[str]:
    """The first metric of every established analyzer: its worst value, where, and what is usual in this model."""
    rows = [row for manual in report.manuals if (row := _row(manual, subject))]
    if rows:
        yield "| key metric | worst | at | median | by chance | sites |"
        yield "|---|---:|---|---:|---:|---:|"
        yield from rows[:_METRICS]
        yield ""
    yield from _more(len(rows) - _METRICS, "metric")


def _row(manual: Manual, subject: Subject) -> str | None:
    for metric in manual.metrics if manual.confidence == "established" else ():
        found = [one for one in subject.measurements if (one.analyzer, one.metric) == (manual.name, metric.name)]
        if found:
            worst = _worst(metric, found)
            null = "" if worst.null is None else number(worst.null)
            middle = number(median(one.value for one in found))
            cells = (code(worst.rule), number(worst.value), code(worst.site), middle, null, f"{len(found):,}")
            return f"| {' | '.join(cells)} |"
    return None


def _worst(metric: Metric, found: Sequence[Measurement]) -> Measurement:
    """The lowest where higher is better, the one nearest to its limit's wrong side; without a direction the highest."""
    limit = metric.error or metric.warn
    is_low = metric.better == "higher" if metric.better else limit is not None and limit.side == "below"
    return (min if is_low else max)(found, key=lambda one: comparable(one, limit))


def _unanalysed(subject: Subject) -> Iterator[str]:
    lines = [
        f"- failed: {' '.join(code(word) for word in (one.analyzer, one.site) if word)} "
        f"{escaped(tail(f'{one.error}: {one.message}', _LONGEST_NAME))}"
        for one in subject.failures
    ]
    lines += [
        f"- not read: {code(one.site or '')} {escaped(tail(one.reason, _LONGEST_NAME))}"
        for one in subject.skips
        if one.analyzer is None
    ]
    yield from lines[:_FINDINGS]
    yield from _more(len(lines) - _FINDINGS, "line")


def _more(count: int, word: str) -> Iterator[str]:
    if count > 0:
        yield f"+{counted(count, f'more {word}')}: the JSON report has them all"


def _without_double_blanks(lines: Sequence[str]) -> Iterator[str]:
    for index, line in enumerate(lines):
        if line or (index and lines[index - 1]):
            yield line
