"""What of a stored report a policy looks at: its measurements, without what was said of them then."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Final

from collapse_cli.analyzer import CHECKPOINT_VIEWS, DUMP_VIEWS, Analyzer
from collapse_cli.analyzers import Catalogue
from collapse_cli.core.manual import Manual
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import Failure, Report, Skip, Status, Subject
from collapse_cli.decision import Measured
from collapse_cli.runs import ScanOptions

__all__ = ["NOT_RUN", "is_included", "is_meant", "retained"]

#: Error of a failure that says: the policy asks for an analyzer that the report did not run.
NOT_RUN: Final = "NotRun"
#: What the analyzers of a subject of that kind are handed; of pairs and runs all the rest.
_VIEWS: Final = {"checkpoint": CHECKPOINT_VIEWS, "dump": DUMP_VIEWS}


def retained(report: Report, policy: Policy, options: ScanOptions, available: Catalogue) -> Measured:
    """What is left of a report without what the policy does not select; whoever judges it discards its findings."""
    kept = {
        manual.name
        for manual in report.manuals
        if (not policy.select or is_meant(manual, policy.select)) and not is_meant(manual, policy.ignore)
    }
    ran = tuple(name for name in report.provenance.analyzers if name in kept)
    asked = [
        analyzer
        for analyzer in available.analyzers
        if {analyzer.name, analyzer.manual.family} & set(policy.select)
        and not is_meant(analyzer.manual, policy.ignore)
        and analyzer.name not in ran
    ]
    subjects = tuple(_taken(one, kept, asked, _wanted_sites(options)) for one in report.subjects)
    return Measured(subjects, report.manuals, ran, report.provenance.intent)


def is_meant(manual: Manual, tokens: Sequence[str]) -> bool:
    """Whether a name, a family, a glob or `all` among the tokens means an analyzer."""
    return any(
        token == "all" or fnmatchcase(manual.name, token) or fnmatchcase(manual.family, token)  # noqa: S105
        for token in tokens
    )


def is_included(name: str, options: ScanOptions) -> bool:
    """Whether a subject of a stored report is wanted: `--include` and `--exclude` go by its id there."""

    def matches(patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, one) or fnmatchcase(name.rpartition("/")[2], one) for one in patterns)

    return not matches(options.exclude) and (not options.include or matches(options.include))


def _wanted_sites(options: ScanOptions) -> Callable[[str | None], bool]:
    def is_wanted(site: str | None) -> bool:
        if site is None:
            return True
        # a part of a tensor is wanted with its tensor
        names = (site, site.partition("#")[0])
        if any(fnmatchcase(name, pattern) for pattern in options.ignore_sites for name in names):
            return False
        return not options.sites or any(fnmatchcase(name, pattern) for pattern in options.sites for name in names)

    return is_wanted


def _taken(
    subject: Subject, kept: set[str], asked: Sequence[Analyzer], is_wanted: Callable[[str | None], bool]
) -> Subject:
    if subject.status == "failed":
        return subject

    def stays(one: Skip | Failure) -> bool:
        return (one.analyzer is None or one.analyzer in kept) and is_wanted(one.site)

    words = "the policy selects it and the report did not run it"
    missing = (Failure(one.name, None, NOT_RUN, words) for one in asked if _is_for(subject, one))
    taken = replace(
        subject,
        measurements=tuple(one for one in subject.measurements if one.analyzer in kept and is_wanted(one.site)),
        skips=tuple(one for one in subject.skips if stays(one)),
        failures=(*(one for one in subject.failures if one.error != NOT_RUN and stays(one)), *missing),
    )
    return replace(taken, status=_status(subject, taken))


def _is_for(subject: Subject, analyzer: Analyzer) -> bool:
    """Whether an analyzer is handed views of such a subject."""
    views = {analyzer.view, *analyzer.also}
    own = _VIEWS.get(subject.kind)
    return bool(views & own if own else views - CHECKPOINT_VIEWS - DUMP_VIEWS)


def _status(before: Subject, taken: Subject) -> Status:
    if taken.failures or any(skip.analyzer is None for skip in taken.skips):
        return "partial"
    if before.status == "partial" and not before.failures and all(skip.analyzer for skip in before.skips):
        # partial for a reason that the report does not break down
        return "partial"
    return "empty" if before.status == "empty" or not taken.measurements else "complete"
