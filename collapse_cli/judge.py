"""Measurements × limits × policy → findings and a verdict. Pure, and without torch: stored reports are judged alike."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from collapse_cli.core.finding import Finding, Severity, fingerprint
from collapse_cli.core.manual import Manual
from collapse_cli.core.metric import Limit, Measurement, Metric
from collapse_cli.core.policy import Override, Policy
from collapse_cli.core.report import Outcome, Subject, Verdict

__all__ = ["exit_code", "judge", "verdict"]

_FIELD = re.compile(r"\{(\w+)(?::([^{}]*))?\}")


def judge(subject: Subject, manuals: Iterable[Manual], policy: Policy) -> Subject:
    """The subject with the findings that its measurements give under this policy; worst first, then source order."""
    by_name = {manual.name: manual for manual in manuals}
    findings = []
    for measurement in subject.measurements:
        manual = by_name.get(measurement.analyzer)
        if manual is None:
            continue
        finding = _finding(measurement, manual, policy, subject.id)
        if finding is not None:
            findings.append(finding)
    findings.sort(key=lambda finding: -finding.severity.rank)
    return replace(subject, findings=tuple(findings))


def _finding(measurement: Measurement, manual: Manual, policy: Policy, subject: str) -> Finding | None:
    metric = manual.metric(measurement.metric)
    warn, error = _limits(metric, measurement, policy.limits)
    for severity, limit in ((Severity.ERROR, error), (Severity.WARNING, warn)):
        if limit is None or not limit.is_crossed(measurement.value, measurement.null):
            continue
        if limit.intent is not None and policy.intent not in limit.intent:
            # the limit of another intent is silent; with no intent declared the reader is told, not judged
            if policy.intent is not None:
                continue
            given = Severity.INFO
        elif manual.confidence == "experimental" and severity is Severity.ERROR:
            given = Severity.WARNING
        else:
            given = severity
        return Finding(
            given,
            measurement,
            limit,
            _message(metric, measurement, limit),
            manual.remedy,
            fingerprint(measurement.analyzer, measurement.metric, subject, measurement.site),
        )
    return None


def _limits(
    metric: Metric, measurement: Measurement, overrides: Sequence[Override]
) -> tuple[Limit | None, Limit | None]:
    """The metric's limits as the policy changes them; later entries win.

    A bound is the user's; its side, its scale (value or value ÷ null) and its intent are the metric's own.
    """
    warn, error = metric.warn, metric.error
    plain = Limit("below" if metric.better == "higher" else "above", 0.0, "policy")
    own_warn, own_error = metric.warn or metric.error or plain, metric.error or metric.warn or plain
    for override in overrides:
        if not fnmatchcase(measurement.rule, override.rule):
            continue
        if override.sites and not any(fnmatchcase(measurement.site, pattern) for pattern in override.sites):
            continue
        if override.warn is not None:
            warn = None if override.warn is False else _bound(own_warn, override.warn, override.source)
        if override.error is not None:
            error = None if override.error is False else _bound(own_error, override.error, override.source)
    return warn, error


def _bound(own: Limit, bound: float, source: str) -> Limit:
    return replace(own, bound=bound, source=source, inclusive=False)


def _message(metric: Metric, measurement: Measurement, limit: Limit) -> str:
    """The metric's own sentence with the numbers filled in, or a plain one made of its parts."""
    words = measurement.evidence | {"value": measurement.value, "null": measurement.null, "bound": limit.bound}
    text = _filled(metric.message, words) if metric.message else None
    if text is not None:
        return text
    against = "" if measurement.null is None else f", chance gives {measurement.null:.4g}"
    unit = "" if metric.unit == "1" else f" {metric.unit}"
    return f"{metric.says.rstrip('.')}: {measurement.value:.4g}{unit}{against}."


def _filled(template: str, words: Mapping[str, object]) -> str | None:
    """`{name}` and `{name:.3g}` replaced; None if a word is missing.

    Not `str.format`: a template may come from a stored report, and must not reach attributes.
    """
    missing = False

    def word(match: re.Match[str]) -> str:
        nonlocal missing
        value = words.get(match[1])
        if value is None:
            missing = True
            return ""
        try:
            return format(value, match[2] or "")
        except (TypeError, ValueError):
            return str(value)

    text = _FIELD.sub(word, template)
    return None if missing else text


def verdict(subjects: Sequence[Subject], policy: Policy) -> Verdict:
    """What the subjects come to: incomplete beats empty beats fail beats pass."""
    everything = [finding for subject in subjects for finding in subject.findings]
    active = [finding for finding in everything if finding.suppressed is None]
    counts = {severity.value: 0 for severity in reversed(Severity)}
    for finding in active:
        counts[finding.severity.value] += 1
    suppressed = {"accept": 0, "baseline": 0}
    for finding in everything:
        if finding.suppressed is not None:
            suppressed[finding.suppressed.by] += 1
    return Verdict(
        _outcome(subjects, active, policy),
        policy.fail_on,
        counts,
        suppressed,
        sum(len(subject.failures) for subject in subjects),
        sum(len(subject.skips) for subject in subjects),
    )


def _outcome(subjects: Sequence[Subject], active: Sequence[Finding], policy: Policy) -> Outcome:
    statuses = {subject.status for subject in subjects}
    if "failed" in statuses:
        return "incomplete"
    if not statuses - {"empty"}:
        return "empty"
    if statuses & {"partial", "empty"} and not policy.allow_partial:
        return "incomplete"
    return "fail" if any(finding.severity.rank >= policy.fail_on.rank for finding in active) else "pass"


def exit_code(given: Verdict, policy: Policy) -> int:
    """0 pass, 1 findings at or above `--fail-on` (0 with `--exit-zero`), 2 incomplete, 3 nothing analysed."""
    if given.outcome == "fail" and policy.exit_zero:
        return 0
    return {"pass": 0, "fail": 1, "incomplete": 2, "empty": 3}[given.outcome]
