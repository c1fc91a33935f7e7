"""How the features of the same samples moved between two checkpoints."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import (
    Example,
    Limit,
    Measurement,
    Metric,
    Reference,
    Skip,
    activation_pair_analyzer,
    on,
    skip,
)

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

__all__ = ["representation_drift"]

#: Fewer rows give class means and neighbours that move by themselves.
MIN_ROWS = 50
#: Rows from which on ten neighbours are less than a tenth of all.
NEIGHBOUR_ROWS = 101
#: Share of neighbours of the same class beyond chance, from which on there is something to lose.
LEAST_TOLD = 0.1
#: Wider features need minutes for one decomposition.
MAX_WIDTH = 4096

CLASS_MEAN_SHIFT = Metric(
    "class_mean_shift",
    "within-class spreads",
    "How far class means moved, over the spread of their class before, averaged over classes.",
    better="lower",
    null="√(2/n_k): the means of two draws of n_k rows",
)
NEIGHBOUR_RETENTION = Metric(
    "neighbour_retention",
    "1",
    "The share of the 10 nearest rows before, by cosine, that are among the 10 nearest after.",
    better="higher",
    warn=Limit(
        "below",
        1.5,
        "zoo: 3.5 standard errors above chance at any number of rows; healthy fine-tunes keep 15 times chance "
        "and more, those that lost their classes 1 to 2.7 times",
        of="null",
    ),
    null="k/(N−1): unrelated rows",
    message="Of the nearest rows before {value:.3g} stayed near, chance leaves {null:.3g}: nothing of the "
    "neighbourhoods of {sampled} rows survived.",
)
NEIGHBOUR_CLASSES = Metric(
    "neighbour_classes",
    "1",
    "How far the 10 nearest rows after are of the row's own class, beyond chance, over the same before.",
    better="higher",
    warn=Limit("below", 0.7, "zoo: fine-tunes that keep the old classes read .89 to .99, mild ones .21 to .43"),
    error=Limit("below", 0.2, "zoo: fine-tunes that lost the old classes read 0 to .16, mild ones .21 to .43"),
    null="1: neighbourhoods tell as much of the classes as before",
    message="Of the nearest rows {before:.3g} were of the same class before and {after:.3g} are after; chance gives "
    "{chance:.3g}.",
)
PROTOTYPE_CHANGE = Metric(
    "prototype_change",
    "1",
    "How much the cosines between class means changed, ‖S′ − S‖_F/K.",
    better="lower",
    null="two halves of the rows before",
)
GROUP_SHRINKAGE = Metric(
    "group_shrinkage",
    "1",
    "The mean distance within the most contracted group, after over before, relative to that of all rows.",
    null="1: all groups change as all rows do",
    message="Group {group} keeps {value:.3g} of its width relative to all rows; the median of {groups} groups keeps "
    "{median:.3g}.",
)
KERNEL_VELOCITY = Metric(
    "kernel_velocity",
    "1",
    "1 − debiased CKA between before and after: how far the similarities of the rows moved.",
    better="lower",
    null="0: nothing moved",
)
FRECHET_SHIFT = Metric(
    "frechet_shift",
    "total variances",
    "The Fréchet distance between before and after, rotation removed, over the total variance before.",
    better="lower",
    null="two draws of as many rows, to first order",
)

Groups = dict[str, Any]


def _rows(count: int = 360, width: int = 16) -> "tuple[Any, Any, Groups]":
    """Rows of four classes, each in six concept groups, and a generator."""
    import torch

    generator = torch.Generator().manual_seed(0)
    labels, groups = torch.arange(count) % 4, torch.arange(count) // 4 % 6
    centres, concepts = torch.randn(4, width, generator=generator), 2 * torch.randn(6, width, generator=generator)
    x = centres[labels] + concepts[groups] + torch.randn(count, width, generator=generator)
    return x, generator, {"labels": labels, "groups": groups}


def healthy() -> Example:
    """The same features in another basis."""
    import torch

    x, generator, roles = _rows()
    turn = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q
    return Example({"features": x, **roles}, metadata={}, others=({"features": x @ turn, **roles},))


def collapsed() -> Example:
    """What told classes and concepts apart is gone."""
    import torch

    x, generator, roles = _rows()
    after = torch.randn(x.shape, generator=generator)
    return Example({"features": x, **roles}, metadata={}, others=({"features": after, **roles},))


@activation_pair_analyzer(
    name="representation-drift",
    family="drift",
    title="Representation drift",
    metrics=(
        CLASS_MEAN_SHIFT,
        NEIGHBOUR_RETENTION,
        NEIGHBOUR_CLASSES,
        PROTOTYPE_CHANGE,
        GROUP_SHRINKAGE,
        KERNEL_VELOCITY,
        FRECHET_SHIFT,
    ),
    accepts=on.points("features", "after.features", says="hook points with features in two dumps of the same rows"),
    remedy="Add a loss that preserves the semantics of the concept that narrowed, distil the relations between class "
    "prototypes, anchor concepts by synonyms, lower the rate of the text tower, or replay old data.",
    references=(
        Reference(
            "Huang et al. ClassDiffusion: More Aligned Personalization Tuning with Explicit Class Guidance. 2024",
            "https://arxiv.org/abs/2405.17532",
        ),
        Reference(
            "Asadi et al. Prototype-Sample Relation Distillation: Towards Replay-Free Continual Learning. 2023",
            "https://arxiv.org/abs/2303.14771",
        ),
        Reference(
            "Döbler, Marsden & Yang. Robust Mean Teacher for Continual and Gradual Test-Time Adaptation. 2022",
            "https://arxiv.org/abs/2211.13081",
        ),
        Reference(
            "Schönemann. A generalized solution of the orthogonal Procrustes problem. Psychometrika 1966",
            "https://doi.org/10.1007/BF02289451",
        ),
        Reference(
            "Heusel et al. GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium. 2017",
            "https://arxiv.org/abs/1706.08500",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=(
        "moments",
        "moments(after.features)",
        "cross_moments(features,after.features)",
        "sample(features,after.features)",
        "class_moments(features,labels)",
        "class_moments(after.features,labels)",
        "folds(class_moments(features,labels))",
    ),
    uses=("labels", "after.labels", "groups"),
    unmoved_by=("features_rotated", "scaled"),
)
def representation_drift(point: "Activations") -> Iterator[Measurement | Skip]:
    """How did the features of the same samples move between two checkpoints?

    ## Why it matters
    Fine-tuning, adaptation and continual learning move features that others depend on: prototypes, galleries, heads of
    old tasks, the neighbourhood of a concept. A concept can lose its width while every average looks well.

    ## How to read it
    `neighbour_retention` is the honest number: rotation, shift of scale and a new basis leave it at 1.
    `neighbour_classes` asks what that means for the classes: 1 if neighbourhoods tell them as well as before, however
    much rows of one class changed places, 0 if they tell no more than chance. The shift metrics are taken after the
    best rotation about the origin. `class_mean_shift` counts in spreads of a class; `prototype_change` in cosines
    between class means, beside what two halves of the old rows differ by. `group_shrinkage` is the most contracted
    group relative to all rows, so that 1 is no change whatever the overall scale did. `kernel_velocity` is 0 for a
    rotated, scaled copy, `frechet_shift` looks at mean and covariance alone.

    ## Limits
    Rotation is not damage and is removed; a change of scale is not removed from the shifts. Shrinkage of everything is
    a matter of effective rank of the new dump. Three things are judged: neighbourhoods at the level of chance, which
    rows in another order also give, classes that neighbourhoods no longer tell, and one group that narrowed. Classes
    that are to be merged on purpose are lost too: give the labels that still count. Training a classifier contracts
    classes by design, so groups that lie within one class each are left out. The Fréchet distance is biased by 1/N and
    comparable at one number of rows only. Labels and groups are those of the first dump.
    """
    name = point.site.name
    if reason := kernels.paired_rows.fault(point, MIN_ROWS):
        yield skip(name, reason)
        if _is_lost(point):
            yield from _neighbours(point, kernels.feature_spectrum.facts(point))
        return
    facts = kernels.feature_spectrum.facts(point)
    velocity = point.get(kernels.paired_rows.debiased_alignment)
    if velocity is not None:
        yield KERNEL_VELOCITY.at(name, 1.0 - velocity, 0.0, **facts)
    yield from _neighbours(point, facts)
    yield from _shifts(point, facts)
    yield from _prototypes(point, facts)
    yield from _groups(point, facts)


def _is_lost(point: "Activations") -> bool:
    """Whether rows that differed are all equal now, which leaves nothing to compare but neighbourhoods."""
    before, after, _ = kernels.paired_rows.moments_of(point)
    is_constant = kernels.paired_rows.is_constant
    return point.finite_rows >= MIN_ROWS and is_constant(after) and not is_constant(before)


def _neighbours(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    shared = point.get(kernels.paired_rows.mutual_neighbours)
    if shared is None or shared.rows < NEIGHBOUR_ROWS:
        yield skip(point.site.name, f"neighbour_retention: fewer than {NEIGHBOUR_ROWS} rows")
        return
    facts = facts | {"sampled": shared.rows, "exact": shared.is_exact, "neighbours": kernels.paired_rows.NEIGHBOURS}
    yield NEIGHBOUR_RETENTION.at(point.site.name, shared.share, shared.null, **facts)
    yield from _neighbour_classes(point, facts)


def _neighbour_classes(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, found = point.site.name, point.get(kernels.paired_rows.neighbour_classes)
    if found is None or found.rows < NEIGHBOUR_ROWS:
        yield skip(name, f"neighbour_classes: fewer than {NEIGHBOUR_ROWS} labelled rows")
        return
    told = found.before - found.chance
    if told < LEAST_TOLD:
        yield skip(name, "neighbour_classes: neighbourhoods before tell nothing of the classes")
        return
    facts = facts | {"before": found.before, "after": found.after, "chance": found.chance, "classes": found.classes}
    yield NEIGHBOUR_CLASSES.at(name, (found.after - found.chance) / told, 1.0, **facts)


def _shifts(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name = point.site.name
    before, after, pairs = kernels.paired_rows.moments_of(point)
    widths = (before.mean.numel(), after.mean.numel())
    if widths[0] != widths[1] or widths[0] > MAX_WIDTH:
        reason = (
            f"width {widths[0]} → {widths[1]}" if widths[0] != widths[1] else f"width {widths[0]:,} > {MAX_WIDTH:,}"
        )
        yield skip(name, f"class_mean_shift, frechet_shift: {reason}")
        return
    turn = kernels.procrustes.rotation(before, after, pairs)
    shift = kernels.feature_drift.frechet_shift(before, after, turn)
    if shift is not None:
        yield FRECHET_SHIFT.at(name, shift[0], shift[1], **facts)
    if not point.has("class_moments(features,labels)"):
        yield skip(name, "class_mean_shift: no labels")
        return
    classes = point.read("class_moments(features,labels)"), point.read("class_moments(after.features,labels)")
    moved = kernels.feature_drift.class_mean_shift(*classes, turn)
    if moved is None:
        yield skip(name, "class_mean_shift: no class of 5 rows with any spread")
        return
    facts = facts | {"classes": moved.classes, "classes_left_out": moved.left_out}
    yield CLASS_MEAN_SHIFT.at(name, moved.mean, moved.null, **facts, largest=moved.largest, moved_most=moved.label)


def _prototypes(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    if not point.has("class_moments(features,labels)"):
        yield skip(point.site.name, "prototype_change: no labels")
        return
    classes = point.read("class_moments(features,labels)"), point.read("class_moments(after.features,labels)")
    found = kernels.feature_drift.prototype_change(*classes)
    if found is None:
        yield skip(point.site.name, "prototype_change: fewer than 2 classes of 5 rows")
        return
    null = kernels.feature_drift.prototype_change_null(point.read("folds(class_moments(features,labels))"))
    yield PROTOTYPE_CHANGE.at(point.site.name, found[0], null, **facts, classes=found[1])


def _groups(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    if "groups" not in point.shapes:
        yield skip(point.site.name, "group_shrinkage: no groups")
        return
    found = kernels.feature_drift.group_shrinkage(point)
    if isinstance(found, str):
        yield skip(point.site.name, f"group_shrinkage: {found}")
        return
    facts = facts | {"group": found.label, "groups": found.groups, "median": found.median, "overall": found.overall}
    yield GROUP_SHRINKAGE.at(point.site.name, found.smallest, 1.0, **facts)
