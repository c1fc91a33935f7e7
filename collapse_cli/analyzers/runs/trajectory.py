"""Trajectory: what path the weights took over a run, and which checkpoint does not belong."""

from collections.abc import Iterator
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, on, series_analyzer, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.comparisons import Comparison, Model

#: Members that make an angle, and descendants of which one can stand apart from the others.
_LEAST_MEMBERS, _LEAST_POOL = 3, 4

STEP_RATIO = Metric("step_ratio", "1", "The median length of a step over the norm of the weight it starts from.")
NORM_SPIKE = Metric(
    "norm_spike",
    "1",
    "The longest step over the median step; where the intervals differ, per interval if that is less.",
    better="lower",
    warn=Limit(
        "above",
        100.0,
        "zoo: beyond every sound run, 3 at most; warm-up and decay spread the steps of a run over one to two decades",
    ),
    null="all steps equally long",
    message="The step to {member} is {value:.3g} times as long as the median step.",
)
TURNING_ANGLE = Metric(
    "turning_angle", "deg", "The median angle between one step and the next.", null="a random walk in many dimensions"
)
STRAIGHTNESS = Metric(
    "straightness",
    "1",
    "The distance from start to end over the length of the path.",
    null="a random walk with steps of these lengths, 1/√(number of steps) where they are equal",
)
PATH_DIMENSION = Metric(
    "path_dimension",
    "directions",
    "The participation ratio of the energies of the path about its mean.",
    null="a random walk of as many members in many dimensions, 2.5 for long ones",
)
PATH_DIMENSION_90 = Metric(
    "path_dimension_90",
    "directions",
    "The number of principal components that hold 90 % of the path about its mean.",
    null="a random walk of as many members in many dimensions, 6 for long ones",
)
OUTLIER_RATIO = Metric(
    "outlier_ratio",
    "1",
    "The share of a descendant's change in the span of the others' changes, for the one with the least.",
    better="higher",
    null="changes that have nothing in common: (members − 1)/(number of entries)",
)
OUTLIER_GAP = Metric(
    "outlier_gap",
    "1",
    "The median of these shares over the other descendants, minus the least.",
    better="lower",
    warn=Limit(
        "above",
        0.7,
        "zoo: beyond every sound pool, 0.1 at most; seven tenths of the others' changes are shared, not of this",
    ),
    null="all descendants alike",
    message="{member} shares {least:.2g} of its change with the other {others} descendants, which share {median:.2g}.",
)


def _walk(count: int, side: int = 24) -> list[dict[str, object]]:
    """Checkpoints of a random walk of two weights."""
    import torch

    generator = torch.Generator().manual_seed(0)
    names = "encoder.layer.0.attention.self.query.weight", "encoder.layer.0.output.dense.weight"
    members = [{name: torch.randn(side, side, generator=generator) for name in names}]
    while len(members) < count:
        step = {name: 0.01 * torch.randn(side, side, generator=generator) for name in names}
        members.append({name: members[-1][name] + step[name] for name in names})
    return members  # type: ignore[return-value]


def healthy() -> Example:
    """A random walk of eight members."""
    first, *others = _walk(8)
    return Example(first, config={"model_type": "bert"}, others=tuple(others), steps=tuple(range(0, 800, 100)))


def collapsed() -> Example:
    """The same with one step of several hundred times the length."""
    members = _walk(8)
    jumped = [
        {name: weight + 5.0 * ((-1.0) ** place) for place, (name, weight) in enumerate(member.items())}  # type: ignore[operator]
        for member in members[4:]
    ]
    first, *others = members[:4] + jumped
    return Example(first, config={"model_type": "bert"}, others=tuple(others), steps=tuple(range(0, 800, 100)))


