"""SARIF 2.1.0: findings as alerts of GitHub code scanning, or of any other reader of the OASIS standard."""

import gzip
import json
from collections import Counter
from typing import Any, Final
from urllib.parse import quote

from collapse_cli.core.report import Report, Subject
from collapse_cli.core.text import json_safe, plain
from collapse_cli.render.diagnoses import Ranked, ranked
from collapse_cli.render.look import Look
from collapse_cli.render.ranking import Unanalysed, finding_words, repository_path, unanalysed
from collapse_cli.render.sarif_rules import LEVELS, rule
from collapse_cli.render.verdict import counted, noun, verdict_line

__all__ = ["render"]

_SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
#: GitHub refuses more than 25,000 results, and of those it takes keeps 5,000.
_MOST: Final = 5_000
#: GitHub refuses more bytes than these of a gzipped log.
_BUDGET: Final = 10_000_000
#: Notifications beyond these are counted: no reader shows more.
_MOST_NOTIFICATIONS: Final = 1_000
#: Compressed text is never longer than this share of its bytes plus a header.
_INCOMPRESSIBLE: Final = 1.01
#: A binary has no lines, and GitHub demands a region.
_REGION: Final = {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 1}


def render(report: Report, look: Look) -> str:
    """One run with the worst 5,000 findings that count, and what was cut; fewer where 10 MB gzipped demand it."""
    most = _MOST
    while True:
        text = json_safe(json.dumps(_log(report, look, most), indent=1, ensure_ascii=False, allow_nan=False)) + "\n"
        if most == 0 or _compressed(text) <= _BUDGET:
            return text
        most //= 2


def _compressed(text: str) -> float:
    whole = text.encode()
    bound = _INCOMPRESSIBLE * len(whole) + 100
    return bound if bound <= _BUDGET else len(gzip.compress(whole, compresslevel=6))


def _log(report: Report, look: Look, most: int) -> dict[str, Any]:
    findings = ranked(report.subjects)
    kept = findings[:most]
    rules: dict[str, int] = {}
    descriptors = []
    for one in kept:
        measured = one.finding.measurement
        if measured.rule not in rules:
            rules[measured.rule] = len(rules)
            descriptors.append(rule(report, measured))
    notes = [*_cut(findings, kept), *_notifications(report, min(most, _MOST_NOTIFICATIONS))]
    run = {
        "tool": {
            "driver": {"name": plain(report.tool.name) or "collapse", "version": plain(report.tool.version) or "0"}
            | ({"rules": descriptors} if descriptors else {})
        },
        "automationDetails": {"id": f"collapse/{plain(look.category).strip('/') or 'default'}/"},
        "invocations": [_invocation(report) | ({"toolExecutionNotifications": notes} if notes else {})],
        "results": _results(kept, rules, look),
        "properties": {
            "verdict": plain(verdict_line(report)),
            "findings": len(findings),
            "leftOut": len(findings) - len(kept),
            "suppressed": dict(report.verdict.suppressed),
            "skips": report.verdict.skips,
        },
    }
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}


def _invocation(report: Report) -> dict[str, Any]:
    return {"executionSuccessful": report.verdict.outcome in ("pass", "fail"), "exitCode": report.exit_code}


def _results(kept: list[Ranked], rules: dict[str, int], look: Look) -> list[dict[str, Any]]:
    seen: Counter[str] = Counter()
    results = []
    for one in kept:
        subject, finding = one.subject, one.finding
        seen[finding.fingerprint] += 1
        measured = finding.measurement
        text = finding_words(finding, one.place)
        results.append(
            {
                "ruleId": plain(measured.rule),
                "ruleIndex": rules[measured.rule],
                "level": LEVELS[finding.severity],
                "message": {"text": _unlinked(f"{plain(subject.id)}: {text}" if look.sarif_anchor else text)},
                "locations": [_location(subject, measured.site, look.sarif_anchor)],
                "partialFingerprints": {
                    "primaryLocationLineHash": f"{finding.fingerprint}:{seen[finding.fingerprint]}"
                },
                "properties": {"value": measured.value, "remedy": plain(finding.remedy)}
                | ({} if measured.null is None else {"null": measured.null})
                | _diagnosis(one),
            }
        )
    return results


def _diagnosis(one: Ranked) -> dict[str, Any]:
    diagnosis = one.group.diagnosis
    if diagnosis is None:
        return {}
    primary = {} if one.is_primary else {"followsFrom": diagnosis.primary}
    return {"diagnosis": plain(diagnosis.kind), "isPrimary": one.is_primary} | primary


def _location(subject: Subject, site: str | None, anchor: str | None = None) -> dict[str, Any]:
    # quote also escapes the colon, so that no name reads as the scheme of an address
    path = quote(anchor or repository_path(subject), safe="/", errors="surrogatepass")
    location: dict[str, Any] = {"physicalLocation": {"artifactLocation": {"uri": path}, "region": _REGION}}
    if site:
        location["logicalLocations"] = [{"fullyQualifiedName": plain(site), "kind": noun(subject)}]
    return location


def _cut(findings: list[Ranked], kept: list[Ranked]) -> list[dict[str, Any]]:
    """Says that results are missing, how many of each severity, and where they all are."""
    if len(findings) == len(kept):
        return []
    counts = Counter(one.finding.severity.value for one in findings[len(kept) :])
    parts = ", ".join(counted(counts[word], word) for word in ("error", "warning", "info") if counts[word])
    left = f"{len(findings) - len(kept):,} of {len(findings):,} findings are left out, the mildest"
    text = f"{left}: {parts}; the JSON report has them all"
    return [{"level": "warning", "message": {"text": text}, "descriptor": {"id": "collapse/left-out"}}]


def _notifications(report: Report, most: int) -> list[dict[str, Any]]:
    found = unanalysed(report)
    notes = [_notification(one) for one in found[:most]]
    if len(found) > most:
        text = f"+{len(found) - most:,} more that could not be analysed: the JSON report has them all"
        notes.append({"level": "warning", "message": {"text": text}, "descriptor": {"id": "collapse/left-out"}})
    return notes


def _notification(one: Unanalysed) -> dict[str, Any]:
    return {
        "level": "error" if one.is_failure else "warning",
        "message": {"text": _unlinked(f"{plain(one.subject.id)}: {one.words}")},
        "descriptor": {"id": plain(one.analyzer or "") or "collapse/reading"},
        "locations": [_location(one.subject, one.site)],
    }


def _unlinked(text: str) -> str:
    """Text in which no name reads as a link: brackets alone are literal (SARIF 2.1.0, section 3.11.6)."""
    return text.replace("](", "] (")
