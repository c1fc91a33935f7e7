"""One line a finding, skip and failure: what a log, an editor or `grep` reads."""

from collections.abc import Iterator

from collapse_cli.core.report import Report, Subject
from collapse_cli.core.text import plain
from collapse_cli.render.look import Look
from collapse_cli.render.verdict import findings_by_severity, number, number_of, outcome_words, verdict_line

__all__ = ["render"]


def render(report: Report, look: Look) -> str:
    """Full width, full names, no truncation, no colour; the verdict closes it."""
    lines = [line for subject in report.subjects for line in _lines(subject, look)]
    if not look.is_quiet or not lines:
        lines.append(verdict_line(report))
    return "\n".join(plain(line) for line in lines) + "\n"


def _lines(subject: Subject, look: Look) -> Iterator[str]:
    for finding in findings_by_severity(subject):
        measured = finding.measurement
        yield (
            f"{subject.id}: {measured.site}: {finding.severity}: {measured.rule} "
            f"{number_of(measured, finding.limit)}: {finding.message}"
        )
    if look.show_all:
        for measured in subject.measurements:
            null = "" if measured.null is None else f" (null {number(measured.null)})"
            yield f"{subject.id}: {measured.site}: measured: {measured.rule} {number(measured.value)}{null}"
    for failed in subject.failures:
        where = "".join(f"{part}: " for part in (failed.site, "failed", failed.analyzer) if part)
        yield f"{subject.id}: {where}{failed.error}: {failed.message}"
    if not look.is_quiet:
        for skip in subject.skips:
            where = "".join(f"{part}: " for part in (skip.site, "skipped", skip.analyzer) if part)
            yield f"{subject.id}: {where}{skip.reason}"
        yield f"{subject.id}: {outcome_words(subject)}"
