"""`collapse diff`: what changed from one checkpoint or dump to another."""

from typing import Annotated

import typer

from collapse_cli.cli import options as flags
from collapse_cli.cli.asked import Judging, Measuring, Reporting, flagged

__all__ = ["diff"]


@flagged
def diff(
    context: typer.Context,
    old: Annotated[str, typer.Argument(metavar="OLD", help="The checkpoint or dump to start from.")],
    new: Annotated[list[str], typer.Argument(metavar="NEW...", help="What it became; several are a pool besides.")],
    measuring: Measuring,
    judging: Judging,
    reporting: Reporting,
    record: flags.Record = False,
) -> int:
    """Measure and judge what changed between two checkpoints or two dumps, site by site and row by row.

    Sites are matched by name and shape, rows by position and ids. Exit codes: 0 nothing at or above --fail-on;
    1 findings; 2 unreadable, wrong usage or a partial analysis; 3 nothing was analysed.
    """
    from collapse_cli.cli.answer import answer
    from collapse_cli.cli.output import Destinations
    from collapse_cli.cli.progress import watching
    from collapse_cli.cli.request import no_empty_path, policy, scan_options

    destinations = Destinations.asked(reporting, quiet=measuring.quiet)
    wanted = policy(context.obj, measuring, judging)
    options = scan_options(context.obj, measuring)
    no_empty_path([old, *new])
    with watching(show=measuring.progress, quiet=measuring.quiet, verbosity=measuring.verbose) as observer:
        from collapse_cli import compare

        report = compare.diff(old, new, wanted, options, observer)
    return answer(report, destinations, [old, *new], has_policy=bool(wanted.accepted or wanted.baseline), record=record)
