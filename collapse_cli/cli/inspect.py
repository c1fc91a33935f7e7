"""`collapse inspect`: what is in a file, from headers alone."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from collapse_cli.cli import options as flags

__all__ = ["inspect"]


def inspect(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Checkpoints, or folders of them.")],
    format: Annotated[  # noqa: A002 - the flag's name
        str, typer.Option("-f", "--format", envvar="COLLAPSE_FORMAT", metavar="FORMAT", help="table, json or csv.")
    ] = "table",
    roles: flags.Map = None,
    color: flags.Color = "auto",
    quiet: flags.Quiet = False,
) -> int:
    """List format, tensors, shapes, dtypes, layers and roles, and what cannot be read. Reads headers only.

    Exit codes: 0 all headers are sound; 2 something cannot be read; 3 no checkpoint was found.
    """
    from collapse_cli.cli.messages import say_error
    from collapse_cli.cli.request import choice, role_map
    from collapse_cli.errors import InputError
    from collapse_cli.render.contents import rendered
    from collapse_cli.runs import contents, subject_paths

    choice("--format", format, ("table", "json", "csv"))
    mapped = role_map(flags.words(roles))
    found = []
    problems = 0
    looked_at = 0
    for path in paths:
        for subject in subject_paths(Path(path)):
            looked_at += 1
            try:
                found.append(contents(subject, roles=mapped))
            except InputError as error:
                problems += 1
                say_error(str(error), hint=error.hint)
    if found and not quiet:
        sys.stdout.write(rendered(found, format, has_color=_color(color), width=_columns()))
    if problems or any(item.unreadable for item in found):
        return 2
    if not looked_at:
        say_error(f"nothing was inspected: no checkpoint under {', '.join(paths)}")
        return 3
    return 0


def _color(when: str) -> bool:
    from collapse_cli.cli.output import has_color

    return has_color(when, is_terminal=sys.stdout.isatty())


def _columns() -> int | None:
    import shutil

    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else None
