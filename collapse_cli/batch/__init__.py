"""A folder of subjects measured by parallel workers: one report each, resumed where an earlier run was stopped."""

import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Future, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, final

from collapse_cli.batch.remembered import Digests
from collapse_cli.batch.results import DIGESTS, SUBJECTS, locked, report_file
from collapse_cli.batch.resumed import is_current, rejudged, stored
from collapse_cli.batch.subject import VIEWS, Done, Task, Work, measure, prepare, write_report
from collapse_cli.batch.summary import index_row, ranked, write_summary
from collapse_cli.batch.workers import Workers
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import Coverage, Failure, Report, Subject
from collapse_cli.errors import BadPolicy, CollapseError, InputError
from collapse_cli.render.html_format import IndexRow
from collapse_cli.runs import Assembly, Observer, ScanOptions, assembled, subject_id, subject_paths

if TYPE_CHECKING:
    from collapse_cli.batch.ray_workers import RayWorkers

__all__ = ["EXECUTORS", "BatchOptions", "Executor", "Progress", "batch"]

Executor = Literal["process", "ray"]
EXECUTORS: Final[tuple[Executor, ...]] = ("process", "ray")
#: The engine stops by itself when the seconds of a subject are over, with what it has; only a worker that does not come
#: to look at the clock is killed, after a quarter more and the seconds that reading, digest and report may take.
_LATE_SHARE, _LATE_SECONDS = 1.25, 5.0


