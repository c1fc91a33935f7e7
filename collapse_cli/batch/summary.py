"""The summary of a batch: all subjects in one report, the worst first, and an index of their pages."""

from pathlib import Path

from collapse_cli.batch.results import SUMMARY
from collapse_cli.core.report import Report, Subject, to_json
from collapse_cli.render import RENDERERS, Look
from collapse_cli.whole_file import write_whole

__all__ = ["ranked", "write_summary"]


def ranked(subject: Subject) -> tuple[bool, int, int, bool, str]:
    """What subjects are sorted by: failed first, then most errors, most warnings, partial, then by id."""
    active = [finding.severity.value for finding in subject.findings if finding.suppressed is None]
    return (
        subject.status != "failed",
        -active.count("error"),
        -active.count("warning"),
        subject.status != "partial",
        subject.id,
    )


def write_summary(results: Path, report: Report) -> None:
    """`summary.csv`, `summary.html` and, last, `summary.json`.

    Raises:
        BadPolicy: the folder does not take them.
    """
    file = results / SUMMARY
    write_whole(file.with_suffix(".csv"), RENDERERS["csv"](report, Look()))
    write_whole(file, to_json(report))
