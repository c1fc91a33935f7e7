"""One job, run: its tensors become views, every analyzer that wants a view is shown it, and the views are dropped."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, final

import torch
import xxhash
from torch import Tensor

from collapse_cli.analyzer import Analyzer
from collapse_cli.core.metric import Measurement
from collapse_cli.core.report import Failure, Skip
from collapse_cli.core.site import Site
from collapse_cli.engine.schedule import BlockTask, Job, WeightTask
from collapse_cli.errors import CollapseError, OutOfMemory, TimedOut
from collapse_cli.kernels.views import Block, Stored, Weight, is_finite

__all__ = ["Results", "Setting", "content_hash", "run_job"]

_log = logging.getLogger("collapse")

#: Where a result stands in the report: position of its tensor, rank of its recipe, rank of its analyzer, turn.
Order = tuple[int, int, int, int]
Result = Measurement | Skip | Failure


@final
@dataclass(frozen=True, slots=True)
class Setting:
    """What the jobs of a run share: how to read a stored tensor onto the device, the order of the analyzers, the seed.

    `check` is called before each analyzer and raises when the run must stop (time is up, Ctrl-C).
    """

    read: Callable[[str], Tensor]
    ranks: Mapping[str, int]
    seed: int = 0
    check: Callable[[], None] = lambda: None


@final
@dataclass(slots=True)
class Results:
    """What jobs found out: results and their place in the report, content hashes, derived sites, what was read."""

    results: list[tuple[Order, Result]] = field(default_factory=list)
    hashes: dict[str, tuple[str, bool]] = field(default_factory=dict)
    derived: dict[str, Site] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    notices: list[str] = field(default_factory=list)

    def merge(self, other: "Results") -> None:
        """Take in what another job found."""
        self.results += other.results
        self.hashes |= other.hashes
        self.derived |= other.derived
        for name, spent in other.seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + spent
        self.read |= other.read
        self.notices += other.notices

    def show(self, view: Any, analyzer: Analyzer, order: tuple[int, int], setting: Setting) -> None:
        """Run one analyzer on one view; whatever goes wrong is a failure of this analyzer at this site alone.

        Raises:
            torch.OutOfMemoryError: a CUDA device ran out of memory: the job is tried again on the CPU.
            TimedOut: the run must stop.
        """
        setting.check()
        place = (*order, setting.ranks[analyzer.name])
        site: Site = view.site
        started = time.perf_counter()
        try:
            for turn, result in enumerate(analyzer.run(view)):
                self.results.append(((*place, turn), result))
                if result.site is not None and result.site != site.name and result.site not in self.derived:
                    self.derived[result.site] = Site(result.site, (), site.dtype, site.layer, site.role)
        except TimedOut:
            raise
        except Exception as error:
            if is_out_of_memory(error) and _device(view).type == "cuda":
                raise
            self.results.append(((*place, 1 << 30), failure(error, analyzer.name, site.name)))
        spent = time.perf_counter() - started
        self.seconds[analyzer.name] = self.seconds.get(analyzer.name, 0.0) + spent


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on a CUDA device or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def failure(error: Exception, analyzer: str | None, site: str | None) -> Failure:
    """An exception as a failure of the report; one that nobody raises on purpose is logged with its traceback."""
    if is_out_of_memory(error):
        error = OutOfMemory("not enough memory for this site", hint="a machine with more memory, or --ignore-sites")
    if not isinstance(error, CollapseError):
        _log.debug("%s at %s", analyzer, site, exc_info=error)
    name = type(error).__name__
    message = str(error) if isinstance(error, CollapseError) else f"{error} (a bug: -vv shows the traceback)"
    return Failure(analyzer, site, name, message)


def _device(view: Any) -> torch.device:
    if isinstance(view, Block):
        return next(weights[0] for weights in view.weights.values()).tensor.device
    if isinstance(view, Weight | Stored):
        return view.tensor.device
    members = getattr(view, "members", ())
    # a pair, a pool or a series holds weights; what is said of all sites together holds no tensor at all
    return members[0].tensor.device if members and isinstance(members[0], Weight) else torch.device("cpu")


def content_hash(tensor: Tensor) -> tuple[str, bool]:
    """xxh3-128 of a tensor's bytes, and whether it has more than two distinct values."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    words = flat.view(torch.uint8)
    digest = xxhash.xxh3_128_hexdigest(words.numpy().data)
    if flat.numel() < 3:
        return digest, False
    rows = words.reshape(flat.numel(), -1)
    # the first entries tell almost always, and comparing them all costs ten times the hash
    return digest, _has_three_values(rows[:4096]) or _has_three_values(rows)


def _has_three_values(rows: Tensor) -> bool:
    others = rows[(rows != rows[0]).any(1)] if rows.shape[1] > 1 else rows[rows != rows[0]].reshape(-1, 1)
    return bool(others.shape[0]) and bool((others != others[0]).any())


