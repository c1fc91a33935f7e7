"""One pass over a checkpoint: what is wanted is read once, shown to every analyzer that accepts it, and freed.

Tensors that belong together form a job. Small jobs run side by side on threads with one torch thread each, a large one
alone with all of them; each thread reads its next job while others compute, so reading and analysing overlap. Results
are sorted by source order: the number of threads never shows in a report.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from collapse_cli.analyzer import Analyzer
from collapse_cli.core.metric import Measurement
from collapse_cli.core.report import Coverage, Failure, Skip
from collapse_cli.core.site import Role, Site
from collapse_cli.engine.job import Results, Setting, is_out_of_memory, run_job
from collapse_cli.engine.options import Analysis, Options, Progress, wanted_names
from collapse_cli.engine.schedule import Job, Schedule, schedule
from collapse_cli.errors import TimedOut
from collapse_cli.kernels.views import Inventory
from collapse_cli.sources.base import Checkpoint
from collapse_cli.sources.effective import Plan, plan

__all__ = ["Analysis", "Options", "Progress", "analyse"]

#: A block is assembled up to this many bytes, or twice the largest tensor, whichever is more, unless told otherwise:
#: the members of any dense layer fit, and peak memory stays below four times the largest tensor.
_BLOCK_BYTES = 1 << 30
#: Jobs above this size run alone with all threads; below it, two at once gain more than two threads in one.
_SMALL_BYTES = 1 << 27
#: Site of analyzers that look at the checkpoint as a whole.
CHECKPOINT_SITE = "#checkpoint"


def analyse(
    checkpoint: Checkpoint,
    analyzers: Sequence[Analyzer],
    options: Options = Options(),  # noqa: B008 - frozen
    *,
    progress: Callable[[Progress], None] = lambda _progress: None,
) -> Analysis:
    """Everything the analyzers say of a checkpoint. Tensors that nobody accepts are never read.

    A tensor that cannot be read, or an analyzer that fails, is reported and never stops the rest.
    """
    planned = plan(checkpoint, roles=options.roles)
    sizes = _sizes(checkpoint, planned)
    budget = options.max_memory or max(_BLOCK_BYTES, 2 * max(sizes.values(), default=0))
    is_wanted = wanted_names(options)
    scheduled = schedule(planned, analyzers, is_wanted=is_wanted, sizes=sizes.__getitem__, block_budget=budget)
    stop = threading.Event()
    setting, on_cpu = _sessions(checkpoint, analyzers, options, stop)
    found = Results()
    notices: list[str] = []
    stopped = ""
    to_do = (len(scheduled.wanted), sum(sizes[name] for name in scheduled.wanted if name in sizes))
    try:
        for job, results in _run(scheduled.jobs, setting, on_cpu, options, stop=stop, notices=notices):
            found.merge(results)
            done = sum(sizes[name] for name in found.read)
            progress(Progress(len(found.read), to_do[0], done, to_do[1], _job_name(job)))
        _whole(checkpoint, planned, analyzers, found, setting)
    except TimedOut as error:
        stopped = str(error)
    return _analysis(
        checkpoint, planned, analyzers, scheduled, found, notices=notices, stopped=stopped, is_wanted=is_wanted
    )


def _sessions(
    checkpoint: Checkpoint, analyzers: Sequence[Analyzer], options: Options, stop: threading.Event
) -> tuple[Setting, Setting]:
    """How jobs run on the chosen device, and how they are run again on the CPU when its memory is too small."""
    started = time.monotonic()

    def check() -> None:
        if stop.is_set():
            raise TimedOut("not reached: the run was stopped")
        if options.timeout is not None and time.monotonic() - started > options.timeout:
            raise TimedOut(f"not reached: stopped after {options.timeout:g} seconds", hint="--timeout gives it more")

    ranks = {analyzer.name: rank for rank, analyzer in enumerate(analyzers)}
    device = torch.device(options.device)
    on_cpu = Setting(checkpoint.read, ranks, options.seed, check)
    return replace(on_cpu, read=lambda name: checkpoint.read(name).to(device)), on_cpu


def _sizes(checkpoint: Checkpoint, planned: Plan) -> dict[str, int]:
    sizes = {}
    for site in planned.sites:
        origin = checkpoint.origin(site.name)
        sizes[site.name] = origin.end - origin.begin
    return sizes


def _job_name(job: Job) -> str:
    return job.weights[-1].recipe.site.name if job.weights else job.stored[-1].site.name


def _working_bytes(job: Job) -> int:
    """What a job takes at most: its tensors, a Gram matrix, the solver's copy of it and one block in float64."""
    side = 0
    for task in job.weights:
        shape = task.recipe.site.shape
        if task.analyzers and len(shape) >= 2:
            side = max(side, min(shape[0], task.recipe.site.numel // max(shape[0], 1)))
    return job.live_bytes + 3 * 8 * min(side, 8192) ** 2


@contextmanager
def _single_threaded() -> Iterator[None]:
    """One torch thread each while several jobs run side by side; afterwards as it was."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(
    jobs: Sequence[Job],
    setting: Setting,
    on_cpu: Setting,
    options: Options,
    *,
    stop: threading.Event,
    notices: list[str],
) -> Iterator[tuple[Job, Results]]:
    """Every job with its results: small ones side by side, then large ones in turn with the next one read ahead."""
    threads = options.threads or min(_processors(), 8)
    small = [job for job in jobs if _working_bytes(job) <= _SMALL_BYTES] if threads > 1 else []
    if small:
        with _single_threaded():
            pool = ThreadPoolExecutor(threads, "collapse", initializer=torch.set_num_threads, initargs=(1,))
            try:
                running = {pool.submit(_on_device_or_cpu, job, setting, on_cpu, notices): job for job in small}
                for future in as_completed(running):
                    yield running[future], future.result()
            finally:
                # after a timeout or Ctrl-C nothing is begun any more; a job that runs stops before its next analyzer
                if sys.exc_info()[0] is not None:
                    stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
    chosen = {id(job) for job in small}
    large = [job for job in jobs if id(job) not in chosen]
    with ThreadPoolExecutor(1, "collapse-read") as reader:
        ahead: dict[str, Future[Tensor]] = {}
        for position, job in enumerate(large):
            current, ahead = ahead, {}
            mine = replace(setting, read=_read_ahead(current, setting.read))
            for following in large[position + 1 : position + 2]:
                ahead = {name: reader.submit(setting.read, name) for name in _first_reads(following)}
            yield job, _on_device_or_cpu(job, mine, on_cpu, notices)


def _processors() -> int:
    """Processors this process may use, which may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _first_reads(job: Job) -> tuple[str, ...]:
    """The tensor a job begins with: reading one ahead overlaps reading and analysing and holds one tensor more."""
    if job.weights:
        return job.weights[0].recipe.reads[:1]
    return (job.stored[0].site.name,)


def _read_ahead(ahead: dict[str, Future[Tensor]], read: Callable[[str], Tensor]) -> Callable[[str], Tensor]:
    def take(name: str) -> Tensor:
        waiting = ahead.pop(name, None)
        return read(name) if waiting is None else waiting.result()

    return take


def _on_device_or_cpu(job: Job, setting: Setting, on_cpu: Setting, notices: list[str]) -> Results:
    try:
        return run_job(job, setting)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()
    notices.append(f"{_job_name(job)}: the GPU ran out of memory, analysed on the CPU")
    return run_job(job, on_cpu)


def _whole(
    checkpoint: Checkpoint, planned: Plan, analyzers: Sequence[Analyzer], found: Results, setting: Setting
) -> None:
    """Show the checkpoint as a whole, with the content hashes of the pass, to the analyzers that look at it."""
    site = Site(CHECKPOINT_SITE, (), "", None, Role.OTHER)
    view = Inventory(
        site,
        planned.sites,
        config=checkpoint.config,
        hashes={site.name: found.hashes[site.name] for site in planned.sites if site.name in found.hashes},
        layout=checkpoint.layout,
        ties=planned.ties,
    )
    for analyzer in analyzers:
        if analyzer.view == "checkpoint":
            found.show(view, analyzer, (len(planned.sites), 0), setting)


def _analysis(
    checkpoint: Checkpoint,
    planned: Plan,
    analyzers: Sequence[Analyzer],
    scheduled: Schedule,
    found: Results,
    *,
    notices: Sequence[str],
    stopped: str,
    is_wanted: Callable[[str], bool],
) -> Analysis:
    found.results.sort(key=lambda pair: pair[0])
    results = [result for _order, result in found.results]
    measurements = tuple(result for result in results if isinstance(result, Measurement))
    lost = (
        [s for s in (*checkpoint.unreadable, *planned.skips) if s.site is None or is_wanted(s.site)]
        if analyzers
        else []
    )
    skips = [*lost, *scheduled.skips, *(result for result in results if isinstance(result, Skip))]
    named = {s.site for s in skips if s.analyzer is None}
    if stopped:
        unread = [site.name for site in planned.sites if site.name in scheduled.wanted - found.read - named]
        skips += [Skip(None, name, stopped) for name in unread]
    skips += [
        Skip(a.name, None, f"nothing to accept: takes {a.manual.accepts}")
        for a in analyzers
        if a.view != "checkpoint" and a.name not in scheduled.accepting and not any(s.analyzer == a.name for s in skips)
    ]
    wanted = len(scheduled.wanted) + sum(1 for s in lost if s.site not in scheduled.wanted)
    coverage = Coverage(len(planned.sites) + len(checkpoint.unreadable), wanted, len(found.read))
    used = dict.fromkeys([*(m.site for m in measurements), *(s.site for s in skips)])
    order = {site.name: rank for rank, site in enumerate(planned.sites)}
    sites = [site for site in planned.sites if site.name in scheduled.wanted]
    derived = [found.derived[name] for name in used if name in found.derived and name not in order]
    if CHECKPOINT_SITE in used:
        derived.append(Site(CHECKPOINT_SITE, (), "", None, Role.OTHER))
    return Analysis(
        (*sites, *derived),
        measurements,
        tuple(skips),
        tuple(result for result in results if isinstance(result, Failure)),
        coverage,
        tuple(notices),
        dict(found.seconds),
    )
