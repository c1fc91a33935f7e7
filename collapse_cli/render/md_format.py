"""Markdown: verdict, findings, coverage, for a pull request or a job summary."""

from collections.abc import Iterator

from collapse_cli.core.report import Report, Subject
from collapse_cli.core.text import plain, tail
from collapse_cli.render.diagnoses import Group, by_rule, follow_words, groups_of, kinds_words, worst_words
from collapse_cli.render.look import Look
from collapse_cli.render.verdict import (
    coverage_words,
    findings_by_severity,
    number_of,
    outcome_words,
    suppressed_findings,
    suppression_words,
    verdict_line,
)

__all__ = ["bounded", "code", "escaped", "render"]

#: A GitHub step summary over 1,024 KiB is dropped whole; this leaves room for what others write into it.
_BUDGET = 900_000
#: Escaped text stands inside a table, a heading or a list item, never at the beginning of a line.
_SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*_[]<>|~&@$"})
#: A longer name is shown by its end.
_LONGEST_NAME = 300


def render(report: Report, look: Look) -> str:
    """Verdict, a table of subjects, then per subject its findings and what was not analysed; at most 900 kB."""
    lines = [f"## collapse: {escaped(verdict_line(report))}", ""]
    lines += ["| subject | status | errors | warnings | coverage |", "|---|---|---:|---:|---|"]
    lines += [_row(subject) for subject in report.subjects]
    lines.append("")
    for subject in report.subjects:
        lines += _details(subject, look)
    return bounded(lines, _BUDGET)


def escaped(text: str) -> str:
    """The text with nothing in it that Markdown or HTML would act on."""
    return plain(text).translate(_SPECIAL)


def code(text: str) -> str:
    """The text as inline code that cannot be closed from inside, safe in a table."""
    return "`" + (tail(text, _LONGEST_NAME).replace("`", "'").replace("|", "\\|") or " ") + "`"


def _row(subject: Subject) -> str:
    counts = [finding.severity.value for finding in findings_by_severity(subject)]
    coverage = outcome_words(subject) if subject.status in ("failed", "empty") else coverage_words(subject)
    return (
        f"| {code(subject.id)} | {subject.status} | {counts.count('error')} | {counts.count('warning')} "
        f"| {'; '.join(escaped(words) for words in (coverage, kinds_words(subject)) if words)} |"
    )


def _details(subject: Subject, look: Look) -> Iterator[str]:
    hidden = suppressed_findings(subject) if look.show_suppressed else []
    if not (
        findings_by_severity(subject)
        or hidden
        or subject.failures
        or any(skip.analyzer is None for skip in subject.skips)
    ):
        return
    yield f"### {code(subject.id)}"
    yield ""
    for group in groups_of(subject):
        yield from _group(group, look)
    for finding in hidden:
        measured = finding.measurement
        value = escaped(number_of(measured, finding.limit))
        words = f"{finding.severity} {code(measured.rule)} {code(measured.site)} {value}"
        yield f"- suppressed: {words} ({escaped(suppression_words(finding))})"
    for failed in subject.failures:
        where = "".join(f"{code(part)} " for part in (failed.analyzer, failed.site) if part)
        yield f"- failed: {where}{escaped(f'{failed.error}: {failed.message}')}"
    for skip in subject.skips:
        if skip.analyzer is None:
            yield f"- not read: {code(skip.site or '')} {escaped(skip.reason)}"
    reasons: dict[str, int] = {}
    for skip in subject.skips:
        if skip.analyzer is not None:
            reasons[skip.reason] = reasons.get(skip.reason, 0) + 1
    if reasons:
        listed = "; ".join(f"{escaped(reason)} ({count})" for reason, count in sorted(reasons.items()))
        yield f"- {len(subject.skips)} skipped: {listed}"
    yield ""


def _group(group: Group, look: Look) -> Iterator[str]:
    """A diagnosis: its primary finding at every site and what to try, then a line a rule that follows."""
    if group.diagnosis is not None:
        words = ", ".join(word for word in (code(group.diagnosis.kind), follow_words(group)) if word)
        yield f"#### {group.severity}: {escaped(group.diagnosis.title)} ({words})"
        yield ""
    # asked for in so many words, what follows is shown like what it follows from
    shown = group.findings if look.show_all else group.first
    yield "| severity | tensor | rule | value | what it means |"
    yield "|---|---|---|---|---|"
    for finding in shown:
        measured = finding.measurement
        yield (
            f"| {finding.severity} | {code(measured.site)} | {code(measured.rule)} "
            f"| {escaped(number_of(measured, finding.limit))} | {escaped(finding.message)} |"
        )
    yield ""
    for analyzer, remedy in {finding.measurement.analyzer: finding.remedy for finding in shown}.items():
        yield f"- **{analyzer}**: {escaped(remedy)}"
    for (severity, rule), found in by_rule(() if look.show_all else group.follows).items():
        where, value = worst_words(found, code)
        yield f"- also {severity}: {code(rule)}, {where} {escaped(value)}"
    yield ""


def bounded(lines: list[str], budget: int) -> str:
    """The lines as one text, as many as the budget of bytes takes; if not all, the last says how many are left out."""
    size = 0
    for index, line in enumerate(lines):
        size += len(line.encode("utf-8", "surrogatepass")) + 1
        if size > budget:
            return (
                "\n".join([*lines[:index], "", f"+{len(lines) - index:,} more lines: the JSON report has them all"])
                + "\n"
            )
    return "\n".join(lines).rstrip("\n") + "\n"
