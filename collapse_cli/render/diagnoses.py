"""The findings of a subject by diagnosis: what is said in full, and what follows from it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from collapse_cli.core.diagnosis import Diagnosis
from collapse_cli.core.finding import Finding, Severity
from collapse_cli.core.report import Subject
from collapse_cli.render.ranking import worst_sites
from collapse_cli.render.verdict import counted, findings_by_severity, number_of

__all__ = [
    "Group",
    "Ranked",
    "by_rule",
    "diagnoses_words",
    "diagnosis_of",
    "follow_words",
    "groups_of",
    "kinds_words",
    "ranked",
    "worst_words",
]


@final
@dataclass(frozen=True, slots=True)
class Group:
    """The findings of one diagnosis: the primary one with those of its rule and severity, then what follows from it.

    Without a diagnosis: all findings that belong to none, those of a report of schema 1.0.
    """

    diagnosis: Diagnosis | None
    first: tuple[Finding, ...]
    follows: tuple[Finding, ...] = ()

    @property
    def severity(self) -> Severity:
        """That of the primary finding, the worst."""
        return self.first[0].severity

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them, the primary one first."""
        return self.first + self.follows

    def relation(self, finding: Finding) -> str:
        """What a finding is to the primary one: `as at fc1.weight`, `follows from effective-rank/numerical_rank`."""
        primary = self.first[0].measurement
        if self.diagnosis is None or finding is self.first[0]:
            return ""
        if finding.measurement.rule == primary.rule:
            return f"as at {primary.site}"
        return f"follows from {primary.rule}"


def groups_of(subject: Subject) -> list[Group]:
    """The findings that count, each in one group: diagnoses in their order, then what belongs to none."""
    left = {finding.fingerprint: finding for finding in findings_by_severity(subject)}
    groups = []
    for diagnosis in subject.diagnoses:
        primary = left.pop(diagnosis.primary, None)
        found = [left.pop(mark) for mark in diagnosis.consequences if mark in left]
        if primary is None:
            # a report that somebody edited: nothing that was found is lost
            left |= {finding.fingerprint: finding for finding in found}
            continue
        key = (primary.severity, primary.measurement.rule)
        same = [one for one in found if (one.severity, one.measurement.rule) == key]
        follows = [one for one in found if (one.severity, one.measurement.rule) != key]
        groups.append(Group(diagnosis, (primary, *same), tuple(follows)))
    # not those of `left`: two findings may have one fingerprint in a report that somebody wrote by hand
    shown = {id(finding) for group in groups for finding in group.findings}
    rest = tuple(finding for finding in findings_by_severity(subject) if id(finding) not in shown)
    return [*groups, Group(None, rest)] if rest else groups


@final
@dataclass(frozen=True, slots=True)
class Ranked:
    """A finding with the subject and the diagnosis that it belongs to."""

    subject: Subject
    finding: Finding
    group: Group

    @property
    def is_primary(self) -> bool:
        """Whether it names a diagnosis."""
        return self.group.diagnosis is not None and self.finding is self.group.first[0]

    @property
    def place(self) -> str:
        """`Rank collapse; 17 findings follow` of a primary one, of any other what it follows from."""
        if self.group.diagnosis is None or not self.is_primary:
            return self.group.relation(self.finding)
        return "; ".join(words for words in (self.group.diagnosis.title, follow_words(self.group)) if words)


def ranked(subjects: Iterable[Subject]) -> list[Ranked]:
    """The findings that count, of all subjects, worst first; within a severity those that name a diagnosis."""
    found = [
        Ranked(subject, finding, group)
        for subject in subjects
        for group in groups_of(subject)
        for finding in group.findings
    ]
    return sorted(found, key=lambda one: (-one.finding.severity.rank, not one.is_primary))


def diagnosis_of(subject: Subject) -> dict[str, Diagnosis]:
    """The diagnosis of each finding that has one, by fingerprint."""
    return {mark: one for one in subject.diagnoses for mark in (one.primary, *one.consequences)}


def by_rule(findings: Sequence[Finding]) -> Mapping[tuple[Severity, str], list[Finding]]:
    """Findings by severity and rule, in the order in which these come first, the worst site of each first."""
    found: dict[tuple[Severity, str], list[Finding]] = {}
    for finding in findings:
        found.setdefault((finding.severity, finding.measurement.rule), []).append(finding)
    return {key: worst_sites(group) for key, group in found.items()}


def worst_words(found: Sequence[Finding], named: Callable[[str], str]) -> tuple[str, str]:
    """`3 sites, worst`, of one `fc1.weight:`, and `0.984 > 0.9 (null 0)`: findings of a rule, worst first."""
    worst = found[0].measurement
    where = f"{named(worst.site)}:" if len(found) == 1 else f"{counted(len(found), 'site')}, worst"
    return where, number_of(worst, found[0].limit)


def follow_words(group: Group) -> str:
    """`17 findings follow`; nothing where none does."""
    count = len(group.follows)
    return f"{counted(count, 'finding')} {'follows' if count == 1 else 'follow'}" if count else ""


def diagnoses_words(subject: Subject) -> str:
    """`2 diagnoses (20 findings)`; nothing where there is none."""
    found = [group for group in groups_of(subject) if group.diagnosis is not None]
    if not found:
        return ""
    return f"{counted(len(found), 'diagnosis')} ({counted(sum(len(one.findings) for one in found), 'finding')})"


def kinds_words(subject: Subject) -> str:
    """`rank-collapse, +1 more`: the kind of the first diagnosis; nothing where there is none."""
    kinds = [group.diagnosis.kind for group in groups_of(subject) if group.diagnosis is not None]
    return "".join(kinds[:1]) + (f", +{len(kinds) - 1} more" if len(kinds) > 1 else "")
