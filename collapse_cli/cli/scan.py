"""`collapse scan`: measure and judge checkpoints and folders."""

import sys
from typing import Annotated

import typer

from collapse_cli.cli import options as flags

__all__ = ["scan"]


def scan(  # noqa: PLR0913 - one parameter a flag
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Checkpoints, or folders of them.")],
    select: flags.Select = None,
    ignore: flags.Ignore = None,
    sites: flags.Sites = None,
    ignore_sites: flags.IgnoreSites = None,
    include: flags.Include = None,
    exclude: flags.Exclude = None,
    roles: flags.Map = None,
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
    """Measure and judge checkpoints, or every checkpoint of a folder.

    Exit codes: 0 nothing at or above --fail-on; 1 findings; 2 unreadable, wrong usage or a partial analysis;
    3 nothing was analysed.
    """
    from collapse_cli.cli.output import Destinations, deliver
    from collapse_cli.cli.progress import watching
    from collapse_cli.cli.request import policy, role_map
    from collapse_cli.core.report import Report

    destinations = Destinations.parsed(format, tuple(output or ()), color=color, show_all=show_all, quiet=quiet)
    wanted = policy(
        select=flags.words(select), ignore=flags.words(ignore), intent=intent, fail_on=fail_on,
        exit_zero=exit_zero, allow_partial=allow_partial,
    )  # fmt: skip
    mapped = role_map(flags.words(roles))
    bound = flags.byte_count(max_memory)
    with watching(show=progress, quiet=quiet, verbosity=verbose) as observer:
        from collapse_cli import runs

        report: Report = runs.scan(
            paths,
            wanted,
            runs.ScanOptions(
                device=device,
                seed=seed,
                sites=flags.words(sites),
                ignore_sites=flags.words(ignore_sites),
                include=flags.words(include),
                exclude=flags.words(exclude),
                roles=mapped,
                max_memory=bound,
                timeout=timeout,
                plugins=not no_plugins,
                subject_id=subject_id,
                command=tuple(sys.argv[1:]),
            ),
            observer,
        )
    deliver(report, destinations)
    return report.exit_code
