"""One pass over a dump: each hook point's rows are read once, in windows, and fed to every accumulator anybody needs.

Memory is bounded by the accumulators, not by the rows. Analyzers of layers see the finished accumulators of all hook
points at the end, without another pass.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
from torch import Tensor

from collapse_cli.analyzer import Analyzer
from collapse_cli.core.metric import Measurement
from collapse_cli.core.report import Coverage, Failure, Skip
from collapse_cli.core.site import Role, Site
from collapse_cli.engine.job import Results, Setting, is_out_of_memory
from collapse_cli.engine.lanes import LANES, Feeder
from collapse_cli.engine.options import Analysis, Options, Progress, acceptance, deadline, wanted_names
from collapse_cli.errors import CollapseError, TimedOut
from collapse_cli.kernels.accumulators import UNLABELLED, Batch
from collapse_cli.kernels.needs import Feeding, Need, need
from collapse_cli.kernels.non_finite_arrays import NonFiniteArrays
from collapse_cli.kernels.views import Activations, Layers
from collapse_cli.sources.dump import Dump, HookPoint
from collapse_cli.sources.paired import PairedDump

__all__ = ["DumpKind", "accumulated", "analyse_dump"]

#: What is shown of a dump: its hook points, those of two dumps row by row, or one dump as a member of a run.
DumpKind = Literal["activations", "activation_pair", "activation_series"]
AnyDump = Dump | PairedDump

#: Wider features are not accumulated: two float64 matrices of this side take 1 GiB.
MAX_WIDTH = 8192
#: From so many rows and up to so many columns on, two sets of accumulators take turns: fewer rows are done at once, and
#: the products of wider ones keep two processors busy by themselves.
LANE_ROWS, LANE_COLUMNS = 16384, 1100
_LABEL_ROLES = frozenset({"labels", "fine_labels", "groups"})
#: Site of analyzers that look at all layers together.
LAYERS_SITE = "#layers"


@final
@dataclass(frozen=True, slots=True)
class _Task:
    """One hook point, who wants it, and what has to be accumulated for them."""

    point: HookPoint
    analyzers: tuple[Analyzer, ...]
    needs: tuple[Need, ...]
    arrays: tuple[str, ...]  # roles without rows that are read whole
    order: int

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles that are read row by row, without those that are made of others."""
        named = {role for one in self.needs for role in one.roles} | set(self._used())
        return tuple(role for role, array in self.point.arrays.items() if role in named and array.role.rows is not None)

    def _used(self) -> Iterator[str]:
        for analyzer in self.analyzers:
            yield from acceptance(analyzer, is_of_dumps=True).named_roles()
            yield from analyzer.uses
        for one in self.needs:
            yield from one.optional

    def population(self, role: str) -> str:
        """The rows that a role belongs to: `samples`, or `reference`."""
        array = self.point.arrays.get(role)
        return "samples" if array is None or array.role.rows is None else array.role.rows


def analyse_dump(
    dump: AnyDump,
    analyzers: Sequence[Analyzer],
    options: Options = Options(),  # noqa: B008 - frozen
    *,
    progress: Callable[[Progress], None] = lambda _progress: None,
) -> Analysis:
    """Everything the analyzers say of a dump. A hook point that cannot be read is reported and never stops the rest."""
    kind: DumpKind = "activation_pair" if isinstance(dump, PairedDump) else "activations"
    tasks, skips = _tasks(dump, analyzers, wanted_names(options), kind)
    setting = _setting(dump, analyzers, options)
    found = Results()
    stopped = ""
    kept: list[Activations] = []
    needed_later = any(a.view == "layers" for task in tasks for a in task.analyzers)
    all_bytes = sum(_bytes(task) for task in tasks)
    done = 0
    try:
        for task in tasks:
            view = _accumulated(dump, task, setting, options, found)
            done += _bytes(task)
            if view is not None:
                for analyzer in task.analyzers:
                    if analyzer.view != "layers":
                        found.show(view, analyzer, (task.order, 0), setting)
                if needed_later:
                    kept.append(view)
            progress(Progress(len(found.read), len(tasks), done, all_bytes, task.point.name))
        for analyzer in analyzers if kind == "activations" else ():
            points = tuple(view for view in kept if analyzer.acceptance.takes(view.shapes))
            if analyzer.view == "layers" and points:
                layers = Layers(Site(LAYERS_SITE, (), "", None, Role.ACTIVATION), points, seed=options.seed)
                found.show(layers, analyzer, (len(tasks), 0), setting)
    except TimedOut as error:
        stopped = str(error)
    shown = [analyzer for analyzer in analyzers if _shown(analyzer, kind)]
    return _analysis(dump, shown, tasks, found, skips=skips, stopped=stopped)


