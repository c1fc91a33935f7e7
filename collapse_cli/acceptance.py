"""Findings that the policy accepts, until a day; and what became of the entries that accept them."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import date
from fnmatch import fnmatchcase

from collapse_cli.core.finding import Finding, Suppression
from collapse_cli.core.policy import Accept
from collapse_cli.core.report import Subject

__all__ = ["accepted", "remarks"]


def accepted(subject: Subject, entries: Sequence[Accept], today: date) -> Subject:
    """The subject with the findings suppressed that an entry accepts; the day named in `until` is the last one."""
    if not entries or not subject.findings:
        return subject
    findings = []
    for finding in subject.findings:
        entry = next((one for one in entries if not _is_over(one, today) and _means(one, subject, finding)), None)
        known = None if entry is None else Suppression("accept", entry.reason, entry.until)
        findings.append(finding if known is None else replace(finding, suppressed=known))
    return replace(subject, findings=tuple(findings))


def remarks(
    runs: Sequence[tuple[Sequence[Subject], Collection[str]]], entries: Iterable[Accept], today: date
) -> list[str]:
    """What is to be said of the entries: an acceptance that is over, and one that no finding needs.

    A run is its subjects and the analyzers that looked at them; entries for others are not spoken of.
    """
    said = []
    for entry in entries:
        looked_at = [
            subject
            for subjects, analyzers in runs
            if any(fnmatchcase(name, entry.rule.partition("/")[0]) for name in analyzers)
            for subject in subjects
            if subject.status not in ("failed", "empty") and _is_any(subject.id, entry.subjects)
        ]
        if not looked_at:
            continue
        meant = [finding for one in looked_at for finding in one.findings if _means(entry, one, finding)]
        # another entry may hide what this one no longer does
        back = sum(finding.suppressed is None for finding in meant)
        words = f'accept "{entry.rule}" ({entry.reason})'
        if _is_over(entry, today):
            state = f"{back} {'finding is' if back == 1 else 'findings are'} back" if back else "remove it"
            said.append(f"{words} ended on {entry.until}: {state}")
        elif not meant:
            said.append(f"{words} matches no finding: remove it")
    return said


def _is_over(entry: Accept, today: date) -> bool:
    return today > date.fromisoformat(entry.until)


def _means(entry: Accept, subject: Subject, finding: Finding) -> bool:
    measured = finding.measurement
    return (
        fnmatchcase(measured.rule, entry.rule)
        and _is_any(subject.id, entry.subjects)
        and _is_any(measured.site, entry.sites)
    )


def _is_any(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
