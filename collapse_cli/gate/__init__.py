"""The gate: stored reports are judged again, everything else is measured first; one verdict over all of it."""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from collapse_cli._version import __version__
from collapse_cli.analyzers import Catalogue, catalogue, find
from collapse_cli.core.manual import Manual
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import SCHEMA_VERSION, Coverage, Failure, Provenance, Report, Subject, Tool
from collapse_cli.decision import REMARK, Decision, Measured, decide
from collapse_cli.errors import InputError
from collapse_cli.gate.merged import merged_manuals, merged_notices, merged_provenance, no_provenance
from collapse_cli.gate.retained import NOT_RUN, is_included, is_meant, retained
from collapse_cli.regression import Release
from collapse_cli.runs import Observer, ScanOptions, scan, subject_id
from collapse_cli.stored import batch_reports, is_report, read_report

__all__ = ["NOT_RUN", "gate", "is_stored"]


def gate(
    paths: "Iterable[str | os.PathLike[str]]",
    policy: Policy = Policy(),  # noqa: B008 - frozen
    options: ScanOptions = ScanOptions(),  # noqa: B008 - frozen
    observer: Observer = Observer(),  # noqa: B008 - frozen
    *,
    compare: Path | None = None,
) -> Report:
    """One verdict over stored reports, folders of a batch, checkpoints and dumps. Reports are judged without torch.

    Findings and verdict of a stored report are discarded. An analyzer that the policy selects by name or family and
    that a report did not run makes its subjects partial. With `compare` what got worse since that report is a finding.

    Raises:
        UnknownAnalyzer: the policy selects what does not exist.
        InputError: `compare` is no report, or the device does not exist.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    release = None if compare is None else Release(compare.as_posix(), read_report(compare))
    reports = _reports(paths, policy, options, observer)
    available = catalogue(plugins=options.plugins)
    _check_selection(policy, available, [manual for report in reports for manual in report.manuals])
    measured = [retained(report, policy, options, available) for report in reports]
    decided = decide(measured, policy, release=release)
    for remark in decided.remarks:
        observer.warnings(remark)
    provenance = replace(
        merged_provenance(reports, measured, policy, options),
        started=started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        seconds=round(time.monotonic() - clock, 3),
        notices=(*merged_notices(reports), *(REMARK + remark for remark in decided.remarks)),
    )
    return _report(decided, provenance, merged_manuals(reports))


def _report(decided: Decision, provenance: Provenance, manuals: tuple[Manual, ...]) -> Report:
    tool = Tool("collapse", __version__)
    return Report(SCHEMA_VERSION, tool, provenance, manuals, decided.subjects, decided.verdict, decided.exit_code)


def _reports(
    paths: "Iterable[str | os.PathLike[str]]", policy: Policy, options: ScanOptions, observer: Observer
) -> list[Report]:
    """Stored and freshly measured reports, in the order of the paths."""
    reports = []
    for has_reports, group in groupby((Path(path) for path in paths), key=is_stored):
        if not has_reports:
            # what it says of the policy is said once, of everything together
            reports.append(scan(list(group), policy, options, replace(observer, warnings=lambda _text: None)))
            continue
        for path in (inner for outer in group for inner in _stored(outer) or ()):
            report = _read(path, options)
            for subject in report.subjects:
                if subject.status == "failed":
                    observer.ends(subject)
            reports.append(report)
    return reports


def is_stored(path: Path) -> bool:
    """Whether a path is a stored report, or a folder of them, and needs no measuring."""
    return _stored(path) is not None


def _stored(path: Path) -> list[Path] | None:
    """The report files that a path stands for; None if it is to be measured."""
    if path.is_dir():
        return batch_reports(path)
    return [path] if is_report(path) else None


def _read(path: Path, options: ScanOptions) -> Report:
    """The report of a file; one that cannot be read is a failed subject, and the others go on."""
    try:
        report = read_report(path)
    except InputError as error:
        return _unread(path, error, options)
    wanted = tuple(one for one in report.subjects if is_included(one.id, options))
    if options.subject_id is not None:
        wanted = tuple(replace(one, id=options.subject_id) for one in wanted)
    return replace(report, subjects=wanted)


def _unread(path: Path, error: InputError, options: ScanOptions) -> Report:
    message = f"{error}; {error.hint}" if error.hint else str(error)
    subject = Subject(
        id=options.subject_id or subject_id(path, options.base),
        path=path.as_posix(),
        kind="checkpoint",
        format="report",
        digest=None,
        bytes=path.stat().st_size if path.is_file() else 0,
        status="failed",
        coverage=Coverage(0, 0, 0),
        failures=(Failure(None, None, type(error).__name__, message),),
    )
    empty = decide([Measured((subject,), (), ())], Policy())
    return _report(empty, no_provenance(options), ())


def _check_selection(policy: Policy, available: Catalogue, manuals: Sequence[Manual]) -> None:
    """A word of the selection may name what only a stored report knows, a plugin that is not installed here."""
    for token in (*policy.select, *policy.ignore):
        if not any(is_meant(manual, (token,)) for manual in manuals):
            find(available, select=(token,))
