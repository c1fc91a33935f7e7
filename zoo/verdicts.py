"""What the tool says of every model: judged by the limits as they stand, with and without the intent of its kind."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import final

from collapse_cli.analyzers import catalogue
from collapse_cli.core.finding import Finding, Severity
from collapse_cli.core.manual import Manual
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import Subject
from collapse_cli.decision import Measured, decide
from zoo.build import Built
from zoo.case import Case, Truth, View
from zoo.kinds import kinds
from zoo.measure import measured

__all__ = ["Row", "manuals", "rows"]


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One view of one model: what it is, and what was found.

    `severity` is that of the worst finding by the named family, `alarm` of the worst finding by anyone, under the
    kind's intent or without one; `primary` and `kind` are the first diagnosis.
    """

    case: Case
    view: str
    truth: Truth
    subject: Subject
    severity: Severity | None
    alarm: Severity | None
    alarms: tuple[str, ...]
    primary: str | None
    kind: str | None

    @property
    def is_detected(self) -> bool:
        """Whether the named family warns at least."""
        return self.severity is not None and self.severity.rank >= Severity.WARNING.rank


def manuals() -> tuple[Manual, ...]:
    """Those of all built-in analyzers."""
    return tuple(analyzer.manual for analyzer in catalogue(plugins=False).analyzers)


def rows(built: Iterable[Built]) -> Iterator[Row]:
    """Every view of every model that could be built."""
    known = manuals()
    for one in built:
        if one.folder is None or one.truth is None:
            continue
        kind = kinds()[one.case.kind]
        for name, view in kind.views.items():
            yield _row(one, name, view, measured(one.folder, name, view), known)


def _row(one: Built, name: str, view: View, subject: Subject, known: tuple[Manual, ...]) -> Row:
    assert one.truth is not None  # noqa: S101
    with_intent = _judged(subject, known, view.intent)
    plain = _judged(subject, known, None) if view.intent else with_intent
    by_family = [f for f in with_intent.findings if any(fnmatchcase(f.measurement.rule, sign) for sign in view.signs)]
    everything = [f for judged in (with_intent, plain) for f in judged.findings if f.severity is not Severity.INFO]
    first = with_intent.diagnoses[0] if with_intent.diagnoses else None
    primary = with_intent.finding(first.primary) if first else None
    return Row(
        case=one.case,
        view=name,
        truth=one.truth,
        subject=subject,
        severity=_worst(by_family),
        alarm=_worst(everything),
        alarms=tuple(sorted({f"{f.severity}: {f.measurement.rule}" for f in everything})),
        primary=primary.measurement.rule if primary else None,
        kind=first.kind if first else None,
    )


def _judged(subject: Subject, known: tuple[Manual, ...], intent: str | None) -> Subject:
    names = tuple(manual.name for manual in known)
    return decide([Measured((subject,), known, names)], Policy(intent=intent)).subjects[0]


def _worst(findings: Iterable[Finding]) -> Severity | None:
    return max((finding.severity for finding in findings), key=lambda severity: severity.rank, default=None)
