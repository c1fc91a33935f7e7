"""Several reports as one: their manuals, and how their numbers came about as far as they agree."""

import platform
from collections.abc import Sequence
from dataclasses import replace

from collapse_cli.core.manual import Manual
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import PolicyRecord, Provenance, Report
from collapse_cli.decision import REMARK, Measured
from collapse_cli.runs import ScanOptions

__all__ = ["merged_manuals", "merged_notices", "merged_provenance", "no_provenance"]


def merged_manuals(reports: Sequence[Report]) -> tuple[Manual, ...]:
    """One manual an analyzer, the first report's; metrics that only another report knows are added to it."""
    found: dict[str, Manual] = {}
    for manual in (manual for report in reports for manual in report.manuals):
        there = found.setdefault(manual.name, manual)
        names = {metric.name for metric in there.metrics}
        more = tuple(metric for metric in manual.metrics if metric.name not in names)
        found[manual.name] = replace(there, metrics=there.metrics + more) if more else there
    return tuple(found.values())


def merged_notices(reports: Sequence[Report]) -> tuple[str, ...]:
    """What was said when the numbers were measured, and of which analyzers the reports carry different manuals."""
    first: dict[str, Manual] = {}
    manuals = [manual for report in reports for manual in report.manuals]
    differing = {manual.name for manual in manuals if first.setdefault(manual.name, manual) != manual}
    said = (one for report in reports for one in report.provenance.notices if not one.startswith(REMARK))
    words = "the reports carry different manuals of {}: each was judged by its own"
    return (*dict.fromkeys(said), *(words.format(name) for name in sorted(differing)))


def merged_provenance(
    reports: Sequence[Report], measured: Sequence[Measured], policy: Policy, options: ScanOptions
) -> Provenance:
    """How the numbers came about; the analyzers are those that ran on every subject that could be read."""
    told = [report.provenance for report in reports]
    read = [run.analyzers for run in measured if any(subject.status != "failed" for subject in run.subjects)]
    common = tuple(name for name in (read[0] if read else ()) if all(name in names for names in read))
    intents = {run.intent for run in measured}
    return replace(
        no_provenance(options),
        torch=next((one.torch for one in told if one.torch), None),
        device=", ".join(dict.fromkeys(one.device for one in told if one.device)),
        seed=told[0].seed if told else options.seed,
        intent=policy.intent or (intents.pop() if len(intents) == 1 else None),
        analyzers=common,
        policy=PolicyRecord(policy.file, policy.digest),
        plugins=tuple(dict.fromkeys(plugin for one in told for plugin in one.plugins)),
    )


def no_provenance(options: ScanOptions) -> Provenance:
    """That of a report for which nothing was measured."""
    return Provenance(
        started="",
        seconds=0.0,
        command=options.command,
        python=platform.python_version(),
        torch=None,
        device="",
        seed=options.seed,
        intent=None,
        analyzers=(),
        policy=PolicyRecord(None, None),
    )
