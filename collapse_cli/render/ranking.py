"""What a CI system is told, worst first: findings, and what could not be analysed, each with its repository path."""

import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import final

from collapse_cli.core.finding import Finding
from collapse_cli.core.metric import Limit, Measurement
from collapse_cli.core.report import Failure, Report, Skip, Subject
from collapse_cli.core.text import tail
from collapse_cli.render.verdict import number_of, outcome_words, suppression_words

__all__ = [
    "Unanalysed",
    "comparable",
    "finding_words",
    "ranked_suppressed",
    "repository_path",
    "unanalysed",
    "worst_sites",
]

#: A longer name is shown by its end: names of 64 kB exist, and consumers cut messages where they like.
_LONGEST_NAME = 1_000


@final
@dataclass(frozen=True, slots=True)
class Unanalysed:
    """A subject, tensor or analysis of which nothing is known: `what` names it, `is_failure` says that it was tried."""

    subject: Subject
    site: str | None
    analyzer: str | None
    error: str
    reason: str
    is_failure: bool

    @property
    def words(self) -> str:
        """`layers.1.weight: power-law failed: NotConverged: …`, harmless."""
        done = f"{self.analyzer} failed" if self.analyzer else "failed" if self.is_failure else "not analysed"
        parts = [tail(part, _LONGEST_NAME) for part in (self.site, done, self.error, self.reason) if part]
        return ": ".join(parts)


def ranked_suppressed(report: Report) -> list[tuple[Subject, Finding]]:
    """The findings that do not count, of all subjects, worst first."""
    hidden = [(one, finding) for one in report.subjects for finding in one.findings if finding.suppressed is not None]
    return sorted(hidden, key=lambda pair: -pair[1].severity.rank)


def worst_sites(findings: Iterable[Finding]) -> list[Finding]:
    """Findings of one rule, worst first: by severity, then by how far the value lies on the limit's wrong side."""

    def order(finding: Finding) -> tuple[int, float]:
        measured, limit = finding.measurement, finding.limit
        value = comparable(measured, limit)
        return -finding.severity.rank, value if limit.side == "below" else -value

    return sorted(findings, key=order)


def comparable(measured: Measurement, limit: Limit | None) -> float:
    """The number that a limit bounds, in six digits: what differs beyond these is rounding, and keeps its order."""
    is_relative = limit is not None and limit.of == "null" and measured.null
    return float(f"{measured.value / measured.null if is_relative and measured.null else measured.value:.6g}")


def unanalysed(report: Report) -> list[Unanalysed]:
    """What makes the report less than whole: first whole subjects, then tensors, then single analyses."""
    found = [one for subject in report.subjects for one in _unanalysed(subject)]
    return sorted(found, key=lambda one: (one.site is not None, one.analyzer is not None))


def _unanalysed(subject: Subject) -> Iterator[Unanalysed]:
    for failure in subject.failures:
        yield _tried(subject, failure)
    for skip in subject.skips:
        if skip.analyzer is None:
            yield _unread(subject, skip)
    if subject.status == "empty":
        yield Unanalysed(subject, None, None, "", outcome_words(subject), is_failure=False)


def _tried(subject: Subject, failure: Failure) -> Unanalysed:
    return Unanalysed(subject, failure.site, failure.analyzer, failure.error, failure.message, is_failure=True)


def _unread(subject: Subject, skip: Skip) -> Unanalysed:
    return Unanalysed(subject, skip.site, None, "", skip.reason, is_failure=False)


def finding_words(finding: Finding, place: str = "") -> str:
    """`layers.1.weight: 0.0166 < 0.05 (null 0.802): Uses 1.1 of 64 directions.`, harmless; last its place."""
    measured = finding.measurement
    text = f"{tail(measured.site, _LONGEST_NAME)}: {number_of(measured, finding.limit)}: {finding.message}"
    if finding.suppressed is not None:
        text += f" (suppressed: {suppression_words(finding)})"
    return tail(text, 4 * _LONGEST_NAME) + (f" ({tail(place, _LONGEST_NAME)})" if place else "")


def repository_path(subject: Subject) -> str:
    """The subject's path as the repository has it, of a comparison that of the newest side; never absolute or empty.

    An id is relative to the configuration file, hence nearer to the root of the repository than a path that was typed
    in a folder of it; an id that somebody made up does not end as the path does.
    """
    identity = subject.parts[-1].id if subject.parts else subject.id
    is_path = PurePosixPath(identity).name == PurePosixPath(subject.path).name
    path = posixpath.normpath(identity if is_path else subject.path or identity)
    while path.startswith(("/", "../")):
        path = path.lstrip("/").removeprefix("../")
    return path or "."
