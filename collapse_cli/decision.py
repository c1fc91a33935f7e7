"""From measured subjects to a verdict: limits, intent, severity, regressions, accepted findings, baseline.

Everything that measures, and the gate over stored reports, decides here, so that both say the same of the same numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import final

from collapse_cli.acceptance import accepted
from collapse_cli.acceptance import remarks as remarks_on_acceptance
from collapse_cli.baseline import known, stale
from collapse_cli.core.manual import Manual
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import Subject, Verdict
from collapse_cli.diagnosis import diagnosed
from collapse_cli.errors import BadPolicy
from collapse_cli.judge import exit_code, judge, verdict
from collapse_cli.regression import Release, counterparts, regressed
from collapse_cli.regression import remarks as remarks_on_regression

__all__ = ["REMARK", "Decision", "Measured", "decide"]

#: Opening of a notice that a decision made: judged again under another policy, it is not repeated.
REMARK = "policy: "
#: Stale entries named before the rest is counted.
_LISTED = 20


@final
@dataclass(frozen=True, slots=True)
class Measured:
    """Subjects of one run with the manuals that explain them, the analyzers that ran, and the intent declared then."""

    subjects: tuple[Subject, ...]
    manuals: tuple[Manual, ...]
    analyzers: tuple[str, ...]
    intent: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Decision:
    """The subjects with their findings, what they come to, and what is to be said of the policy itself."""

    subjects: tuple[Subject, ...]
    verdict: Verdict
    exit_code: int
    remarks: tuple[str, ...] = ()


def decide(
    runs: Sequence[Measured], policy: Policy, *, release: Release | None = None, today: date | None = None
) -> Decision:
    """The verdict on several runs together. The intent is the policy's, else the one declared when it was measured.

    Raises:
        BadPolicy: the release has nothing in common with what was given.
    """
    today = today or datetime.now(UTC).date()
    everything = [subject for run in runs for subject in run.subjects]
    before = counterparts(everything, release) if release else {}
    if release and everything and not before:
        raise BadPolicy(
            f"--compare {release.name}",
            expected="should have a subject in common with what is gated",
            got=f"it has {', '.join(one.id for one in release.report.subjects) or 'none'}",
            hint="--subject-id gives both the same name",
        )
    decided: list[Measured] = []
    for run in runs:
        its_policy = replace(policy, intent=policy.intent or run.intent)
        subjects = []
        for subject in run.subjects:
            judged = judge(subject, run.manuals, its_policy)
            if release and subject.id in before:
                judged = regressed(judged, before[subject.id], run.manuals, its_policy, release=release.name)
            judged = accepted(judged, policy.accepted, today)
            judged = known(judged, policy.baseline) if policy.baseline else judged
            subjects.append(diagnosed(judged, run.manuals))
        decided.append(replace(run, subjects=tuple(subjects)))
    judged_subjects = tuple(subject for run in decided for subject in run.subjects)
    outcome = verdict(judged_subjects, policy)
    said = _remarks(decided, policy, today) + (remarks_on_regression(judged_subjects, release) if release else [])
    return Decision(judged_subjects, outcome, exit_code(outcome, policy), tuple(said))


def _remarks(runs: Sequence[Measured], policy: Policy, today: date) -> list[str]:
    said = remarks_on_acceptance([(run.subjects, run.analyzers) for run in runs], policy.accepted, today)
    if policy.baseline is None:
        return said
    gone = [entry for run in runs for entry in stale(policy.baseline, run.subjects, run.analyzers)]
    for entry in gone[:_LISTED]:
        said.append(f"baseline entry {entry.rule} at {entry.site} of {entry.subject} is stale: its finding is gone")
    if len(gone) > _LISTED:
        said.append(f"{len(gone) - _LISTED:,} more baseline entries are stale")
    if gone:
        said.append("`collapse baseline prune` drops what is stale")
    return said
