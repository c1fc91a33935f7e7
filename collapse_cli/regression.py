"""What got worse since an earlier report: every metric that has a direction, against its value in that release.

A metric's direction is its `better`; where it declares none, the side of its limit, unless that limit is bound to
another intent than the declared one. A value is worse when it moved the wrong way by more than the tolerance times the
old value's magnitude (by more than the tolerance itself where the old value is 0). Noise: where both measurements
state a `standard_error` in their evidence, the change must also exceed two standard errors of the difference,
2·√(s₁² + s₂²), about 95 % of a normal distribution; a metric in units of standard errors has s = 1 by construction.
Metrics without a stated error are compared as they are: a tolerance is then all that stands between noise and alarm.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

from collapse_cli.core.finding import Finding, Severity, fingerprint
from collapse_cli.core.manual import Manual
from collapse_cli.core.metric import Limit, Measurement, Metric
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import Report, Subject

__all__ = ["Release", "counterparts", "regressed", "remarks"]

#: Standard errors of the difference that a change must exceed: two-sided 95 % of a normal distribution, rounded up.
_STANDARD_ERRORS = 2.0
#: Unit of metrics that are already divided by their standard error.
_Z_UNIT = "standard errors"


@final
@dataclass(frozen=True, slots=True)
class Release:
    """An earlier report and the name under which it is spoken of."""

    name: str
    report: Report


def counterparts(subjects: Sequence[Subject], release: Release) -> dict[str, Subject]:
    """Subject id → the same subject in the release; two reports of one subject each are of the same model."""
    before = release.report.subjects
    if len(subjects) == 1 and len(before) == 1:
        return {subjects[0].id: before[0]}
    by_id = {subject.id: subject for subject in before}
    return {subject.id: by_id[subject.id] for subject in subjects if subject.id in by_id}


def regressed(subject: Subject, before: Subject, manuals: Iterable[Manual], policy: Policy, *, release: str) -> Subject:
    """The subject with a finding for every metric that got worse; a finding that is there already says so."""
    findings = {finding.fingerprint: finding for finding in subject.findings}
    for words, found in _regressions(subject, before, {manual.name: manual for manual in manuals}, policy, release):
        there = findings.get(found.fingerprint)
        if there is None:
            findings[found.fingerprint] = found
            continue
        severity = max(there.severity, found.severity, key=lambda one: one.rank)
        findings[found.fingerprint] = replace(there, severity=severity, message=f"{there.message} ({words})")
    return replace(subject, findings=tuple(sorted(findings.values(), key=lambda finding: -finding.severity.rank)))


def _regressions(
    subject: Subject, before: Subject, manuals: Mapping[str, Manual], policy: Policy, release: str
) -> Iterator[tuple[str, Finding]]:
    """What happened in words, and the finding it is where there is none yet."""
    old = {(one.rule, one.site): one for one in before.measurements}
    for now in subject.measurements:
        manual, was = manuals.get(now.analyzer), old.get((now.rule, now.site))
        tolerance = policy.comparison.tolerance_of(now.rule, now.site)
        if manual is None or was is None or tolerance is None:
            continue
        metric = manual.metric(now.metric)
        side = _wrong_side(metric, policy.intent)
        if side is None or not _is_worse(was, now, side, tolerance, is_z=metric.unit == _Z_UNIT):
            continue
        severity = Severity.WARNING if manual.confidence == "experimental" else Severity.ERROR
        limit = _limit(was.value, now.value, side, tolerance, release)
        words = f"regressed: {_words(was.value, now.value, release)}"
        message = f"{metric.says.rstrip('.')}: {words}."
        name = fingerprint(now.analyzer, now.metric, subject.id, now.site)
        yield words, Finding(severity, now, limit, message, manual.remedy, name)


def _limit(was: float, now: float, side: Literal["below", "above"], tolerance: float, release: str) -> Limit:
    """What was allowed, in six digits where these still tell that it was crossed."""
    slack = tolerance * (abs(was) or 1.0)
    exact = Limit(
        side, was - slack if side == "below" else was + slack, f"{was:.4g} in {release}, tolerance {tolerance:g}"
    )
    short = replace(exact, bound=float(f"{exact.bound:.6g}"))
    return short if short.is_crossed(now, None) else exact


def _wrong_side(metric: Metric, intent: str | None) -> Literal["below", "above"] | None:
    if metric.better is not None:
        return "below" if metric.better == "higher" else "above"
    limit = metric.error or metric.warn
    if limit is None or (limit.intent is not None and intent not in limit.intent):
        return None
    return limit.side


def _is_worse(was: Measurement, now: Measurement, side: str, tolerance: float, *, is_z: bool) -> bool:
    change = was.value - now.value if side == "below" else now.value - was.value
    if change <= tolerance * (abs(was.value) or 1.0):
        return False
    before, after = (1.0, 1.0) if is_z else (_standard_error(was), _standard_error(now))
    return before is None or after is None or change > _STANDARD_ERRORS * math.hypot(before, after)


def _standard_error(measurement: Measurement) -> float | None:
    stated = measurement.evidence.get("standard_error")
    if not isinstance(stated, int | float) or isinstance(stated, bool):
        return None
    return float(stated) if math.isfinite(stated) and stated >= 0 else None


def _words(old: float, new: float, release: str) -> str:
    """`0.42 in v1.json, now 0.3`, with digits enough to tell both apart."""
    digits = next((n for n in range(3, 17) if f"{old:.{n}g}" != f"{new:.{n}g}"), 17)
    return f"{old:.{digits}g} in {release}, now {new:.{digits}g}"


def remarks(subjects: Sequence[Subject], release: Release) -> list[str]:
    """What could not be compared: subjects, and measurements of theirs, that only one of the two reports has."""
    pairs = counterparts(subjects, release)
    said = [f"{one.id} is not in {release.name}: not compared" for one in subjects if one.id not in pairs]
    matched = {before.id for before in pairs.values()}
    missing = [one.id for one in release.report.subjects if one.id not in matched]
    said += [f"{name} of {release.name} was not given: not compared" for name in missing]
    for subject in subjects:
        before = pairs.get(subject.id)
        if before is None:
            continue
        here = {(one.rule, one.site) for one in subject.measurements}
        lost = [one for one in before.measurements if (one.rule, one.site) not in here]
        if lost:
            some = f"{lost[0].rule} at {lost[0].site}" + (f" and {len(lost) - 1:,} more" if len(lost) > 1 else "")
            said.append(f"{subject.id} no longer has what {release.name} measured: {some}")
    return said
