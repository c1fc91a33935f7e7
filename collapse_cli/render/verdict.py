"""The verdict in one line, and the words that several formats share."""

from collapse_cli.core.finding import Finding
from collapse_cli.core.metric import Limit, Measurement
from collapse_cli.core.report import Report, Subject, Verdict

__all__ = [
    "counted",
    "coverage_words",
    "findings_by_severity",
    "has_suppressed",
    "is_of_rows",
    "limit_words",
    "noun",
    "number",
    "number_of",
    "outcome_words",
    "suppressed_findings",
    "suppression_words",
    "verdict_line",
]

_IRREGULAR = {"analysis": "analyses", "diagnosis": "diagnoses"}


def number(value: float, digits: int = 3) -> str:
    """Three significant digits, whole numbers below a million in full: `0.0166`, `310`, `12,845`, `2.5e+06`."""
    if 10**digits <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def number_of(measurement: Measurement, limit: Limit) -> str:
    """Value, limit and null of a finding: `0.0166 < 0.05 (null 0.802)`, with digits enough to show that it is so."""
    digits = 3
    while digits < 17 and number(measurement.value, digits) == number(_bound(measurement, limit), digits):
        if measurement.value == _bound(measurement, limit):
            break
        digits += 1
    null = "" if measurement.null is None else f" (null {number(measurement.null, digits)})"
    return f"{number(measurement.value, digits)} {_side(limit)} {_times(limit)}{null}"


def limit_words(limit: Limit) -> str:
    """`limit < 0.05`, `limit > 2 × null`."""
    return f"limit {_side(limit)} {_times(limit)}"


def _bound(measurement: Measurement, limit: Limit) -> float:
    return limit.bound * (measurement.null or 0.0) if limit.of == "null" else limit.bound


def _side(limit: Limit) -> str:
    return ("<" if limit.side == "below" else ">") + ("=" if limit.inclusive else "")


def _times(limit: Limit) -> str:
    # a bound is a number that somebody chose: all of its digits
    bound = f"{limit.bound:,.0f}" if limit.bound.is_integer() and abs(limit.bound) < 1e6 else repr(limit.bound)
    return f"{bound} × null" if limit.of == "null" else bound


def counted(count: int, word: str) -> str:
    """`1 error`, `2 errors`."""
    return f"{count:,} {word if count == 1 else _IRREGULAR.get(word, word + 's')}"


def noun(subject: Subject) -> str:
    """What a subject consists of."""
    if subject.format == "report":
        return "report"
    return "hook point" if is_of_rows(subject) else "tensor"


def is_of_rows(subject: Subject) -> bool:
    """Whether it is a dump, or a pair or run of dumps."""
    return "dump" in (subject.kind, subject.format)


def coverage_words(subject: Subject) -> str:
    """`analysed 3 of 3 wanted tensors (1 more wanted by no analyzer)`."""
    coverage = subject.coverage
    unwanted = coverage.sites - coverage.wanted
    more = f" ({unwanted:,} more wanted by no analyzer)" if unwanted > 0 else ""
    return f"analysed {coverage.read:,} of {counted(coverage.wanted, f'wanted {noun(subject)}')}{more}"


def outcome_words(subject: Subject) -> str:
    """The line that closes a subject in plain formats."""
    if subject.status == "failed":
        return "failed: nothing was analysed"
    if subject.status == "empty":
        held = counted(subject.coverage.sites, noun(subject))
        if subject.coverage.wanted:
            return f"empty: nothing was measured: every analyzer skipped its {held}"
        return f"empty: of its {held} no analyzer wants one"
    active = findings_by_severity(subject)
    counts = {word: sum(finding.severity == word for finding in active) for word in ("error", "warning", "info")}
    parts = [counted(counts["error"], "error"), counted(counts["warning"], "warning")]
    if counts["info"]:
        parts.append(f"{counts['info']} info")
    parts += [f"{len(subject.failures)} failed", f"{len(subject.skips)} skipped"]
    parts.append(f"{len(subject.findings) - len(active)} suppressed")
    word = "incomplete" if subject.status == "partial" else "complete"
    return f"{word}: {', '.join(parts)}; {coverage_words(subject)}"


def verdict_line(report: Report) -> str:
    """The verdict: what was found, the exit code, and how to change it where a flag could."""
    verdict = report.verdict
    opening = {"pass": "Pass", "fail": "Fail", "incomplete": "Incomplete", "empty": "Nothing was analysed"}
    unread = sum(subject.status == "failed" for subject in report.subjects)
    parts = _counts(verdict, unread, sum(subject.status == "empty" for subject in report.subjects))
    text = f"{opening[verdict.outcome]}: {', '.join(parts)}. Exit {report.exit_code}"
    if verdict.outcome == "incomplete" and not unread:
        would = 1 if any(verdict.findings.get(severity) for severity in _at_least(verdict)) else 0
        text += f" ({would} with --allow-partial)"
    return text + "."


def _at_least(verdict: Verdict) -> list[str]:
    order = ["info", "warning", "error"]
    return order[order.index(verdict.fail_on.value) :]


def _counts(verdict: Verdict, unread: int, unmeasured: int) -> list[str]:
    found = verdict.findings
    parts = [counted(found[word], word) for word in ("error", "warning") if found.get(word)]
    if found.get("info"):
        parts.append(f"{found['info']} info")
    if not parts:
        parts.append("no findings")
    if unread:
        parts.append(f"{counted(unread, 'subject')} could not be read")
    if unmeasured and verdict.outcome == "incomplete":
        parts.append(f"{counted(unmeasured, 'subject')} with nothing measured")
    if verdict.failures > unread:
        parts.append(f"{counted(verdict.failures - unread, 'analysis')} failed")
    if verdict.skips:
        parts.append(f"{verdict.skips:,} skipped")
    baseline, accepted = verdict.suppressed.get("baseline", 0), verdict.suppressed.get("accept", 0)
    if baseline or accepted:
        parts.append(f"{baseline + accepted} suppressed ({baseline} baseline, {accepted} accepted)")
    return parts


def findings_by_severity(subject: Subject) -> list[Finding]:
    """The findings that count, worst first."""
    active = [finding for finding in subject.findings if finding.suppressed is None]
    return sorted(active, key=lambda finding: -finding.severity.rank)


def has_suppressed(report: Report) -> bool:
    """Whether there are findings that do not count; that there are is said however quiet one is."""
    return any(report.verdict.suppressed.values())


def suppressed_findings(subject: Subject) -> list[Finding]:
    """The findings that do not count, worst first."""
    hidden = [finding for finding in subject.findings if finding.suppressed is not None]
    return sorted(hidden, key=lambda finding: -finding.severity.rank)


def suppression_words(finding: Finding) -> str:
    """Why a finding does not count: `accepted until 2027-01-01: padding row`, `known: baseline 0.031`."""
    if finding.suppressed is None:
        return ""
    if finding.suppressed.by == "baseline":
        return finding.suppressed.reason
    until = f" until {finding.suppressed.until}" if finding.suppressed.until else ""
    return f"accepted{until}: {finding.suppressed.reason}"
