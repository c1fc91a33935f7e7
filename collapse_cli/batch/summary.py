"""The summary of a batch: all subjects in one report, the worst first, and an index of their pages."""

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from collapse_cli.batch.results import SUMMARY, report_file
from collapse_cli.core.report import Report, Subject, to_json
from collapse_cli.render import RENDERERS, Look
from collapse_cli.render.diagnoses import kinds_words
from collapse_cli.render.html_format import IndexRow, index
from collapse_cli.whole_file import write_whole

__all__ = ["index_row", "ranked", "write_summary"]


def ranked(subject: Subject) -> tuple[bool, int, int, bool, str]:
    """What subjects are sorted by: failed first, then most errors, most warnings, partial, then by id."""
    counts = _counts(subject)
    return (
        subject.status != "failed",
        -counts["error"],
        -counts["warning"],
        subject.status != "partial",
        subject.id,
    )


def _counts(subject: Subject) -> dict[str, int]:
    active = [finding.severity.value for finding in subject.findings if finding.suppressed is None]
    return {word: active.count(word) for word in ("error", "warning")}


def index_row(report: Report) -> IndexRow:
    """The report of one subject as a row of the index."""
    (subject,) = report.subjects
    counts = _counts(subject)
    return IndexRow(
        subject=subject.id,
        link=quote(report_file(subject.id).with_suffix(".html").as_posix()),
        outcome=report.verdict.outcome,
        errors=counts["error"],
        warnings=counts["warning"],
        failures=len(subject.failures),
        status=subject.status,
        bytes=subject.bytes,
        seconds=report.provenance.seconds,
        diagnosis=kinds_words(subject),
    )


def write_summary(results: Path, report: Report, rows: Sequence[IndexRow], *, title: str) -> None:
    """`summary.csv`, `summary.html` and, last, `summary.json`.

    Raises:
        BadPolicy: the folder does not take them.
    """
    file = results / SUMMARY
    write_whole(file.with_suffix(".csv"), RENDERERS["csv"](report, Look()))
    write_whole(file.with_suffix(".html"), index(rows, title=title))
    write_whole(file, to_json(report))