def run_job(job: Job, setting: Setting) -> Results:
    """Everything the analyzers say of a job's tensors; each stored tensor is read once.

    Raises:
        torch.OutOfMemoryError: a CUDA device is too small for this job; run it again on the CPU.
        TimedOut: the run must stop.
    """
    found = Results()
    tensors = _Tensors(job, setting, found)
    alive: dict[str, Weight] = {}
    pending = list(job.blocks)
    built: set[str] = set()
    for weight_task in job.weights:
        name = weight_task.recipe.site.name
        weight = _build(weight_task, tensors, setting, found)
        if weight is not None:
            alive[name] = weight
            _show_weight(weight, weight_task, setting, found)
        built.add(name)
        ready = [task for task in pending if _members(task) <= built]
        for block in ready:
            _show_block(block, alive, setting, found)
            pending.remove(block)
        needed = set().union(*(_members(task) for task in pending))
        for done in alive.keys() - needed:
            del alive[done]
        for read in weight_task.recipe.reads:
            tensors.release(read)
    for task in job.stored:
        tensors.take(task.site.name)
        tensors.release(task.site.name)
    return found


def _members(task: BlockTask) -> set[str]:
    return {name for names in task.recipe.members.values() for name in names}


@final
class _Tensors:
    """The stored tensors of a job: read, and shown as they lie in the file, when first taken; dropped after last use.

    A tensor that only stored analyzers want is taken last, when the weights are gone.
    """

    def __init__(self, job: Job, setting: Setting, found: Results) -> None:
        self._session, self._found = setting, found
        self._held: dict[str, Tensor] = {}
        self._tasks = {task.site.name: task for task in job.stored}
        self._uses: Counter[str] = Counter(name for task in job.weights for name in task.recipe.reads)
        self._order = {name: task.order[0] for task in job.weights for name in task.recipe.reads}
        self._done: set[str] = set()

    def take(self, name: str) -> Tensor | None:
        """The tensor, or None when it cannot be read (which is then a skip of the report) or was dropped already."""
        if name in self._held or name in self._done:
            return self._held.get(name)
        self._done.add(name)
        task = self._tasks.get(name)
        try:
            tensor = self._session.read(name)
        except CollapseError as error:
            order = self._order[name] if task is None else task.order
            self._found.results.append(((order, -2, 0, 0), Skip(None, name, str(error))))
            return None
        self._held[name] = tensor
        self._found.read.add(name)
        if task is not None:
            if task.is_hashed:
                self._found.hashes[name] = content_hash(tensor)
            view = Stored(task.site, tensor, scale_block=task.scale_block)
            for analyzer in task.analyzers:
                self._found.show(view, analyzer, (task.order, -1), self._session)
        return tensor

    def release(self, name: str) -> None:
        """One use less."""
        self._uses[name] -= 1
        if self._uses[name] <= 0:
            self._held.pop(name, None)


def _build(task: WeightTask, tensors: _Tensors, setting: Setting, found: Results) -> Weight | None:
    stored: dict[str, Tensor] = {}
    for name in task.recipe.reads:
        tensor = tensors.take(name)
        if tensor is None:
            return None
        stored[name] = tensor
    site = task.recipe.site
    if "#" in site.name or site.name not in stored:
        found.derived[site.name] = site
    try:
        weight = task.recipe.build(stored)
    except Exception as error:
        if is_out_of_memory(error) and any(tensor.device.type == "cuda" for tensor in stored.values()):
            raise
        found.results.append(((*task.order, -1, 0), failure(error, None, site.name)))
        return None
    weight.seed = setting.seed
    return weight


def _show_weight(weight: Weight, task: WeightTask, setting: Setting, found: Results) -> None:
    for analyzer in task.analyzers:
        if analyzer.reads_non_finite or weight.get(is_finite):
            found.show(weight, analyzer, task.order, setting)
        else:
            place = (*task.order, setting.ranks[analyzer.name], 0)
            found.results.append((place, Skip(analyzer.name, weight.site.name, "not finite")))


def _show_block(task: BlockTask, alive: Mapping[str, Weight], setting: Setting, found: Results) -> None:
    reason = None
    if not _members(task) <= alive.keys():
        reason = "companion tensor missing: it could not be read"
    elif not all(alive[name].get(is_finite) for name in _members(task)):
        reason = "not finite"
    if reason is not None:
        for analyzer in task.analyzers:
            place = (*task.order, setting.ranks[analyzer.name], 0)
            found.results.append((place, Skip(analyzer.name, task.recipe.site.name, reason)))
        return
    members = {role: tuple(alive[name] for name in names) for role, names in task.recipe.members.items()}
    block = Block(task.recipe.site, members, task.recipe.facts, seed=setting.seed)
    for analyzer in task.analyzers:
        found.show(block, analyzer, task.order, setting)
