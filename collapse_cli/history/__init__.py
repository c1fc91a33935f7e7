"""Past reports in an embedded store: what `--record` keeps, `collapse history` lists and `trend` reads."""

import os
import sys
from pathlib import Path

from collapse_cli.core.manual import Manual
from collapse_cli.core.report import Subject
from collapse_cli.history.rebuild import rebuilt
from collapse_cli.history.store import History, Past, Value

__all__ = ["History", "Past", "Value", "members", "rebuilt", "store_path"]


def store_path() -> Path:
    """Where the history lies: `COLLAPSE_HISTORY`, else the user's folder for data of programs."""
    named = os.environ.get("COLLAPSE_HISTORY")
    if named:
        return Path(named)
    if sys.platform == "darwin":
        base = Path("~/Library/Application Support").expanduser()
    else:
        # XDG base directory specification: a relative path there is to be ignored
        said = Path(os.environ.get("XDG_DATA_HOME", ""))
        base = said if said.is_absolute() else Path("~/.local/share").expanduser()
    return base / "collapse" / "history.sqlite"


def members(query: str, path: Path | None = None) -> list[tuple[Subject, tuple[Manual, ...]]]:
    """The stored subjects that a glob matches, with the manuals that explain them, oldest first.

    Raises:
        InputError: there is no history, or it is damaged.
    """
    with History(path or store_path(), is_new=False) as history:
        return [(report.subjects[0], report.manuals) for report in history.reports(query)]
