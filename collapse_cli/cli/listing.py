"""`collapse list`: the analyzers there are."""

from typing import Annotated

import typer

from collapse_cli.cli import options as flags

__all__ = ["list_analyzers"]


def list_analyzers(
    select: flags.Select = None,
    ignore: flags.Ignore = None,
    format: Annotated[  # noqa: A002 - the flag's name
        str, typer.Option("-f", "--format", metavar="FORMAT", help="table, json, csv or md.")
    ] = "table",
    no_plugins: flags.NoPlugins = False,
) -> int:
    """List the analyzers, by family: what each one answers and what it takes."""
    from collapse_cli.analyzers import catalogue, find
    from collapse_cli.cli.output import write_text
    from collapse_cli.cli.request import choice
    from collapse_cli.render.manuals import listed

    choice("--format", format, ("table", "json", "csv", "md"))
    available = catalogue(plugins=not no_plugins)
    chosen = find(available, select=flags.words(select), ignore=flags.words(ignore))
    write_text(listed([analyzer.manual for analyzer in chosen], format), is_machine=format in ("json", "csv"))
    return 0
