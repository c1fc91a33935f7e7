"""`collapse gate`: a verdict for CI over stored reports, without torch, or over what is measured first."""

from pathlib import Path
from typing import Annotated

import typer

from collapse_cli.cli import options as flags
from collapse_cli.cli.asked import Judging, Measuring, Reporting, flagged

__all__ = ["gate"]


@flagged
def gate(
    context: typer.Context,
    subjects: Annotated[
        list[str],
        typer.Argument(metavar="SUBJECT...", help="Stored reports, folders of a batch, checkpoints, dumps, folders."),
    ],
    measuring: Measuring,
    judging: Judging,
    reporting: Reporting,
    compare: flags.Compare = None,
    record: flags.Record = False,
) -> int:
    """Judge stored reports again, or measure and judge: limits, accepted findings, baseline and the last release.

    Exit codes: 0 nothing at or above --fail-on; 1 findings; 2 unreadable, wrong usage or a partial analysis;
    3 nothing was analysed.
    """
    from collapse_cli.cli.answer import answer
    from collapse_cli.cli.output import Destinations
    from collapse_cli.cli.progress import watching
    from collapse_cli.cli.request import no_empty_path, policy, scan_options
    from collapse_cli.gate import gate as gated
    from collapse_cli.gate import is_stored

    destinations = Destinations.asked(reporting, quiet=measuring.quiet)
    wanted = policy(context.obj, measuring, judging)
    options = scan_options(context.obj, measuring)
    no_empty_path(subjects)
    shown = False if all(is_stored(Path(subject)) for subject in subjects) else measuring.progress
    with watching(show=shown, quiet=measuring.quiet, verbosity=measuring.verbose) as observer:
        old = None if compare is None else Path(compare)
        report = gated(subjects, wanted, options, observer, compare=old)
    return answer(report, destinations, subjects, has_policy=True, record=record)
