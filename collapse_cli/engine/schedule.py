"""Who wants what: from headers alone, the jobs of one pass. A job holds the tensors that must be in memory together."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import final

from collapse_cli.analyzer import Acceptance, Analyzer
from collapse_cli.core.report import Skip
from collapse_cli.core.site import Site
from collapse_cli.sources.effective import BlockRecipe, Plan, WeightRecipe

__all__ = ["BlockTask", "Job", "Schedule", "StoredTask", "WeightTask", "schedule"]


@final
@dataclass(frozen=True, slots=True)
class StoredTask:
    """One stored tensor, the analyzers that want it as it lies in the file, and whether its content is hashed.

    `scale_block` is the number of entries that share one scale, for a scaled fp8 tensor only.
    """

    site: Site
    order: int
    analyzers: tuple[Analyzer, ...]
    is_hashed: bool = False
    scale_block: int | None = None


@final
@dataclass(frozen=True, slots=True)
class WeightTask:
    """One effective weight and the analyzers that want it; without analyzers it is built for a block only."""

    recipe: WeightRecipe
    order: tuple[int, int]
    analyzers: tuple[Analyzer, ...]


@final
@dataclass(frozen=True, slots=True)
class BlockTask:
    """One block and the analyzers that want it."""

    recipe: BlockRecipe
    order: tuple[int, int]
    analyzers: tuple[Analyzer, ...]


@final
@dataclass(frozen=True, slots=True)
class Job:
    """Tensors that are read together, in source order, and everything done with them. `live_bytes` is the peak held."""

    stored: tuple[StoredTask, ...]
    weights: tuple[WeightTask, ...]
    blocks: tuple[BlockTask, ...]
    live_bytes: int


@final
@dataclass(frozen=True, slots=True)
class Schedule:
    """The jobs in source order, the names of the stored tensors somebody wants, and what was left out and why."""

    jobs: tuple[Job, ...]
    wanted: frozenset[str]
    skips: tuple[Skip, ...] = ()
    accepting: frozenset[str] = field(default_factory=frozenset)


def schedule(
    plan: Plan,
    analyzers: Sequence[Analyzer],
    *,
    is_wanted: Callable[[str], bool] = lambda _name: True,
    sizes: Callable[[str], int],
    block_budget: int,
) -> Schedule:
    """The jobs that a plan and a selection of analyzers come to.

    `is_wanted` filters stored tensors by name, `sizes` gives their stored bytes. A block whose members together exceed
    `block_budget` bytes is not assembled; its analyzers get a skip that says so, its weights are analysed one by one.
    """
    position = {site.name: index for index, site in enumerate(plan.sites)}
    stored = _stored_tasks(plan, analyzers, is_wanted, position)
    recipes = {recipe.site.name: recipe for recipe in plan.weights if all(map(is_wanted, recipe.reads))}
    blocks, skips = _block_tasks(plan, analyzers, recipes, sizes=sizes, budget=block_budget, position=position)
    in_blocks = {name for task in blocks for names in task.recipe.members.values() for name in names}
    weights = []
    for rank, recipe in enumerate(plan.weights):
        if recipe.site.name not in recipes:
            continue
        accepted = tuple(a for a in analyzers if a.view == "weight" and a.acceptance.is_accepted(recipe.site))
        if accepted or recipe.site.name in in_blocks:
            weights.append(WeightTask(recipe, (_first(recipe.reads, position), rank), accepted))
    jobs = _jobs(stored, weights, blocks, sizes)
    wanted = {task.site.name for task in stored} | {name for task in weights for name in task.recipe.reads}
    accepting = {a.name for group in (stored, weights, blocks) for task in group for a in task.analyzers}
    return Schedule(jobs, frozenset(wanted), tuple(skips), frozenset(accepting))


def _first(names: Iterable[str], position: dict[str, int]) -> int:
    return min((position[name] for name in names if name in position), default=len(position))


def _stored_tasks(
    plan: Plan, analyzers: Sequence[Analyzer], is_wanted: Callable[[str], bool], position: dict[str, int]
) -> list[StoredTask]:
    tasks = []
    for site in plan.sites:
        if not is_wanted(site.name):
            continue
        accepted = tuple(a for a in analyzers if a.view == "stored" and a.acceptance.is_accepted(site))
        is_hashed = any(a.view == "checkpoint" and a.acceptance.is_accepted(site) for a in analyzers)
        if accepted or is_hashed:
            tasks.append(StoredTask(site, position[site.name], accepted, is_hashed, plan.scale_blocks.get(site.name)))
    return tasks


def _takes(acceptance: Acceptance, block: BlockRecipe) -> bool:
    return acceptance.is_accepted(block.site) and acceptance.roles <= block.members.keys()


def _block_tasks(
    plan: Plan,
    analyzers: Sequence[Analyzer],
    recipes: dict[str, WeightRecipe],
    *,
    sizes: Callable[[str], int],
    budget: int,
    position: dict[str, int],
) -> tuple[list[BlockTask], list[Skip]]:
    tasks: list[BlockTask] = []
    skips: list[Skip] = []
    for rank, block in enumerate(plan.blocks):
        names = [name for members in block.members.values() for name in members]
        if not all(name in recipes for name in names):
            continue
        accepted = tuple(
            a
            for a in analyzers
            if (a.view == "block" and _takes(a.acceptance, block))
            or (a.view == "weight" and a.companions is not None and _takes(a.companions, block))
        )
        if not accepted:
            continue
        reads = {read for name in names for read in recipes[name].reads}
        total = sum(map(sizes, reads))
        if total > budget:
            reason = (
                f"the block takes {total:,} bytes at once, more than {budget:,}: "
                f"--max-memory {-(-total // 2**30)}GiB analyses it"
            )
            skips.extend(Skip(a.name, block.site.name, reason) for a in accepted)
            continue
        tasks.append(BlockTask(block, (_first(reads, position), len(plan.weights) + rank), accepted))
    return tasks, skips


def _jobs(
    stored: Sequence[StoredTask],
    weights: Sequence[WeightTask],
    blocks: Sequence[BlockTask],
    sizes: Callable[[str], int],
) -> tuple[Job, ...]:
    """Connected components: tensors that feed one weight, and weights that form one block, belong together."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    def join(names: Iterable[str]) -> None:
        first, *others = names
        anchor = root(first)
        for other in others:
            parent[root(other)] = anchor

    reads = {task.recipe.site.name: task.recipe.reads for task in weights}
    for task in weights:
        join(task.recipe.reads)
    for block in blocks:
        join(read for names in block.recipe.members.values() for name in names for read in reads[name])
    grouped: dict[str, tuple[list[StoredTask], list[WeightTask], list[BlockTask]]] = defaultdict(lambda: ([], [], []))
    for one in stored:
        grouped[root(one.site.name)][0].append(one)
    for task in weights:
        grouped[root(task.recipe.reads[0])][1].append(task)
    for block in blocks:
        member = next(iter(block.recipe.members.values()))[0]
        grouped[root(reads[member][0])][2].append(block)
    jobs = []
    for s, w, b in grouped.values():
        arranged = _arranged(w, b)
        jobs.append(Job(tuple(s), tuple(arranged), tuple(b), _live_bytes(arranged, b, s, sizes)))
    return tuple(sorted(jobs, key=_job_order))