def accumulated(
    dump: Dump, analyzers: Sequence[Analyzer], options: Options, setting: Setting, found: Results
) -> Iterator[tuple[tuple[Analyzer, ...], Activations]]:
    """The hook points of one member of a run, each with the analyzers that want it over the whole run.

    Raises:
        TimedOut: the run must stop.
    """
    tasks, skips = _tasks(dump, analyzers, wanted_names(options), "activation_series")
    found.results += [((task_rank, -1, 0, 0), skip) for task_rank, skip in enumerate(skips)]
    for task in tasks:
        view = _accumulated(dump, task, setting, options, found)
        if view is not None:
            yield task.analyzers, view


def _setting(dump: AnyDump, analyzers: Sequence[Analyzer], options: Options) -> Setting:
    ranks = {analyzer.name: rank for rank, analyzer in enumerate(analyzers)}
    return Setting(lambda name: dump.read(*name.rsplit("/", 1)), ranks, options.seed, deadline(options))


def _bytes(task: _Task) -> int:
    held = [task.point.arrays[role] for role in task.roles]
    return sum(array.shape[0] * array.row_bytes for array in held)


def roles_of(dump: AnyDump, point: HookPoint) -> set[str]:
    """The roles a hook point offers: its own, two views where it has a stack of views, and its predictor's output."""
    roles = set(point.arrays)
    if "views" in roles and point.arrays["views"].shape[1] >= 2:
        roles |= {"view_a", "view_b"}
    if any(other.name == f"{point.name}.predictor" and "features" in other.arrays for other in dump.points):
        roles.add("predictor")
    return roles


def _shown(analyzer: Analyzer, kind: DumpKind) -> bool:
    return kind in (analyzer.view, *analyzer.also) or (kind == "activations" and analyzer.view == "layers")


def _tasks(
    dump: AnyDump, analyzers: Sequence[Analyzer], is_wanted: Callable[[str], bool], kind: DumpKind
) -> tuple[list[_Task], list[Skip]]:
    tasks: list[_Task] = []
    skips: list[Skip] = []
    for order, point in enumerate(dump.points):
        if not is_wanted(point.name):
            continue
        roles = roles_of(dump, point)
        accepted = []
        for analyzer in analyzers:
            if not _shown(analyzer, kind) or not acceptance(analyzer, is_of_dumps=True).takes(roles):
                continue
            # what is too wide takes the analyzer with it only where the analyzer cannot do without its roles
            demanded = acceptance(analyzer, is_of_dumps=True).named_roles()
            wide = [one for one in _fed_needs(analyzer, roles) if _width(point, one) > MAX_WIDTH]
            if wide and any(set(one.roles) <= demanded for one in wide):
                reason = f"width {_width(point, wide[0]):,} > {MAX_WIDTH:,}: its moments would not fit"
                skips.append(Skip(analyzer.name, point.name, reason))
                continue
            accepted.append(analyzer)
        if not accepted:
            continue
        wanted = {one.name: one for analyzer in accepted for one in _fed_needs(analyzer, roles)}
        fed = tuple(one for one in wanted.values() if _width(point, one) <= MAX_WIDTH)
        named = {role for a in accepted for role in (*acceptance(a, is_of_dumps=True).named_roles(), *a.uses)}
        whole = tuple(role for role, array in point.arrays.items() if role in named and array.role.rows is None)
        tasks.append(_Task(point, tuple(accepted), fed, whole, order))
    return tasks, skips


def _fed_needs(analyzer: Analyzer, roles: set[str]) -> list[Need]:
    """The accumulators of an analyzer whose roles are offered."""
    return [one for one in map(need, analyzer.needs) if set(one.roles) <= roles]


