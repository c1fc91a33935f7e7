"""`collapse list`: the analyzers there are."""

import sys

from collapse_cli.cli import options as flags

__all__ = ["list_analyzers"]


def list_analyzers(
    select: flags.Select = None,
    ignore: flags.Ignore = None,
    format: flags.Format = "table",  # noqa: A002 - the flag's name
    no_plugins: flags.NoPlugins = False,
) -> int:
    """List the analyzers, by family: what each one answers and what it takes."""
    from collapse_cli.analyzers import catalogue, find
    from collapse_cli.cli.request import choice
    from collapse_cli.render.manuals import listed

    choice("--format", format, ("table", "json", "csv", "md"))
    available = catalogue(plugins=not no_plugins)
    chosen = find(available, select=flags.words(select), ignore=flags.words(ignore))
    sys.stdout.write(listed([analyzer.manual for analyzer in chosen], format))
    return 0
