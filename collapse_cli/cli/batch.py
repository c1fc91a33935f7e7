"""`collapse batch`: one report per subject of a folder, resumable and parallel, and a ranked summary."""

from pathlib import Path
from typing import Annotated

import typer

from collapse_cli.cli import options as flags
from collapse_cli.cli.asked import Batching, Judging, Measuring, Reporting, flagged

__all__ = ["batch"]


@flagged
def batch(
    context: typer.Context,
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="The folder whose subjects are measured.")],
    measuring: Measuring,
    judging: Judging,
    reporting: Reporting,
    batching: Batching,
    record: flags.Record = False,
) -> int:
    """Measure and judge every subject of a folder in parallel, a report each, and rank them, the worst first.

    Run again, it measures what is new or changed, and judges the rest again. Exit codes are those of one scan of them
    all: 0 nothing at or above --fail-on; 1 findings; 2 unreadable, wrong usage or a partial analysis; 3 nothing was
    analysed.
    """
    from collapse_cli.cli.answer import answer
    from collapse_cli.cli.batch_progress import counting
    from collapse_cli.cli.output import Destinations
    from collapse_cli.cli.progress import watching
    from collapse_cli.cli.recording import recorder
    from collapse_cli.cli.request import choice, no_empty_path, policy, scan_options

    destinations = Destinations.asked(reporting, quiet=measuring.quiet)
    wanted = policy(context.obj, measuring, judging)
    options = scan_options(context.obj, measuring)
    no_empty_path([folder, batching.out])
    choice("--executor", batching.executor, ("process", "ray"))
    is_shown = measuring.progress is not False and not measuring.quiet
    with (
        recorder(record) as keep,
        watching(show=False, quiet=measuring.quiet, verbosity=measuring.verbose) as observer,
        counting(is_shown=is_shown, is_asked=bool(measuring.progress)) as advances,
    ):
        from collapse_cli import batch as batches

        how = batches.BatchOptions(
            results=Path(batching.out),
            jobs=batching.jobs,
            executor="ray" if batching.executor == "ray" else "process",
            rehash=batching.rehash,
            keep=keep,
            advances=advances,
        )
        report = batches.batch(folder, wanted, options, how, observer)
    return answer(report, destinations, [folder], has_policy=bool(wanted.accepted or wanted.baseline))
