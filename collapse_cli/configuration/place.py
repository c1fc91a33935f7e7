"""Where the configuration lies: the nearest file upwards from a folder, one file only."""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from collapse_cli.configuration.lines import Place
from collapse_cli.errors import BadPolicy

__all__ = ["NAME", "Document", "document", "nearest"]

NAME = "collapse.toml"
_SHARED = "pyproject.toml"
#: Where in a `pyproject.toml` the keys are.
_SECTION = ("tool", "collapse")
#: A configuration is written by hand; more bytes than this are something else.
_LARGEST = 1_000_000


@final
@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: its path as it is spoken of, its text, where in it the keys stand, and the keys."""

    path: Path
    text: str
    root: Place
    table: dict[str, Any]


def nearest(folder: Path) -> Document | None:
    """The configuration of a folder or of the nearest one above it.

    In one folder `collapse.toml` goes before `pyproject.toml`; a `pyproject.toml` without the table is passed over.

    Raises:
        BadPolicy: the nearest file cannot be read.
    """
    for above in (folder, *folder.parents):
        if (above / NAME).is_file():
            return document(above / NAME)
        shared = above / _SHARED
        if shared.is_file() and (found := _section(shared)) is not None:
            return found
    return None


def _section(shared: Path) -> Document | None:
    try:
        whole = shared.read_bytes()
    except OSError:
        return None
    # whoever broke another tool's table has not configured this one
    return document(shared) if b"collapse" in whole and _has_section(whole) else None


def _has_section(whole: bytes) -> bool:
    try:
        tool = tomllib.loads(whole.decode()).get("tool")
    except ValueError:
        return b"tool.collapse" in whole
    return isinstance(tool, dict) and "collapse" in tool


def document(path: Path) -> Document:
    """The configuration that a file holds; in a `pyproject.toml` it is the table `tool.collapse`.

    Raises:
        BadPolicy: it cannot be read, is not TOML, or has no such table.
    """
    shown = Path(_shown(path))
    where = shown.as_posix()
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise BadPolicy(
                "the file",
                where=where,
                expected="should be a configuration written by hand",
                got=f"it has {size:,} bytes",
            )
        text = path.read_bytes().decode("utf-8-sig")
        table: Any = tomllib.loads(text)
    except OSError as error:
        raise BadPolicy("cannot read the configuration", where=where, got=error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise BadPolicy("is not TOML", where=where, got=str(error)) from error
    if path.name != _SHARED:
        return Document(shown, text, (), table)
    for part in _SECTION:
        table = table.get(part) if isinstance(table, dict) else None
    if not isinstance(table, dict):
        raise BadPolicy("has no table [tool.collapse]", where=where)
    return Document(shown, text, _SECTION, table)


def _shown(path: Path) -> str:
    """The path as seen from the working directory."""
    try:
        return os.path.relpath(path)
    except ValueError:  # another drive
        return str(path)
