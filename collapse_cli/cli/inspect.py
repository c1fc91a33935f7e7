"""`collapse inspect`: what is in a file, from headers alone."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collapse_cli.cli import options as flags

if TYPE_CHECKING:
    from collapse_cli.core.contents import Contents
    from collapse_cli.errors import InputError

__all__ = ["inspect"]


def inspect(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Checkpoints, or folders of them.")],
    format: Annotated[  # noqa: A002 - the flag's name
        str, typer.Option("-f", "--format", metavar="FORMAT", help="table, json or csv.")
    ] = "table",
    roles: flags.Map = None,
    color: flags.Color = "auto",
    quiet: flags.Quiet = False,
) -> int:
    """List format, tensors, shapes, dtypes, layers and roles, and what cannot be read. Reads headers only.

    Exit codes: 0 all headers are sound; 2 something cannot be read; 3 no checkpoint was found.
    """
    from collapse_cli.cli.messages import say_error
    from collapse_cli.cli.output import has_color, terminal_width, write_text
    from collapse_cli.cli.request import choice, mapping
    from collapse_cli.cli.subjects import files_looked_at
    from collapse_cli.errors import InputError
    from collapse_cli.render.contents import rendered
    from collapse_cli.runs import contents, subject_paths

    choice("--format", format, ("table", "json", "csv"))
    choice("--color", color, ("auto", "always", "never"))
    mapped = mapping(flags.words(roles)).tensors
    found: list[Contents] = []
    problems = 0
    for subject in (subject for path in paths for subject in subject_paths(Path(path))):
        try:
            found.append(contents(subject, roles=mapped))
        except InputError as error:
            problems += 1
            say_error(str(error), hint=error.hint)
            remains = _remains(subject, error)
            found += [remains] if remains else []
    if not quiet and (found or format != "table"):
        is_terminal = sys.stdout.isatty()
        width = terminal_width() if is_terminal else None
        coloured = has_color(color, is_terminal=is_terminal)
        write_text(rendered(found, format, has_color=coloured, width=width), is_machine=format != "table")
    if problems or any(item.unreadable for item in found):
        return 2
    if not found:
        say_error(f"nothing was inspected: {files_looked_at(paths)}")
        return 3
    return 0


def _remains(path: Path, error: "InputError") -> "Contents | None":
    """What still lies whole in a safetensors file that ends too early; None for any other damage."""
    from collapse_cli.core.contents import Contents
    from collapse_cli.core.report import Skip
    from collapse_cli.errors import InputError
    from collapse_cli.runs import subject_id
    from collapse_cli.sources.safetensors import whole_tensors

    file = Path(error.where or path)
    try:
        whole = whole_tensors(file)
        size = file.stat().st_size
    except (InputError, OSError):
        return None
    damage = Skip(None, None, str(error))
    notice = f"whole in it, under stored names: {len(whole)} of its tensors"
    return Contents(subject_id(path), path.as_posix(), "safetensors", size, whole, (damage,), (notice,))