def _arranged(weights: Sequence[WeightTask], blocks: Sequence[BlockTask]) -> list[WeightTask]:
    """The weights so that each block is complete as soon as can be: what is complete can be dropped."""
    by_name = {task.recipe.site.name: task for task in weights}
    order = dict.fromkeys(name for block in blocks for names in block.recipe.members.values() for name in names)
    return [by_name[name] for name in [*order, *(name for name in by_name if name not in order)]]


def _job_order(job: Job) -> int:
    return min([task.order for task in job.stored] + [task.order[0] for task in job.weights])


def _live_bytes(
    weights: Sequence[WeightTask],
    blocks: Sequence[BlockTask],
    stored: Sequence[StoredTask],
    sizes: Callable[[str], int],
) -> int:
    """Bytes held at the worst moment of a job, when each weight is dropped after the last block that needs it."""
    if not weights:
        return max((sizes(task.site.name) for task in stored), default=0)
    rank = {task.recipe.site.name: index for index, task in enumerate(weights)}
    last = dict(rank)
    for block in blocks:
        names = [name for members in block.recipe.members.values() for name in members]
        latest = max(rank[name] for name in names)
        for name in names:
            last[name] = max(last[name], latest)
    until: dict[str, tuple[int, int]] = {}
    for task in weights:
        name = task.recipe.site.name
        for read in task.recipe.reads:
            begin, end = until.get(read, (rank[name], last[name]))
            until[read] = (min(begin, rank[name]), max(end, last[name]))
    change = [0] * (len(weights) + 1)
    for read, (begin, end) in until.items():
        change[begin] += sizes(read)
        change[end + 1] -= sizes(read)
    peak = held = 0
    for step in change:
        held += step
        peak = max(peak, held)
    return peak
