"""The end of a command that judges: the report goes where it was asked for, and an empty one says why."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from collapse_cli.cli.messages import say, say_error
from collapse_cli.cli.output import Destinations, deliver

if TYPE_CHECKING:
    from collapse_cli.core.report import Report

__all__ = ["answer"]


def answer(report: "Report", to: Destinations, paths: Sequence[str], *, has_policy: bool, record: bool = False) -> int:
    """Deliver, keep in the history if asked to, and return the exit code.

    Where something could be suppressed, how much was is said even if nothing.

    Raises:
        InputError: the history cannot be written; the report is delivered.
    """
    from collapse_cli.render.verdict import has_suppressed

    deliver(report, to)
    if has_policy and not (to.is_quiet or has_suppressed(report)):
        say("0 suppressed (0 baseline, 0 accepted)")
    if report.verdict.outcome == "empty":
        say_error(f"nothing was analysed: {_reason(report, paths)}")
    if record:
        from collapse_cli.history import History, store_path

        with History(store_path()) as history:
            history.record(report)
    return report.exit_code


def _reason(report: "Report", paths: Sequence[str]) -> str:
    from collapse_cli.cli.subjects import files_looked_at
    from collapse_cli.render.verdict import counted, noun

    if not report.subjects:
        return files_looked_at(paths)
    tensors = sum(subject.coverage.sites for subject in report.subjects)
    names = ", ".join(report.provenance.analyzers[:3]) + ("…" if len(report.provenance.analyzers) > 3 else "")
    where = report.subjects[0].id if len(report.subjects) == 1 else counted(len(report.subjects), "subject")
    held = counted(tensors, noun(report.subjects[0]))
    if any(subject.coverage.wanted for subject in report.subjects):
        return f"{where} has {held}, and every analyzer skipped what it could take; the skips say why"
    return f"{where} has {held}, none of which an analyzer accepts ({names or 'none selected'})"