def _width(point: HookPoint, one: Need) -> int:
    """Columns of the widest role that an accumulator of pairs of columns is fed."""
    if not one.is_quadratic:
        return 0
    widths = [0]
    for role in one.roles:
        array = point.arrays.get(role)
        if array is not None and array.role.numbers == "float":
            widths.append(max(1, _columns(array.shape)))
    return max(widths)


def _columns(shape: Sequence[int]) -> int:
    total = 1
    for side in shape[1:]:
        total *= side
    return total


def _accumulated(dump: AnyDump, task: _Task, setting: Setting, options: Options, found: Results) -> Activations | None:
    """The hook point with everything accumulated, on the device, or on the CPU where the device is too small."""
    point, device = task.point, torch.device(options.device)
    order = (task.order, -1, 0, 0)
    for attempt in dict.fromkeys((device, torch.device("cpu"))):
        try:
            view = _fed(dump, task, setting, found, attempt)
        except TimedOut:
            raise
        except CollapseError as error:
            found.results.append((order, Skip(None, point.name, str(error))))
            return None
        except Exception as error:
            if not (is_out_of_memory(error) and attempt.type == "cuda"):
                raise
            torch.cuda.empty_cache()
            continue
        found.read.add(point.name)
        return view
    return None


def _fed(dump: AnyDump, task: _Task, setting: Setting, found: Results, device: torch.device) -> Activations:
    point = task.point
    shapes = {role: tuple(array.shape) for role, array in point.arrays.items()} | _derived_shapes(dump, point)
    dtypes = {role: array.dtype for role, array in point.arrays.items()}
    finished: dict[str, Any] = {}
    counts: dict[str, tuple[int, int]] = {}
    non_finite = NonFiniteArrays()
    # generated samples before the reference: what is compared with them row by row finds them finished
    for population in ("samples", "reference"):
        feeding = Feeding(setting.seed, dump.metadata, shapes, dtypes, dict(finished))
        wanted = [one for one in task.needs if task.population(one.roles[0]) == population]
        made = [{one.name: one.make(feeding) for one in wanted} for _ in range(_lanes(task, population, device))]
        rows = finite = 0
        unusual: dict[str, set[int]] = {}
        with Feeder(made) as feeder:
            for batch in _batches(dump, task, population, device):
                setting.check()
                feeder.feed(batch)
                non_finite.add(batch)
                _note_negative(batch, unusual)
                rows += batch.count
                finite += batch.finite_count()
        found.notices += [_says_negative(point.name, role, labels) for role, labels in unusual.items()]
        finished |= feeder.finished
        counts[population] = rows, finite
    rows, finite = counts["samples"] if counts["samples"][0] else counts["reference"]
    return Activations(
        point.site,
        finished,
        shapes=shapes,
        dtypes=dtypes,
        arrays={role: dump.read(point.name, role) for role in task.arrays},
        metadata=dump.metadata,
        rows=rows,
        finite_rows=finite,
        non_finite=non_finite.counts,
        seed=setting.seed,
    )


def _note_negative(batch: Batch, unusual: dict[str, set[int]]) -> None:
    """Keeps some of the negative labels that do not mark rows without a label."""
    for role in _LABEL_ROLES & batch.roles.keys():
        labels = batch.roles[role]
        if labels.numel() and not labels.is_floating_point() and int(labels.min()) < 0:
            found = set(torch.unique(labels[labels < 0]).tolist()) - set(UNLABELLED)
            if found:
                unusual[role] = set(sorted(unusual.get(role, set()) | found)[-3:])


def _says_negative(site: str, role: str, labels: set[int]) -> str:
    named = ", ".join(str(label) for label in sorted(labels, reverse=True))
    marks = " and ".join(str(mark) for mark in UNLABELLED)
    return f"{role} of {site} has the values {named}: each is a class of its own, only {marks} mark rows without one"


def _lanes(task: _Task, population: str, device: torch.device) -> int:
    """How many sets of accumulators take turns: several where many narrow rows would not keep two processors busy."""
    arrays = [task.point.arrays[role] for role in task.roles if task.population(role) == population]
    rows = max((array.shape[0] for array in arrays), default=0)
    columns = sum(_columns(array.shape) for array in arrays)
    # what was finished before, which the reference is compared with, is for one thread
    is_shared = population != "samples" or device.type != "cpu"
    return 1 if is_shared or rows < LANE_ROWS or columns > LANE_COLUMNS else LANES


