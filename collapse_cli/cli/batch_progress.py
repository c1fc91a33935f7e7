"""What is shown on stderr while a batch runs: subjects and bytes, a bar on a terminal, plain lines elsewhere."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from collapse_cli.cli.messages import plain, say
from collapse_cli.cli.progress import PLAIN_INTERVAL

if TYPE_CHECKING:
    from collapse_cli.batch import Progress

__all__ = ["counting"]


@contextmanager
def counting(*, is_shown: bool, is_asked: bool) -> "Iterator[Callable[[Progress], None]]":
    """Who is told after each subject; asked for in so many words, a plain line comes after every one."""
    if not is_shown:
        yield lambda _progress: None
    elif sys.stderr.isatty():
        with _bar() as advances:
            yield advances
    else:
        yield _lines(0.0 if is_asked else PLAIN_INTERVAL)


def _lines(interval: float) -> "Callable[[Progress], None]":
    last = -math.inf

    def advances(progress: "Progress") -> None:
        nonlocal last
        if time.monotonic() - last >= interval:
            last = time.monotonic()
            reused = f" ({progress.reused:,} measured before)" if progress.reused else ""
            done = f"{progress.subjects:,} of {progress.all_subjects:,} subjects{reused}"
            say(f"scanning: {done}, {progress.bytes:,} of {progress.all_bytes:,} bytes: {plain(progress.name)}")

    return advances


@contextmanager
def _bar() -> "Iterator[Callable[[Progress], None]]":
    from rich import progress as rich_progress
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    bar = rich_progress.Progress(
        TextColumn("{task.fields[subject]}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[subjects]}", markup=False),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        row = bar.add_task("", total=None, subject="starting workers", subjects="")

        def advances(progress: "Progress") -> None:
            bar.update(
                row,
                total=progress.all_bytes,
                completed=progress.bytes,
                subject=plain(progress.name)[-40:],
                subjects=f"{progress.subjects}/{progress.all_subjects} subjects",
            )

        yield advances
