"""One line a finding, skip and failure: what a log, an editor or `grep` reads."""

from collections.abc import Iterator

from collapse_cli.core.report import Report, Skip, Subject
from collapse_cli.core.text import plain
from collapse_cli.render.diagnoses import groups_of
from collapse_cli.render.look import Look
from collapse_cli.render.verdict import (
    counted,
    has_suppressed,
    number,
    number_of,
    outcome_words,
    suppressed_findings,
    suppression_words,
    verdict_line,
)

__all__ = ["render"]


def render(report: Report, look: Look) -> str:
    """Full width, full names, no truncation, no colour; the verdict closes it, a quiet pass says nothing.

    The primary finding of a diagnosis comes first; every other line of it ends with what it follows from.
    """
    lines = [line for subject in report.subjects for line in _lines(subject, look)]
    if not look.is_quiet or report.verdict.outcome != "pass" or has_suppressed(report):
        lines.append(verdict_line(report))
    return "".join(plain(line) + "\n" for line in lines)


def _lines(subject: Subject, look: Look) -> Iterator[str]:
    groups = groups_of(subject)
    for group in groups:
        for finding in group.findings:
            measured, relation = finding.measurement, group.relation(finding)
            yield (
                f"{subject.id}: {measured.site}: {finding.severity}: {measured.rule} "
                f"{number_of(measured, finding.limit)}: {finding.message}{f' ({relation})' if relation else ''}"
            )
    for finding in suppressed_findings(subject) if look.show_suppressed else ():
        measured = finding.measurement
        yield (
            f"{subject.id}: {measured.site}: suppressed {finding.severity}: {measured.rule} "
            f"{number_of(measured, finding.limit)}: {finding.message} ({suppression_words(finding)})"
        )
    if look.show_all:
        for measured in subject.measurements:
            null = "" if measured.null is None else f" (null {number(measured.null)})"
            yield f"{subject.id}: {measured.site}: measured: {measured.rule} {number(measured.value)}{null}"
    # a tensor that could not be read makes the subject partial; a stated non-application does not
    unapplied = [skip for skip in subject.skips if _is_unapplied(skip) and not look.show_all]
    for skip in subject.skips:
        if skip.analyzer is None or not (look.is_quiet or skip in unapplied):
            yield f"{subject.id}: {_where(skip.site, 'skipped', skip.analyzer)}{skip.reason}"
    if unapplied and not look.is_quiet:
        yield f"{subject.id}: skipped: {counted(len(unapplied), 'analyzer')} with nothing to accept (--all names them)"
    for failed in subject.failures:
        yield f"{subject.id}: {_where(failed.site, 'failed', failed.analyzer)}{failed.error}: {failed.message}"
    if not look.is_quiet:
        kinds = [group.diagnosis.kind for group in groups if group.diagnosis is not None]
        yield f"{subject.id}: {outcome_words(subject)}{'; diagnosed: ' if kinds else ''}{', '.join(kinds)}"


def _is_unapplied(skip: Skip) -> bool:
    """Whether an analyzer found nothing in the whole subject that it takes: most do, in any file."""
    return skip.analyzer is not None and skip.site is None and skip.reason.startswith("nothing to accept")


def _where(*parts: str | None) -> str:
    return "".join(f"{part}: " for part in parts if part)
