"""`collapse scan`: measure and judge checkpoints and folders."""

from typing import Annotated

import typer

from collapse_cli.cli import options as flags
from collapse_cli.cli.asked import Judging, Measuring, Reporting, flagged

__all__ = ["scan"]


@flagged
def scan(
    context: typer.Context,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Checkpoints, dumps, or folders of them.")],
    measuring: Measuring,
    judging: Judging,
    reporting: Reporting,
    record: flags.Record = False,
) -> int:
    """Measure and judge checkpoints and dumps of activations, or all that a folder holds.

    Exit codes: 0 nothing at or above --fail-on; 1 findings; 2 unreadable, wrong usage or a partial analysis;
    3 nothing was analysed.
    """
    from collapse_cli.cli.answer import answer
    from collapse_cli.cli.output import Destinations
    from collapse_cli.cli.progress import watching
    from collapse_cli.cli.request import no_empty_path, policy, scan_options

    destinations = Destinations.asked(reporting, quiet=measuring.quiet)
    wanted = policy(context.obj, measuring, judging)
    options = scan_options(context.obj, measuring)
    no_empty_path(paths)
    with watching(show=measuring.progress, quiet=measuring.quiet, verbosity=measuring.verbose) as observer:
        from collapse_cli import runs

        report = runs.scan(paths, wanted, options, observer)
    return answer(report, destinations, paths, has_policy=bool(wanted.accepted or wanted.baseline), record=record)