def _derived_shapes(dump: AnyDump, point: HookPoint) -> dict[str, tuple[int, ...]]:
    """Shapes of the roles that a hook point offers without having an array of that name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for role in roles_of(dump, point) - point.arrays.keys():
        if role == "predictor":
            shapes[role] = tuple(dump[f"{point.name}.predictor"].arrays["features"].shape)
        else:
            samples, _views, features = point.arrays["views"].shape
            shapes[role] = (samples, features)
    return shapes


def _batches(dump: AnyDump, task: _Task, population: str, device: torch.device) -> Iterator[Batch]:
    """The rows of a hook point in windows, with two views out of a stack and the predictor's output beside them."""
    point, roles = task.point, [role for role in task.roles if task.population(role) == population]
    named = {role for one in task.needs for role in one.roles} | set(task._used())
    derived = named & (roles_of(dump, point) - point.arrays.keys()) if population == "samples" else set()
    if derived & {"view_a", "view_b"} and "views" not in roles:
        roles.append("views")
    if not roles:
        return
    start = 0
    for window in dump.batches(point.name, roles):
        tensors: dict[str, Tensor] = dict(window)
        count = next(iter(tensors.values())).shape[0]
        for place, role in enumerate(("view_a", "view_b")):
            if role in derived:
                tensors[role] = tensors["views"][:, place]
        if "predictor" in derived:
            tensors["predictor"] = dump.read_rows(f"{point.name}.predictor", "features", start, start + count)
        yield Batch({role: tensor.to(device) for role, tensor in tensors.items()}, start=start)
        start += count


def _analysis(
    dump: AnyDump,
    analyzers: Sequence[Analyzer],
    tasks: Sequence[_Task],
    found: Results,
    *,
    skips: Sequence[Skip],
    stopped: str,
) -> Analysis:
    found.results.sort(key=lambda pair: pair[0])
    results = [result for _order, result in found.results]
    caveat = dump.caveat if isinstance(dump, PairedDump) else ""
    measurements = tuple(_with_caveat(result, caveat) for result in results if isinstance(result, Measurement))
    paired = dump.skips if isinstance(dump, PairedDump) else ()
    said = [*dump.unreadable, *paired, *skips, *(result for result in results if isinstance(result, Skip))]
    lost = {skip.site for skip in said if skip.analyzer is None}
    if stopped:
        unread = [task.point.name for task in tasks if task.point.name not in found.read | lost]
        said += [Skip(None, name, stopped) for name in unread]
    accepting = {analyzer.name for task in tasks for analyzer in task.analyzers}
    said += [
        Skip(a.name, None, f"nothing to accept: takes {acceptance(a, is_of_dumps=True).says}")
        for a in analyzers
        if a.name not in accepting and not _is_named(a, said)
    ]
    return Analysis(
        (*(task.point.site for task in tasks), *_derived(found, results, tasks)),
        measurements,
        tuple(said),
        tuple(result for result in results if isinstance(result, Failure)),
        Coverage(len(dump.points) + len(paired), len(tasks), len(found.read)),
        (*((caveat,) if caveat else ()), *found.notices),
        dict(found.seconds),
    )


def _with_caveat(measurement: Measurement, caveat: str) -> Measurement:
    """The measurement, saying what makes it hard to believe."""
    return replace(measurement, evidence={**measurement.evidence, "caveat": caveat}) if caveat else measurement


def _is_named(analyzer: Analyzer, skips: Iterable[Skip]) -> bool:
    return any(skip.analyzer == analyzer.name for skip in skips)


def _derived(found: Results, results: Sequence[Any], tasks: Sequence[_Task]) -> list[Site]:
    """Sites that analyzers made, in the order in which results name them."""
    known: Mapping[str, Site] = {task.point.name: task.point.site for task in tasks}
    used = dict.fromkeys(result.site for result in results if result.site is not None and result.site not in known)
    layers = Site(LAYERS_SITE, (), "", None, Role.ACTIVATION)
    return [found.derived.get(name, layers) for name in used if name in found.derived or name == LAYERS_SITE]
