"""Reports of an earlier batch: which of them still hold, and what they say under the policy of today."""

from dataclasses import replace
from pathlib import Path
from typing import Final

from collapse_cli._version import __version__
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import SCHEMA_VERSION, PolicyRecord, Report, Subject
from collapse_cli.decision import REMARK, Measured, decide
from collapse_cli.errors import InputError, TimedOut
from collapse_cli.runs import Assembly
from collapse_cli.stored import read_report

__all__ = ["is_current", "rejudged", "stored"]

_TIMEOUT: Final = "timeout="


def stored(file: Path) -> Report | None:
    """The report in a file; None where there is none that can be read, which costs a measurement and nothing else."""
    try:
        return read_report(file)
    except InputError:
        return None


def is_current(report: Report, identity: str, begun: Assembly, policy: Policy) -> bool:
    """Whether a measurement made now could say anything else of the same bytes. Limits are not asked: they judge."""
    if len(report.subjects) != 1:
        return False
    (subject,), was = report.subjects, report.provenance
    return (
        subject.id == identity
        and subject.digest is not None
        and (report.tool.version, report.schema_version) == (__version__, SCHEMA_VERSION)
        and (was.analyzers, was.plugins) == (begun.names, begun.available.plugins)
        and (was.intent, was.seed) == (policy.intent, begun.options.seed)
        and _settings(was.settings, subject) == _settings(begun.options.settings, subject)
    )


def _settings(words: tuple[str, ...], subject: Subject) -> tuple[str, ...]:
    """The settings that concern a subject: the seconds it had do not, unless they were too few."""
    is_late = any(failure.error == TimedOut.__name__ for failure in subject.failures)
    is_late |= any(skip.reason.startswith("not reached") for skip in subject.skips)
    return tuple(word for word in words if is_late or not word.startswith(_TIMEOUT))


def rejudged(report: Report, path: Path, begun: Assembly, policy: Policy) -> Report:
    """The report under the policy of now: findings and verdict anew, measurements as they are."""
    (subject,) = report.subjects
    there = replace(subject, path=path.as_posix())
    decided = decide([Measured((there,), begun.manuals, begun.names)], policy)
    said = [one for one in report.provenance.notices if not one.startswith(REMARK)]
    provenance = replace(
        report.provenance,
        policy=PolicyRecord(policy.file, policy.digest),
        notices=(*said, *(REMARK + remark for remark in decided.remarks)),
    )
    return replace(
        report,
        manuals=begun.manuals,
        provenance=provenance,
        subjects=decided.subjects,
        verdict=decided.verdict,
        exit_code=decided.exit_code,
    )