@series_analyzer(
    name="trajectory",
    family="runs",
    title="Trajectory of the weights",
    metrics=(
        STEP_RATIO,
        NORM_SPIKE,
        TURNING_ANGLE,
        STRAIGHTNESS,
        PATH_DIMENSION,
        PATH_DIMENSION_90,
        OUTLIER_RATIO,
        OUTLIER_GAP,
    ),
    accepts=on.floating(min_entries=64),
    also=("pool",),
    sums_up=True,
    remedy="A spike: limit or clip gradients, skip the batch that made it, go back to the checkpoint before. Steps "
    "that turn back on each other: lower the learning rate. A descendant that does not belong: leave it out of the "
    "average, or give it less weight.",
    references=(
        Reference(
            "Antognini & Sohl-Dickstein. PCA of high dimensional random walks with comparison to neural network "
            "training. 2018",
            "https://arxiv.org/abs/1806.08805",
        ),
        Reference(
            "Almasi et al. Flag Aggregator: Scalable Distributed Training under Failures and Augmented Losses "
            "using Convex Optimization. 2023",
            "https://arxiv.org/abs/2302.05865",
        ),
        Reference(
            "Chen et al. Fira: Can We Achieve Full-rank Training of LLMs Under Low-rank Constraint? 2024",
            "https://arxiv.org/abs/2410.01623",
        ),
        Reference(
            "Li et al. Measuring the Intrinsic Dimension of Objective Landscapes. 2018",
            "https://arxiv.org/abs/1804.08838",
        ),
        Reference("Frankle et al. Stabilizing the Lottery Ticket Hypothesis. 2019", "https://arxiv.org/abs/1903.01611"),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "rotated", "transposed", "rows_permuted"),
)
def trajectory(view: "Comparison | Model") -> Iterator[Measurement | Skip]:
    """What path did the weights take, and which checkpoint does not belong?

    ## Why it matters
    A run is more than its last checkpoint. One step that is a hundred times as long as the others is a bad batch or a
    restart with the wrong state; steps that turn back on each other are a learning rate that is too high; and of
    several descendants of one base, one that shares nothing with the rest was trained on something else.

    ## How to read it
    `step_ratio` is how far one interval moves the weight, `norm_spike` how far the longest step stands out (the
    evidence says which member it led to). `turning_angle` is 90° for a random walk, below it steps go on in one
    direction, above it they oscillate. `straightness` is 1 on a line. `path_dimension` and `path_dimension_90` count
    principal components; the null is what any random walk of that many members has, and not its number of members.
    Over a base and its descendants, `outlier_ratio` is the least share of a change that lies in the span of the others,
    and `outlier_gap` how far it lies below them. Site `#model` takes all tensors as one.

    ## Limits
    A low dimension is what every walk shows: only the difference to the null means something. The interval at which
    checkpoints are saved changes every angle and ratio; where intervals differ, lengths are taken for the median
    interval. Warm-up makes long early steps in good health. Averaged (EMA) checkpoints make a smoother path. Three
    descendants are too few to tell which of them does not belong, and unrelated ones all share nothing.
    """
    kernel = kernels.weight_paths
    if isinstance(view, kernels.comparisons.Comparison):
        if len(view.members) < _LEAST_MEMBERS:
            yield skip(view.site.name, f"run too short: {len(view.members)} of {_LEAST_MEMBERS}")
        elif view.kind == "pool":
            gram = view.get(kernels.task_vectors.task_gram)
            yield from _apart(view.site.name, gram, view.labels[-len(gram) :], entries=view.site.numel)
        else:
            yield from _along(view.site.name, view.get(kernel.step_gram), view.labels, view.steps)
        return
    walked, pooled = view.parts_with(kernel.step_gram), view.parts_with(kernels.task_vectors.task_gram)
    if walked:
        whole: Tensor = sum(gram for _, gram in walked)  # type: ignore[assignment]
        yield from _along(view.site.name, whole, view.labels, walked[0][0].steps)
        yield skip(view.site.name, "outlier_ratio, outlier_gap: of a base and its descendants, not of a run")
    elif pooled and view.parts[0].kind == "pool":
        whole = sum(gram for _, gram in pooled)  # type: ignore[assignment]
        entries = sum(part.site.numel for part, _ in pooled)
        yield from _apart(view.site.name, whole, view.labels[-len(whole) :], entries=entries, is_whole=True)


def _along(
    name: str, gram: "Tensor", labels: tuple[str, ...], steps: tuple[float, ...]
) -> Iterator[Measurement | Skip]:
    """Figures of an ordered path."""
    found = kernels.weight_paths.path(gram, steps)
    if found is None:
        yield skip(name, "unchanged")
        return
    lengths = [float(f"{one:.4g}") for one in found.lengths[:128]]
    intervals = {after - before for before, after in pairwise(steps)}
    timing = "per median interval" if len(intervals) > 1 else "equal intervals"
    if found.relative is not None:
        yield STEP_RATIO.at(name, found.relative, timing=timing)
    if found.spike is None:
        yield skip(name, "norm_spike: most members are the same as the one before")
    else:
        longest = max(range(len(found.rates)), key=found.rates.__getitem__)
        yield NORM_SPIKE.at(name, found.spike, 1.0, member=labels[longest + 1], lengths=lengths, timing=timing)
    if found.angle is None:
        yield skip(name, "turning_angle: no two steps follow each other")
    else:
        yield TURNING_ANGLE.at(name, found.angle, 90.0, steps=len(found.lengths))
    yield STRAIGHTNESS.at(name, found.straightness, found.straightness_null, steps=len(found.lengths))
    dimension, dimension_90 = kernels.weight_paths.random_walk_dimensions(len(labels))
    shares = (found.energies / found.energies.sum()).tolist()[:16]
    yield PATH_DIMENSION.at(name, found.dimension, dimension, members=len(labels), shares=shares)
    yield PATH_DIMENSION_90.at(name, found.dimension_90, dimension_90, members=len(labels))


def _apart(
    name: str, gram: "Tensor", labels: tuple[str, ...], *, entries: int, is_whole: bool = False
) -> Iterator[Measurement | Skip]:
    """The descendant whose change lies least in the span of the others."""
    moved = gram.diagonal().nonzero().flatten().tolist()
    if len(moved) < _LEAST_POOL:
        yield skip(name, f"pool too small: {len(moved)} of {_LEAST_POOL} descendants that moved")
        return
    ratios = kernels.weight_paths.span_ratios(gram[moved][:, moved])
    least = min(range(len(ratios)), key=ratios.__getitem__)
    shares = {labels[place]: ratio for place, ratio in zip(moved, ratios, strict=True)}
    member, null = labels[moved[least]], min((len(moved) - 1) / entries, 1.0)
    yield OUTLIER_RATIO.at(name, ratios[least], null, member=member, shares=shares)
    if is_whole:
        usual = median(ratios[:least] + ratios[least + 1 :])
        yield OUTLIER_GAP.at(
            name, usual - ratios[least], 0.0, member=member, least=ratios[least], median=usual, others=len(moved) - 1
        )
