"""What is shown on stderr while a scan runs: a bar on a terminal, plain lines elsewhere."""

import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from collapse_cli.cli.messages import plain, say, say_error

if TYPE_CHECKING:
    from collapse_cli.core.report import Subject
    from collapse_cli.engine import Progress
    from collapse_cli.runs import Observer

__all__ = ["PLAIN_INTERVAL", "watching"]

#: Seconds between two plain lines where no terminal is there.
PLAIN_INTERVAL = 30.0


@contextmanager
def watching(*, show: bool | None, quiet: bool, verbosity: int) -> "Iterator[Observer]":
    """An observer of a scan that writes to stderr; `show` None means: on a terminal a bar, elsewhere plain lines."""
    _configure_log(verbosity)
    is_terminal = sys.stderr.isatty()
    if quiet or show is False:
        yield _observer(quiet=quiet, verbosity=verbosity)
        return
    if not is_terminal:
        yield _plain(quiet=quiet, verbosity=verbosity, show=bool(show))
        return
    with _bar(verbosity) as observer:
        yield observer


def _configure_log(verbosity: int) -> None:
    if verbosity >= 2:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s: %(message)s")
        logging.getLogger("collapse").setLevel(logging.DEBUG)


def _problems(subject: "Subject") -> None:
    """A subject that failed says so at once, in the words of an error."""
    if subject.status == "failed":
        for failure in subject.failures:
            say_error(failure.message)


def _timings(verbosity: int) -> "dict[str, object]":
    def timings(subject: str, seconds: Mapping[str, float]) -> None:
        for name, spent in sorted(seconds.items(), key=lambda item: -item[1]):
            say(f"{subject}: {name} {spent:.3f} s")

    return {"timings": timings} if verbosity else {}


def _observer(*, quiet: bool, verbosity: int) -> "Observer":
    from collapse_cli.runs import Observer

    if quiet:
        return Observer(ends=_problems, **_timings(verbosity))  # type: ignore[arg-type]
    return Observer(
        ends=_problems,
        notices=lambda text: say(f"notice: {text}"),
        warnings=lambda text: say(f"warning: {text}"),
        **_timings(verbosity),  # type: ignore[arg-type]
    )


def _plain(*, quiet: bool, verbosity: int, show: bool) -> "Observer":
    from dataclasses import replace

    last = -math.inf
    current = ""

    def begins(subject: str) -> None:
        nonlocal current, last
        current = plain(subject)
        if is_due():
            say(f"scanning {current}")

    def is_due() -> bool:
        nonlocal last
        due = show or time.monotonic() - last >= PLAIN_INTERVAL
        last = time.monotonic() if due else last
        return due

    def advances(progress: "Progress") -> None:
        if is_due():
            done = f"{progress.tensors} of {progress.all_tensors} tensors"
            say(f"scanning {current}: {done}, {progress.bytes:,} of {progress.all_bytes:,} bytes")

    return replace(_observer(quiet=quiet, verbosity=verbosity), begins=begins, advances=advances)


@contextmanager
def _bar(verbosity: int) -> "Iterator[Observer]":
    from dataclasses import replace

    from rich import progress as rich_progress
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    bar = rich_progress.Progress(
        TextColumn("{task.fields[subject]}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[tensors]}", markup=False),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        loading = bar.add_task("", total=None, subject="loading torch", tensors="")
        observer = _observer(quiet=False, verbosity=verbosity)
        current = loading

        def begins(subject: str) -> None:
            nonlocal current
            bar.remove_task(current)
            current = bar.add_task("", total=None, subject=plain(subject), tensors="")

        def advances(progress: "Progress") -> None:
            bar.update(
                current,
                total=progress.all_bytes,
                completed=progress.bytes,
                tensors=f"{progress.tensors}/{progress.all_tensors} {plain(progress.name)[-40:]}",
            )

        yield replace(observer, begins=begins, advances=advances)
