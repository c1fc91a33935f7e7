"""`collapse baseline`: the accepted present state, written, tightened and listed."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collapse_cli.cli import options as flags
from collapse_cli.cli.asked import Measuring, flagged

if TYPE_CHECKING:
    from collapse_cli.core.report import Report

__all__ = ["create", "prune", "show"]

#: Where a baseline is written if neither a flag nor the configuration names a file.
_NAME = "collapse-baseline.json"

Subjects = Annotated[
    list[str],
    typer.Argument(metavar="SUBJECT...", help="Stored reports, folders of a batch, checkpoints, dumps, folders."),
]
File = Annotated[
    str | None,
    typer.Option("--baseline", envvar="COLLAPSE_BASELINE", metavar="FILE", help="The file.", show_default=_NAME),
]


@flagged
def create(
    context: typer.Context,
    subjects: Subjects,
    measuring: Measuring,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="The file.", show_default=_NAME)
    ] = None,
    baseline: File = None,
) -> int:
    """Write every finding that the policy does not accept into a file; from then on only worse ones count.

    Exit codes: 0 written; 2 written, but the analysis is partial, or nothing could be written; 3 nothing was analysed.
    """
    from collapse_cli.baseline import created, written
    from collapse_cli.cli.messages import say
    from collapse_cli.cli.output import write_whole

    path = _file(context, output or baseline)
    report = _gated(context, subjects, measuring)
    if report.verdict.outcome == "empty":
        return 3
    found = created(report.subjects, _tolerance(path))
    write_whole(path, written(found))
    if not measuring.quiet:
        say(f"{path.as_posix()}: {len(found.entries):,} {_entries(len(found.entries))}")
    return 2 if report.verdict.outcome == "incomplete" else 0


@flagged
def prune(
    context: typer.Context,
    subjects: Subjects,
    measuring: Measuring,
    baseline: File = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit 1 if anything would change.")] = False,
) -> int:
    """Drop entries whose finding is gone and tighten values that improved, of the subjects given and no others.

    Exit codes: 0 done; 1 with --check, there is something to do; 2 unreadable or a partial analysis; 3 nothing was
    analysed.
    """
    from collapse_cli.baseline import pruned, read, written
    from collapse_cli.cli.messages import say
    from collapse_cli.cli.output import write_whole

    path = _file(context, baseline)
    before = read(path)
    report = _gated(context, subjects, measuring)
    if report.verdict.outcome == "empty":
        return 3
    after = pruned(before, report.subjects, report.provenance.analyzers)
    for entry in after.gone:
        say(f"gone: {entry.rule} at {entry.site} of {entry.subject}")
    for entry in after.tightened:
        say(f"tightened: {entry.rule} at {entry.site} of {entry.subject} to {entry.severity} {entry.value:.4g}")
    is_changed = bool(after.gone or after.tightened)
    if is_changed and not check:
        write_whole(path, written(after.baseline))
    left = len(after.baseline.entries)
    words = f"{len(after.gone)} gone, {len(after.tightened)} tightened, {left:,} {_entries(left)} left"
    say(f"{path.as_posix()}: {words}" + (" (nothing was changed)" if is_changed and check else ""))
    if report.verdict.outcome == "incomplete":
        return 2
    return 1 if is_changed and check else 0


def show(
    context: typer.Context,
    baseline: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="The file.", show_default=f"configured, or {_NAME}")
    ] = None,
    format: Annotated[  # noqa: A002 - the flag's name
        str, typer.Option("-f", "--format", metavar="FORMAT", help="table or json.")
    ] = "table",
    config: flags.Config = None,
    isolated: flags.Isolated = False,
    no_plugins: flags.NoPlugins = False,
) -> int:
    """List the findings of a baseline: subject, site, rule, severity and the value that must not get worse."""
    from collapse_cli.baseline import read, written
    from collapse_cli.cli.output import write_text
    from collapse_cli.cli.request import choice
    from collapse_cli.core.text import plain

    del config, isolated, no_plugins  # they acted when the configuration was found
    choice("--format", format, ("table", "json"))
    found = read(_file(context, baseline))
    if format == "json":
        write_text(json.dumps(json.loads(written(found)), indent=2, ensure_ascii=False) + "\n", is_machine=True)
        return 0
    for entry in found.entries:
        sign = "<" if entry.side == "below" else ">"
        line = f"{entry.subject}: {entry.site}: {entry.severity}: {entry.rule} {entry.value:.4g} (limit {sign})"
        write_text(plain(line) + "\n", is_machine=False)
    count = len(found.entries)
    write_text(f"{count:,} {_entries(count)}, tolerance {found.tolerance:g}\n", is_machine=False)
    return 0


def _file(context: Any, named: str | None) -> Path:
    """The file named, else the configured one, else the usual name beside the configuration."""
    if named is not None:
        return Path(named)
    configured = context.obj.values.get("baseline")
    return Path(configured) if configured else (context.obj.folder or Path()) / _NAME


def _tolerance(path: Path) -> float:
    """That of the baseline which is about to be replaced: somebody chose it."""
    from collapse_cli.baseline import read
    from collapse_cli.core.policy import RATCHET
    from collapse_cli.errors import BadPolicy

    try:
        return read(path).tolerance
    except BadPolicy:
        return RATCHET


def _gated(context: Any, subjects: list[str], measuring: Measuring) -> "Report":
    """The subjects judged as `gate` does, without a baseline; an analysis that is not whole says so."""
    from collapse_cli.cli.messages import say, say_error
    from collapse_cli.cli.progress import watching
    from collapse_cli.cli.request import no_empty_path, policy, scan_options
    from collapse_cli.cli.subjects import files_looked_at
    from collapse_cli.gate import gate, is_stored
    from collapse_cli.render import verdict_line

    wanted = policy(context.obj, measuring)
    options = scan_options(context.obj, measuring)
    no_empty_path(subjects)
    shown = False if all(is_stored(Path(subject)) for subject in subjects) else measuring.progress
    with watching(show=shown, quiet=measuring.quiet, verbosity=measuring.verbose) as observer:
        report = gate(subjects, wanted, options, observer)
    if report.verdict.outcome == "empty":
        say_error(f"nothing was analysed: {files_looked_at(subjects)}")
    elif report.verdict.outcome == "incomplete":
        say(verdict_line(report))
    return report


def _entries(count: int) -> str:
    return "entry" if count == 1 else "entries"
