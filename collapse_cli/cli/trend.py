"""`collapse trend`: which number moves the wrong way over a run, and since when."""

from typing import Annotated

import typer

from collapse_cli.cli import options as flags
from collapse_cli.cli.asked import Judging, Measuring, Reporting, flagged

__all__ = ["trend"]


@flagged
def trend(
    context: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH...", help="Checkpoints, dumps or stored reports in order, or a folder of them."),
    ],
    measuring: Measuring,
    judging: Judging,
    reporting: Reporting,
    record: flags.Record = False,
) -> int:
    """Measure and judge an ordered run of checkpoints, dumps or stored reports; reports are not measured again.

    Order comes from `step` or `generation` in the metadata, else from the names, else it is the one given. Exit codes:
    0 nothing at or above --fail-on; 1 findings; 2 unreadable, wrong usage or a partial analysis; 3 nothing was
    analysed.
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
        from collapse_cli import compare

        report = compare.trend(paths, wanted, options, observer)
    return answer(report, destinations, paths, has_policy=bool(wanted.accepted or wanted.baseline), record=record)
