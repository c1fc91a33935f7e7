"""The verdict in one line, and the words that several formats share."""

from collapse_cli.core.finding import Finding
from collapse_cli.core.metric import Limit, Measurement
from collapse_cli.core.report import Coverage, Report, Subject, Verdict

__all__ = ["counted", "coverage_words", "limit_words", "number", "number_of", "outcome_words", "verdict_line"]


def number(value: float) -> str:
    """Four significant digits: `0.01663`, `310.4`, `2.5e+05`."""
    return f"{value:.4g}"


def number_of(measurement: Measurement, limit: Limit) -> str:
    """Value, limit and null of a finding: `0.0166 < 0.05 (null 0.802)`."""
    sign = "<" if limit.side == "below" else ">"
    null = "" if measurement.null is None else f" (null {number(measurement.null)})"
    times = " × null" if limit.of == "null" else ""
    return f"{number(measurement.value)} {sign}{'=' if limit.inclusive else ''} {number(limit.bound)}{times}{null}"


def limit_words(limit: Limit) -> str:
    """`limit < 0.05`, `limit > 2 × null`."""
    sign = "<" if limit.side == "below" else ">"
    return (
        f"limit {sign}{'=' if limit.inclusive else ''} {number(limit.bound)}{' × null' if limit.of == 'null' else ''}"
    )


def counted(count: int, word: str) -> str:
    """`1 error`, `2 errors`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def coverage_words(coverage: Coverage) -> str:
    """`analysed 3 of 3 wanted tensors`."""
    return f"analysed {coverage.read:,} of {counted(coverage.wanted, 'wanted tensor')}"


def outcome_words(subject: Subject) -> str:
    """The line that closes a subject in plain formats."""
    if subject.status == "failed":
        return "failed: nothing was analysed"
    if subject.status == "empty":
        return f"empty: none of its {counted(subject.coverage.sites, 'tensor')} is wanted by an analyzer"
    active = [finding for finding in subject.findings if finding.suppressed is None]
    counts = {word: sum(finding.severity == word for finding in active) for word in ("error", "warning", "info")}
    parts = [counted(counts["error"], "error"), counted(counts["warning"], "warning")]
    if counts["info"]:
        parts.append(f"{counts['info']} info")
    parts += [f"{len(subject.failures)} failed", f"{len(subject.skips)} skipped"]
    parts.append(f"{len(subject.findings) - len(active)} suppressed")
    return f"{subject.status}: {', '.join(parts)}; {coverage_words(subject.coverage)}"


def verdict_line(report: Report) -> str:
    """The verdict: what was found, the exit code, and how to change it where a flag could."""
    verdict = report.verdict
    opening = {"pass": "Pass", "fail": "Fail", "incomplete": "Incomplete", "empty": "Nothing was analysed"}
    parts = _counts(verdict)
    text = f"{opening[verdict.outcome]}: {', '.join(parts)}. Exit {report.exit_code}"
    unread = sum(subject.status == "failed" for subject in report.subjects)
    if verdict.outcome == "incomplete" and not unread:
        would = 1 if any(verdict.findings[s] for s in _at_least(verdict)) else 0
        text += f" ({would} with --allow-partial)"
    return text + "."


def _at_least(verdict: Verdict) -> list[str]:
    order = ["info", "warning", "error"]
    return order[order.index(verdict.fail_on.value) :]


def _counts(verdict: Verdict) -> list[str]:
    parts = [counted(verdict.findings.get("error", 0), "error"), counted(verdict.findings.get("warning", 0), "warning")]
    if verdict.findings.get("info"):
        parts.append(f"{verdict.findings['info']} info")
    if verdict.failures:
        parts.append(f"{counted(verdict.failures, 'analysis').replace('analysiss', 'analyses')} failed")
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
