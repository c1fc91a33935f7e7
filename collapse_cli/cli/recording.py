"""`--record`: what is measured or judged is kept in the history as well."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collapse_cli.core.report import Report

__all__ = ["recorder"]


@contextmanager
def recorder(is_wanted: bool) -> "Iterator[Callable[[Report], None]]":
    """Who keeps a report; the store is opened before anything is measured, so that a damaged one is said at once.

    Raises:
        InputError: the history cannot be opened or written.
    """
    if not is_wanted:
        yield lambda _report: None
        return
    from collapse_cli.history import History, store_path

    with History(store_path()) as history:

        def keep(report: "Report") -> None:
            history.record(report)

        yield keep
