"""Rows of the history: as a table, JSON or CSV on stdout, and as files, among them Parquet."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from collapse_cli.cli.output import has_color, terminal_width, write_text
from collapse_cli.core.text import inert, plain
from collapse_cli.errors import BadPolicy
from collapse_cli.whole_file import write_whole

__all__ = ["checked", "export", "show"]

_SUFFIXES = (".csv", ".json", ".parquet")


def checked(word: str) -> Path:
    """The file that `-o` names, if it can be written: said before anything is read.

    Raises:
        BadPolicy: an unknown suffix, no such folder, or Parquet without pyarrow.
    """
    path = Path(word)
    if path.suffix.lower() not in _SUFFIXES:
        raise BadPolicy(f'--output "{word}"', expected=f"should end in one of {', '.join(_SUFFIXES)}")
    if not path.parent.is_dir():
        raise BadPolicy(f'--output "{word}"', expected="should lie in a folder that exists")
    if path.suffix.lower() == ".parquet" and find_spec("pyarrow") is None:
        raise BadPolicy(f'--output "{word}"', got="Parquet needs pyarrow", hint="pip install pyarrow, or -o FILE.csv")
    return path


def export(rows: Sequence[dict[str, Any]], columns: Sequence[str], path: Path) -> None:
    """Write the rows to a file of the format that its suffix names.

    Raises:
        BadPolicy: it cannot be written.
    """
    if path.suffix.lower() == ".parquet":
        import pandas as pd

        try:
            pd.DataFrame(list(rows), columns=list(columns)).to_parquet(path, index=False)
        except OSError as error:
            raise BadPolicy(f'cannot write "{path}"', got=error.strerror or str(error)) from error
        return
    write_whole(path, _csv(rows, columns) if path.suffix.lower() == ".csv" else _json(rows))


def show(rows: Sequence[dict[str, Any]], columns: Sequence[str], chosen: str, *, color: str) -> None:
    """The rows on stdout; a table on a terminal, elsewhere one line a row, nothing cut."""
    if chosen == "table":
        is_terminal = sys.stdout.isatty()
        if rows and (is_terminal or color == "always"):
            write_text(_table(rows, is_coloured=has_color(color, is_terminal=is_terminal)), is_machine=False)
        else:
            write_text(_lines(rows), is_machine=False)
        return
    write_text(_csv(rows, columns) if chosen == "csv" else _json(rows), is_machine=True)


def _json(rows: Sequence[dict[str, Any]]) -> str:
    return json.dumps(list(rows), indent=1) + "\n"


def _csv(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: inert(value) if isinstance(value, str) else _exact(value) for key, value in row.items()})
    return stream.getvalue()


def _exact(value: object) -> str:
    return "" if value is None else repr(value)


def _shown(value: object) -> str:
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else plain(str(value))


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join("  ".join(_shown(value) for value in row.values()) + "\n" for row in rows)


def _short(digest: object) -> str | None:
    return None if digest is None else str(digest).removeprefix("sha256:")[:12]


def _table(rows: Sequence[dict[str, Any]], *, is_coloured: bool) -> str:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    # twelve characters tell two files apart; the whole digest is in the other formats
    rows = [{name: _short(value) if name == "digest" else value for name, value in row.items()} for row in rows]
    for name, value in rows[0].items():
        table.add_column(name, overflow="fold", justify="right" if isinstance(value, int | float) else "left")
    for row in rows:
        table.add_row(*(Text(_shown(value)) for value in row.values()))
    stream = io.StringIO()
    Console(file=stream, width=terminal_width(), force_terminal=is_coloured, no_color=not is_coloured).print(table)
    return stream.getvalue()
