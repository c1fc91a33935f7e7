"""Code Quality JSON: findings in the merge request widget of GitLab."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final

from collapse_cli.core.finding import Severity
from collapse_cli.core.report import Report, Subject
from collapse_cli.core.text import json_safe, plain
from collapse_cli.render.diagnoses import ranked
from collapse_cli.render.look import Look
from collapse_cli.render.ranking import finding_words, ranked_suppressed, repository_path, unanalysed

__all__ = ["render"]

_SEVERITIES: Final = {Severity.ERROR: "major", Severity.WARNING: "minor", Severity.INFO: "info"}


def render(report: Report, look: Look) -> str:
    """An array, worst first, `[]` if there is nothing to say; no two entries have the same fingerprint."""
    entries = []
    seen: set[str] = set()
    for entry in _entries(report, look):
        # GitLab shows one of several with the same fingerprint
        count = 1
        while entry["fingerprint"] in seen:
            count += 1
            entry["fingerprint"] = _fingerprint(entry["fingerprint"], str(count))
        seen.add(entry["fingerprint"])
        entries.append(entry)
    return json_safe(json.dumps(entries, indent=1, ensure_ascii=False, allow_nan=False)) + "\n"


def _entries(report: Report, look: Look) -> Iterator[dict[str, Any]]:
    for one in unanalysed(report):
        check = f"{one.analyzer or 'collapse'}/{'failed' if one.is_failure else 'not-analysed'}"
        mark = _fingerprint(check, one.subject.id, one.site or "", one.error)
        yield _entry(one.subject, check, one.words, "major" if one.is_failure else "minor", mark)
    for found in ranked(report.subjects):
        finding, words = found.finding, finding_words(found.finding, found.place)
        severity = _SEVERITIES[finding.severity]
        yield _entry(found.subject, finding.measurement.rule, words, severity, finding.fingerprint)
    for subject, finding in ranked_suppressed(report) if look.show_suppressed else ():
        yield _entry(subject, finding.measurement.rule, finding_words(finding), "info", finding.fingerprint)


def _entry(subject: Subject, check: str, words: str, severity: str, fingerprint: str) -> dict[str, Any]:
    return {
        # GitLab hides check_name
        "description": f"{plain(check)}: {words}",
        "check_name": plain(check),
        "fingerprint": fingerprint,
        "severity": severity,
        "location": {"path": plain(repository_path(subject)), "lines": {"begin": 1}},
    }


def _fingerprint(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()
