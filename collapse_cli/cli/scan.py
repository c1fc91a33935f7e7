"""`collapse scan`: measure and judge checkpoints and folders."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from collapse_cli.cli import options as flags

if TYPE_CHECKING:
    from collapse_cli.core.report import Report

__all__ = ["scan"]


def scan(  # noqa: PLR0913 - one parameter a flag
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Checkpoints, dumps, or folders of them.")],
    select: flags.Select = None,
    ignore: flags.Ignore = None,
    sites: flags.Sites = None,
    ignore_sites: flags.IgnoreSites = None,
    include: flags.Include = None,
    exclude: flags.Exclude = None,
    roles: flags.Map = None,
    kind: flags.As = None,
    intent: flags.Intent = None,
    fail_on: flags.FailOn = "error",
    exit_zero: flags.ExitZero = False,
    allow_partial: flags.AllowPartial = False,
    format: flags.Format = "table",  # noqa: A002 - the flag's name
    output: flags.Output = None,
    show_all: flags.All = False,
    quiet: flags.Quiet = False,
    verbose: flags.Verbose = 0,
    color: flags.Color = "auto",
    progress: flags.ProgressFlag = None,
    subject_id: flags.SubjectId = None,
    device: flags.Device = "auto",
    max_memory: flags.MaxMemory = None,
    timeout: flags.Timeout = None,
    seed: flags.Seed = 0,
    no_plugins: flags.NoPlugins = False,
) -> int:
    """Measure and judge checkpoints and dumps of activations, or all that a folder holds.

    Exit codes: 0 nothing at or above --fail-on; 1 findings; 2 unreadable, wrong usage or a partial analysis;
    3 nothing was analysed.
    """
    from collapse_cli.cli.messages import say_error
    from collapse_cli.cli.output import Destinations, deliver
    from collapse_cli.cli.progress import watching
    from collapse_cli.cli.request import choice, mapping, policy
    from collapse_cli.errors import BadPolicy

    destinations = Destinations.parsed(format, tuple(output or ()), color=color, show_all=show_all, quiet=quiet)
    wanted = policy(
        select=flags.words(select), ignore=flags.words(ignore), intent=intent, fail_on=fail_on,
        exit_zero=exit_zero, allow_partial=allow_partial,
    )  # fmt: skip
    mapped = mapping(flags.words(roles))
    held = None if kind is None else choice("--as", kind, ("checkpoint", "dump"))
    if "" in paths:
        raise BadPolicy("PATH is empty", hint="is a variable of the calling script unset?")
    bound = flags.byte_count(max_memory)
    with watching(show=progress, quiet=quiet, verbosity=verbose) as observer:
        from collapse_cli import runs

        report = runs.scan(
            paths,
            wanted,
            runs.ScanOptions(
                device=device,
                seed=seed,
                sites=flags.words(sites),
                ignore_sites=flags.words(ignore_sites),
                include=flags.words(include),
                exclude=flags.words(exclude),
                roles=mapped.tensors,
                arrays=mapped.arrays,
                kind="dump" if held == "dump" else "checkpoint" if held else None,
                max_memory=bound,
                timeout=timeout,
                plugins=not no_plugins,
                subject_id=subject_id,
                command=tuple(sys.argv[1:]),
            ),
            observer,
        )
    deliver(report, destinations)
    if report.verdict.outcome == "empty":
        say_error(f"nothing was analysed: {_reason(report, paths)}")
    return report.exit_code


def _reason(report: "Report", paths: list[str]) -> str:
    from collapse_cli.cli.subjects import files_looked_at
    from collapse_cli.render.verdict import counted, noun

    if not report.subjects:
        return files_looked_at(paths)
    tensors = sum(subject.coverage.sites for subject in report.subjects)
    names = ", ".join(report.provenance.analyzers[:3]) + ("…" if len(report.provenance.analyzers) > 3 else "")
    where = report.subjects[0].id if len(report.subjects) == 1 else counted(len(report.subjects), "subject")
    held = counted(tensors, noun(report.subjects[0]))
    return f"{where} has {held}, none of which an analyzer accepts ({names or 'none selected'})"