@final
@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is: subjects and bytes done and to do, how many reports were good already, the subject done."""

    subjects: int
    all_subjects: int
    reused: int
    bytes: int
    all_bytes: int
    name: str


@final
@dataclass(frozen=True, slots=True)
class BatchOptions:
    """Where reports go, how many workers there are and of which kind, and who else is told.

    `rehash` computes every digest anew; `keep` is given every report once its file is written.
    """

    results: Path = Path("collapse-report")
    jobs: int | None = None
    executor: Executor = "process"
    rehash: bool = False
    keep: Callable[[Report], None] = lambda _report: None
    advances: Callable[[Progress], None] = lambda _progress: None


@final
@dataclass(frozen=True, slots=True)
class _Found:
    """A subject of the folder, and the bytes that it seems to have."""

    path: Path
    identity: str
    bytes: int


@final
@dataclass
class _Batch:
    """A batch on its way: what it works with, and what has come of it so far."""

    begun: Assembly
    policy: Policy
    how: BatchOptions
    observer: Observer
    found: tuple[_Found, ...]
    digests: Digests
    all_bytes: int
    subjects: list[Subject] = field(default_factory=list)
    rows: list[IndexRow] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    reused: int = 0
    bytes: int = 0

    def file(self, one: _Found) -> Path:
        """Where the report of a subject lies."""
        return self.how.results / report_file(one.identity)

    def tell(self, one: _Found, report: Report) -> None:
        """Take in the report of a subject, whose file is written."""
        (subject,) = report.subjects
        self.subjects.append(subject)
        self.rows.append(index_row(report))
        self.bytes += one.bytes
        self.how.keep(report)
        self.observer.ends(subject)
        counts = len(self.subjects), len(self.found), self.reused
        self.how.advances(Progress(*counts, self.bytes, self.all_bytes, one.identity))


def batch(
    folder: "str | os.PathLike[str]",
    policy: Policy = Policy(),
    options: ScanOptions = ScanOptions(),
    how: BatchOptions = BatchOptions(),
    observer: Observer = Observer(),
) -> Report:
    """Measure and judge every subject of a folder; a report each and a summary lie in `how.results` afterwards.

    A subject of which there is a report of the same bytes, version, selection, intent, seed and settings is not
    measured again, only judged. One that cannot be read, or that kills its worker, is a failed subject.

    Raises:
        UnknownAnalyzer: the policy selects what does not exist.
        InputError: there is no such folder, the device does not exist, or Ray is asked for and not installed.
        BadPolicy: the results cannot be written, or another batch writes there; what is finished is kept.
    """
    if not Path(folder).exists():
        raise InputError("there is no such folder", where=str(folder), hint="check the path")
    if options.subject_id is not None:
        raise BadPolicy("--subject-id names one subject", got="a batch has one id per subject")
    with locked(how.results):
        begun = assembled(policy, options, views=VIEWS)
        going = _begun(Path(folder), policy, begun, how, observer)
        try:
            with _pool(going) as pool:
                _run(going, pool)
        finally:
            going.digests.write()
        going.notices += _left_over(going)
        going.subjects.sort(key=ranked)
        report = begun.report(going.subjects, policy, observer, notices=list(dict.fromkeys(going.notices)))
        write_summary(how.results, report, going.rows, title=str(folder))
    return report


def _begun(folder: Path, policy: Policy, begun: Assembly, how: BatchOptions, observer: Observer) -> _Batch:
    options = begun.options
    found: dict[str, _Found] = {}
    notices = []
    for path in subject_paths(folder, include=options.include, exclude=options.exclude):
        identity = subject_id(path, options.base)
        if identity in found:
            notices.append(f"{identity}: {path} is a link to it, and not measured twice")
        else:
            found[identity] = _Found(path, identity, _bytes(path))
    digests = Digests.read(how.results / DIGESTS)
    all_bytes = sum(one.bytes for one in found.values())
    return _Batch(begun, policy, how, observer, tuple(found.values()), digests, all_bytes, notices=notices)


def _left_over(going: _Batch) -> list[str]:
    """What is to be said of reports on subjects that are not in the folder any more, or not wanted this time."""
    mine = {going.file(one) for one in going.found}
    others = [file for file in (going.how.results / SUBJECTS).rglob("*.json") if file not in mine]
    if not others:
        return []
    words = "report there is" if len(others) == 1 else "reports there are"
    return [
        f"{going.how.results}: {len(others):,} {words} of subjects that this batch did not find; gate reads them too"
    ]


def _bytes(path: Path) -> int:
    """Of a file, or of the files of a folder: for progress, not for a report."""
    try:
        if path.is_dir():
            return sum(one.stat().st_size for one in path.iterdir() if one.is_file())
        return path.stat().st_size
    except OSError:
        return 0


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _jobs(going: _Batch) -> int:
    """Workers asked for, or one a processor, and on a GPU one; never more than there are subjects.

    It depends on what the folder holds, not on what is left to do: a resumed batch computes as the first one did.
    """
    asked = going.how.jobs or (1 if going.begun.options.device.startswith("cuda") else _processors())
    return max(1, min(asked, len(going.found)))


@contextmanager
def _pool(going: _Batch) -> "Iterator[Workers | RayWorkers]":
    timeout = going.begun.options.timeout
    seconds = None if timeout is None else timeout * _LATE_SHARE + _LATE_SECONDS
    jobs = _jobs(going)
    if going.how.executor == "ray":
        from collapse_cli.batch.ray_workers import RayWorkers

        pool: Workers | RayWorkers = RayWorkers(
            going.how.jobs, seconds=seconds, on_gpu=going.begun.options.device.startswith("cuda")
        )
    else:
        pool = Workers(jobs, prepare=partial(prepare, _threads(jobs)), seconds=seconds)
    try:
        yield pool
        pool.shutdown()
    except BaseException:
        pool.kill()
        raise


def _threads(jobs: int) -> int:
    """The share of the processors that one of several workers has."""
    return max(1, _processors() // jobs)


def _run(going: _Batch, pool: "Workers | RayWorkers") -> None:
    options = replace(going.begun.options, threads=1 if going.how.executor == "ray" else _threads(_jobs(going)))
    work = Work(going.policy, options, going.how.results.absolute(), Path.cwd())
    shared = pickle.dumps(work)
    waiting: dict[Future[Done], _Found] = {}
    # what has no report keeps the workers busy while the stored ones are read
    for one in sorted(going.found, key=lambda one: going.file(one).exists()):
        known = _reused(going, one)
        if known is not True:
            waiting[pool.submit(measure, shared, Task(one.path, one.identity, known))] = one
    for future in as_completed(waiting):
        _finish(going, waiting.pop(future), future)


def _reused(going: _Batch, one: _Found) -> Literal[True] | str | None:
    """Whether the stored report of a subject still holds; if that hangs on its digest, the digest it would need."""
    report = stored(going.file(one)) if going.file(one).exists() else None
    if report is None or not is_current(report, one.identity, going.begun, going.policy):
        return None
    digest = report.subjects[0].digest
    if going.how.rehash or going.digests.of(one.path) != digest:
        return digest
    _reuse(going, one, report)
    return True


def _reuse(going: _Batch, one: _Found, before: Report) -> None:
    """Judge a stored report again, and write it where that changes what it says."""
    report = rejudged(before, one.path, going.begun, going.policy)
    if report != before:
        going.notices += write_report(going.how.results, report)
    going.reused += 1
    going.notices += [said for said in report.provenance.notices if said.startswith(one.identity)]
    going.tell(one, report)


def _finish(going: _Batch, one: _Found, future: "Future[Done]") -> None:
    try:
        done = future.result()
    except InputError:
        # only writing raises it: measuring makes a failed subject of what cannot be read
        raise
    except Exception as error:  # noqa: BLE001 - whatever one subject does to its worker, the others go on
        report = going.begun.report([_failed(one, error)], going.policy, Observer(), notices=())
        going.notices += write_report(going.how.results, report)
        going.tell(one, report)
        return
    going.digests.remember(one.path, done.digest, done.files)
    if done.report is None:
        before = stored(going.file(one))
        if before is not None:
            _reuse(going, one, before)
            return
        raise BadPolicy(f'"{going.file(one)}" went away while the batch ran')
    going.notices += done.notices
    going.tell(one, replace(done.report, manuals=going.begun.manuals))


def _failed(one: _Found, error: Exception) -> Subject:
    hint = f"; {error.hint}" if isinstance(error, CollapseError) and error.hint else ""
    return Subject(
        id=one.identity,
        path=one.path.as_posix(),
        kind="checkpoint",
        format="unknown",
        digest=None,
        bytes=one.bytes,
        status="failed",
        coverage=Coverage(0, 0, 0),
        failures=(Failure(None, None, type(error).__name__, f"{one.identity}: {error}{hint}"),),
    )
