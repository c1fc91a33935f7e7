"""JUnit XML: a suite a subject, a test case a rule, for every CI system that shows test results."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, final
from xml.sax.saxutils import escape, quoteattr

from collapse_cli.core.finding import Finding
from collapse_cli.core.report import Report, Subject
from collapse_cli.core.text import plain, tail
from collapse_cli.render.diagnoses import ranked
from collapse_cli.render.look import Look
from collapse_cli.render.ranking import finding_words, repository_path, worst_sites
from collapse_cli.render.verdict import counted, findings_by_severity, outcome_words, suppressed_findings, verdict_line

__all__ = ["render"]

#: GitLab refuses a file of 30 MB.
_BUDGET: Final = 29_000_000
#: Lines of text in one test case, fewer where the budget demands it.
_LINES: Final = (50, 10, 1, 0)
_LONGEST_NAME: Final = 1_000
#: What XML 1.0 can hold (section 2.2).
_NO_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Result = Literal["passed", "failure", "error", "skipped"]


@final
@dataclass(frozen=True, slots=True)
class _Case:
    """One test case: how it ended, why in one line, and the lines behind that."""

    name: str
    result: Result
    kind: str = ""
    message: str = ""
    lines: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def render(report: Report, look: Look) -> str:
    """Findings at or above `--fail-on` are failures, what could not be done is an error, what did not apply skipped."""
    suites = [(subject, _cases(report, subject, look)) for subject in report.subjects]
    for lines in _LINES:
        text = _document(report, [_suite(subject, cases, lines) for subject, cases in suites], suites)
        if len(text.encode()) <= _BUDGET:
            return text
    return _document(report, _fitting([_suite(subject, cases, 0) for subject, cases in suites]), suites)


def _document(report: Report, bodies: Sequence[str], suites: Sequence[tuple[Subject, list[_Case]]]) -> str:
    cases = [case for _, found in suites for case in found]
    if not suites:
        case = _Case("subjects", "error", "NothingAnalysed", verdict_line(report))
        cases, bodies = [case], [_element("testsuite", _counts("collapse", [case]), [_case(case, None, 0)])]
    attributes = _counts("collapse", cases) | {"time": f"{report.provenance.seconds:.3f}"}
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + _element("testsuites", attributes, bodies)


def _fitting(bodies: list[str]) -> list[str]:
    """As many suites as the budget takes, and one that says how many there are besides."""
    size = 10_000
    for index, body in enumerate(bodies):
        size += len(body.encode())
        if size > _BUDGET:
            left = counted(len(bodies) - index, "more subject")
            case = _Case("subjects", "error", "LeftOut", f"+{left}: the JSON report has them all")
            return [*bodies[:index], _element("testsuite", _counts("collapse", [case]), [_case(case, None, 0)])]
    return bodies


def _suite(subject: Subject, cases: list[_Case], lines: int) -> str:
    return _element("testsuite", _counts(subject.id, cases), [_case(case, subject, lines) for case in cases])


def _counts(name: str, cases: Sequence[_Case]) -> dict[str, str]:
    results = [case.result for case in cases]
    counts = {"failures": "failure", "errors": "error", "skipped": "skipped"}
    return {"name": name, "tests": str(len(cases))} | {key: str(results.count(one)) for key, one in counts.items()}  # type: ignore[arg-type]


def _cases(report: Report, subject: Subject, look: Look) -> list[_Case]:
    """What could be read, then every rule that was measured, then what failed or did not apply, by analyzer."""
    cases = [_reading(subject), *_rules(report, subject, look)]
    failures: dict[str, list[str]] = {}
    for one in subject.failures:
        if one.analyzer:
            failures.setdefault(one.analyzer, []).append(_joined(one.site, one.error, one.message))
    skips: dict[str, list[str]] = {}
    for skip in subject.skips:
        if skip.analyzer:
            skips.setdefault(skip.analyzer, []).append(_joined(skip.site, skip.reason))
    for analyzer, lines in failures.items():
        cases.append(_Case(analyzer, "error", "AnalysisFailed", _summary(lines), lines, skips.get(analyzer, [])))
    for analyzer, lines in skips.items():
        if analyzer not in failures:
            cases.append(_Case(analyzer, "skipped", "", _summary(lines), lines))
    return cases


def _reading(subject: Subject) -> _Case:
    """The subject as a whole: a file that could not be read is an error, a tensor that could not be is no success."""
    failed = [_joined(one.site, one.error, one.message) for one in subject.failures if one.analyzer is None]
    unread = [_joined(one.site, one.reason) for one in subject.skips if one.analyzer is None]
    if failed:
        return _Case("reading", "error", "Unreadable", _summary(failed), failed, unread)
    if unread:
        return _Case("reading", "skipped", "", f"not read: {_summary(unread)}", unread)
    if subject.status == "empty":
        return _Case("reading", "skipped", "", outcome_words(subject))
    return _Case("reading", "passed")


def _rules(report: Report, subject: Subject, look: Look) -> Iterator[_Case]:
    found: dict[str, list[Finding]] = {}
    places = {id(one.finding): one.place for one in ranked([subject])}
    for finding in (*findings_by_severity(subject), *(suppressed_findings(subject) if look.show_suppressed else ())):
        found.setdefault(finding.measurement.rule, []).append(finding)
    judged = _judged(report)
    for rule in dict.fromkeys(measured.rule for measured in subject.measurements):
        worst = worst_sites(found.get(rule, []))
        lines = [_line(one, places) for one in worst if _is_failure(one, report)]
        said = [_line(one, places) for one in worst if not _is_failure(one, report)]
        if lines:
            yield _Case(rule, "failure", "finding", _summary(lines), lines, said)
        elif said or rule in judged:
            yield _Case(rule, "passed", said=said)


def _is_failure(finding: Finding, report: Report) -> bool:
    return finding.suppressed is None and finding.severity.rank >= report.verdict.fail_on.rank


def _line(finding: Finding, places: Mapping[int, str]) -> str:
    return f"{finding.severity}: {finding_words(finding, places.get(id(finding), ''))}"


def _judged(report: Report) -> set[str]:
    """The rules that could have had a finding: what is only reported has not passed."""
    found = set()
    for manual in report.manuals:
        for metric in manual.metrics:
            limits = [limit for limit in (metric.warn, metric.error) if limit is not None]
            if any(limit.intent is None or report.provenance.intent in limit.intent for limit in limits):
                found.add(f"{manual.name}/{metric.name}")
    return found


def _summary(lines: Sequence[str]) -> str:
    more = f" (+{len(lines) - 1:,} more)" if len(lines) > 1 else ""
    return f"{lines[0]}{more}"


def _joined(*parts: str | None) -> str:
    return ": ".join(tail(part, _LONGEST_NAME) for part in parts if part)


def _case(case: _Case, subject: Subject | None, most: int) -> str:
    identity = subject.id if subject else "collapse"
    attributes = {"name": case.name, "classname": identity}
    if subject is not None:
        attributes["file"] = repository_path(subject)
    inner = []
    if case.result != "passed":
        kind = {"type": case.kind} if case.kind else {}
        inner.append(_element(case.result, {"message": case.message} | kind, [], text=_text(case.lines, most)))
    if case.said:
        inner.append(_element("system-out", {}, [], text=_text(case.said, most)))
    return _element("testcase", attributes, inner)


def _text(lines: Sequence[str], most: int) -> str:
    more = [f"+{len(lines) - most:,} more: the JSON report has them all"] if len(lines) > most else []
    return "\n".join([*lines[:most], *more])


def _element(name: str, attributes: dict[str, str], inner: Sequence[str], *, text: str = "") -> str:
    opening = name + "".join(f" {key}={quoteattr(_xml(value))}" for key, value in attributes.items())
    if text:
        body = "\n".join(_xml(line) for line in text.split("\n"))
        return f"<{opening}>{escape(body)}</{name}>\n"
    return f"<{opening}>\n{''.join(inner)}</{name}>\n" if inner else f"<{opening}/>\n"


def _xml(text: str) -> str:
    """Harmless text without what XML has no place for."""
    return _NO_XML.sub(lambda match: f"\\u{ord(match[0]):04x}", plain(text))
