"""One subject of a batch, as a worker process measures it: its report lies in the folder before anybody is told."""

import os
import pickle
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Final, final

from collapse_cli.analyzer import CHECKPOINT_VIEWS, DUMP_VIEWS
from collapse_cli.batch.remembered import Stamp, stamps
from collapse_cli.batch.results import report_file
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import Report, to_json
from collapse_cli.errors import BadPolicy, InputError
from collapse_cli.render import RENDERERS, Look
from collapse_cli.runs import Observer, ScanOptions, assembled, measured
from collapse_cli.sources import open_checkpoint
from collapse_cli.sources.digest import digest
from collapse_cli.sources.dump import is_dump, open_dump
from collapse_cli.whole_file import write_whole

__all__ = ["CHANGED", "VIEWS", "Done", "Task", "Work", "measure", "prepare", "write_report"]

#: What the analyzers of single subjects are handed.
VIEWS: Final = CHECKPOINT_VIEWS | DUMP_VIEWS
#: Notice of a subject whose files changed under the measurement: it gets no digest, so that no report is kept for it.
CHANGED: Final = "its files changed while it was measured; the next batch measures it again"
_THREAD_VARIABLES: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@final
@dataclass(frozen=True, slots=True)
class Work:
    """What all subjects of a batch share: how they are measured and judged, where from, and where reports go."""

    policy: Policy
    options: ScanOptions
    results: Path
    here: Path


@final
@dataclass(frozen=True, slots=True)
class Task:
    """One subject, and the digest for which there is a report that is still good."""

    path: Path
    identity: str
    known: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Done:
    """What came of a task: the report, without its manuals; none where the stored one is still good."""

    report: Report | None
    digest: str | None
    files: tuple[Stamp, ...]
    notices: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def prepare(threads: int) -> None:
    """Make a process ready to measure with its share of the processors."""
    for name in _THREAD_VARIABLES:
        # read when the libraries are loaded, which is now
        os.environ[name] = str(threads)
    import torch

    from collapse_cli.analyzers import catalogue

    torch.set_num_threads(threads)
    catalogue(plugins=False)


def measure(shared: bytes, task: Task) -> Done:
    """Measure, judge and write one subject; where its digest is the known one nothing but the digest is made.

    Raises:
        BadPolicy: the report cannot be written.
    """
    work = _work(shared)
    if Path.cwd() != work.here:
        # another machine's process begins elsewhere, and the paths are relative
        os.chdir(work.here)
    if task.known is not None:
        found = _digested(task.path, work.options)
        if found is not None and found[0] == task.known:
            return Done(None, *found)
    return _measured(work, task)


@lru_cache(maxsize=1)
def _work(shared: bytes) -> Work:
    work: Work = pickle.loads(shared)  # noqa: S301 - from the process that began this one
    import torch

    torch.set_num_threads(work.options.threads or 1)
    return work


def _digested(path: Path, options: ScanOptions) -> tuple[str, tuple[Stamp, ...]] | None:
    is_of_rows = partial(open_dump, roles=options.arrays, as_dump=options.kind == "dump")
    try:
        opened = is_of_rows if options.kind == "dump" or (options.kind is None and is_dump(path)) else open_checkpoint
        source = opened(path)
        source.close()
        files = stamps(source.files, path)
        return digest(source.files), files
    except InputError:
        # measuring it will say why
        return None


def _measured(work: Work, task: Task) -> Done:
    opened: list[Iterable[str | Path]] = []
    before: list[tuple[Stamp, ...]] = []
    warnings: list[str] = []

    def opens(files: Iterable[str | Path]) -> None:
        opened.append(files)
        before.append(stamps(files, task.path))

    observer = Observer(opens=opens, warnings=warnings.append)
    begun = assembled(work.policy, work.options, views=VIEWS)
    subject, said = measured(task.path, task.identity, begun.analyzers, begun.options, observer)
    notices = [f"{task.identity}: {remark}" for remark in said]
    if opened and stamps(opened[-1], task.path) != before[-1]:
        subject = replace(subject, digest=None)
        notices.append(f"{task.identity}: {CHANGED}")
    report = begun.report([subject], work.policy, observer, notices=notices)
    notices += write_report(work.results, report)
    files = before[-1] if before else ()
    return Done(replace(report, manuals=()), subject.digest, files, tuple(notices), tuple(warnings))


def write_report(results: Path, report: Report) -> tuple[str, ...]:
    """Write the report of one subject as files, and return what is worth a notice.

    The JSON comes last, so that where it lies all lie. A page that cannot be drawn costs the page, not the report.

    Raises:
        BadPolicy: the folder does not take them.
    """
    file = results / report_file(report.subjects[0].id)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadPolicy(f'cannot write "{file}"', got=error.strerror or str(error)) from error
    page, said = file.with_suffix(".html"), tuple[str, ...]()
    try:
        drawn = RENDERERS["html"](report, Look())
    except Exception as error:  # noqa: BLE001 - hours of measuring are worth more than a drawing
        page.unlink(missing_ok=True)
        said = (f"{report.subjects[0].id}: its page could not be drawn: {type(error).__name__}: {error}",)
    else:
        write_whole(page, drawn)
    write_whole(file, to_json(report))
    return said
