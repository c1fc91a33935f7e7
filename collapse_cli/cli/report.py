"""`collapse report`: a stored report in other formats."""

from pathlib import Path
from typing import Annotated

import typer

from collapse_cli.cli.asked import Reporting, flagged

__all__ = ["report"]


@flagged
def report(
    result: Annotated[str, typer.Argument(metavar="RESULT.json", help="A report that `-o FILE.json` wrote.")],
    reporting: Reporting,
) -> int:
    """Convert a stored report, findings and verdict as they are; nothing is measured or judged.

    Exit codes: 0 it was converted, whatever its verdict; 2 it cannot be read or written.
    """
    from collapse_cli.cli.output import Destinations, deliver
    from collapse_cli.stored import read_report

    destinations = Destinations.asked(reporting, quiet=False)
    deliver(read_report(Path(result)), destinations)
    return 0
