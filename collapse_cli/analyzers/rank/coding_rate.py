"""Coding rate: how much volume the features fill, and what splitting them into classes saves."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.coding_rate import LabelledRows
    from collapse_cli.kernels.views import Activations

#: Rows that a class needs to be one of those that are compared.
FEW_ROWS_PER_CLASS = 5
#: Fewer rows fill no volume that could be compared.
FEW_ROWS = 10
RANDOM_LABELS = "the same labels dealt to other rows at random"

CODING_RATE_SHARE = Metric(
    "coding_rate_share",
    "1",
    "The coding rate of the unit rows over the rate of rows that fill all directions evenly.",
    better="higher",
    null="1 for rows that fill all directions evenly",
)
RATE_REDUCTION = Metric(
    "rate_reduction",
    "nats",
    "The coding rate of all rows less the mean rate of the classes: what knowing the class saves (ΔR of MCR²).",
    better="higher",
    null=RANDOM_LABELS,
)
RATE_REDUCTION_SHARE = Metric(
    "rate_reduction_share",
    "1",
    "The rate reduction over that of orthogonal classes that share all directions evenly.",
    better="higher",
    null=RANDOM_LABELS,
)
RATE_REDUCTION_Z = Metric(
    "rate_reduction_z",
    "standard errors",
    "How far the rate reduction is above that of random labels, in standard errors of the latter.",
    better="higher",
    warn=Limit("below", 3.0, "definition: not distinguishable from random labels by 3 errors"),
    null="0",
    message="Splitting into the {classes} classes saves {saved:.3g} nats, no more than random labels "
    "({chance:.3g} ± {standard_error:.2g}).",
)


def _example(classes_differ: bool) -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(256) % 4
    rows = torch.randn(256, 16, generator=generator)
    if classes_differ:
        rows = rows * (torch.arange(16) // 4 == labels[:, None])
    return Example({"encoder/features": rows, "encoder/labels": labels}, metadata={})


def healthy() -> Example:
    """Four classes of 4 directions each, orthogonal to one another."""
    return _example(classes_differ=True)


def collapsed() -> Example:
    """Rows that do not know their class."""
    return _example(classes_differ=False)


@activation_analyzer(
    name="coding-rate",
    family="rank",
    title="Coding rate",
    metrics=(CODING_RATE_SHARE, RATE_REDUCTION, RATE_REDUCTION_SHARE, RATE_REDUCTION_Z),
    accepts=on.points("features", says="hook points with features"),
    remedy="Train with the rate-reduction objective (MCR²) or another that spreads classes over directions of their "
    "own. If the classes are clusters whose assignment is degenerate, use fewer.",
    references=(
        Reference(
            "Yu et al. Learning Diverse and Discriminative Representations via the Principle of Maximal Coding Rate "
            "Reduction. 2020",
            "https://arxiv.org/abs/2006.08558",
        ),
        Reference(
            "Ding et al. Unsupervised Manifold Linearizing and Clustering. 2023", "https://arxiv.org/abs/2301.01805"
        ),
        Reference(
            "Yu et al. White-Box Transformers via Sparse Rate Reduction. 2023", "https://arxiv.org/abs/2306.01129"
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("samples_permuted", "scaled", "features_rotated"),
    # the null is drawn by the order of the rows
    unmoved_metrics=("coding_rate_share", "rate_reduction", "rate_reduction_share"),
    needs=("moments", "sample"),
    uses=("labels", "assignments"),
)
def coding_rate(point: "Activations") -> Iterator[Measurement | Skip]:
    """How much volume do the features fill, and how much is gained by splitting them into classes?

    ## Why it matters
    Good features fill a large volume as a whole and a small one in every class: then each class has directions of its
    own and any of them is cheap to describe. Collapse of the whole and mixing of the classes are both seen in one
    currency, the number of nats it takes to code a row.

    ## How to read it
    `coding_rate_share` is 1 when the directions are filled evenly. `rate_reduction` is what the classes save, to be
    read beside what random labels save; `rate_reduction_share` divides by the best that orthogonal classes could do. If
    `rate_reduction_z` is below 3, the classes are not in the directions at all. With `assignments` classes are soft.

    ## Limits
    Only directions count: rows are scaled to unit norm and zero rows left out. Maximal rate reduction wants wide
    classes, and neural collapse, one direction per class, lowers it: 3.6 of 8.8 nats for four classes in 32 features.
    Few rows make random labels save a lot, and below 2·D rows in a class its error is too rough to judge by. Beyond
    8,192 rows the classes are those of the sampled rows. The allowed squared error is ½; values of codes that take ε
    for ε² do not compare. The sparse rate of CRATE layers is not measured.
    """
    name, moments = point.site.name, point.read("moments")
    count, width = moments.unit_count, moments.shift.numel()
    if count < FEW_ROWS or width == 0:
        yield skip(name, f"{count} finite rows that are not zero, fewer than {FEW_ROWS}")
        return
    rates = kernels.coding_rate
    facts = point.get(kernels.feature_spectrum.facts) | {"unit_rows": count, "squared_error": rates.SQUARED_ERROR}
    eigenvalues = point.get(kernels.feature_spectrum.unit_eigenvalues)
    rate = rates.rate_of_eigenvalues(eigenvalues, count, width)
    yield CODING_RATE_SHARE.at(name, rate / rates.coding_rate_maximum(count, width), 1.0, **facts, rate=rate)
    labelled = rates.labelled_unit_rows(point, few_rows=FEW_ROWS_PER_CLASS)
    if labelled is None:
        yield skip(name, "rate_reduction, rate_reduction_share, rate_reduction_z: no labels: R only")
        return
    yield from _of_classes(point, labelled)


def _of_classes(point: "Activations", labelled: "LabelledRows") -> Iterator[Measurement | Skip]:
    name, rates, (rows, weights, origin) = point.site.name, kernels.coding_rate, labelled
    weights = weights[:, weights.sum(0) > 0.0]
    (count, width), classes = rows.shape, weights.shape[1]
    if classes < 2:
        reason = f"{classes} classes with {FEW_ROWS_PER_CLASS} rows or more"
        yield skip(name, f"rate_reduction, rate_reduction_share, rate_reduction_z: {reason}")
        return
    eigenvalues = rates.gram_eigenvalues(rows)
    whole = rates.rate_of_eigenvalues(eigenvalues, count, width)
    value = whole - rates.class_rate(rows, weights)
    chance = whole - rates.dealt_class_rate(rows, weights, point.generator())
    best, smallest = rates.rate_reduction_maximum(classes, width), float(weights.sum(0).min())
    facts = point.get(kernels.feature_spectrum.facts) | {
        "classes": classes,
        "of": origin,
        "compared_rows": count,
        "exact": point.read("sample").is_exact,
        "smallest_class": smallest,
        "few_rows_per_class": smallest < 2 * width,
    }
    yield RATE_REDUCTION.at(name, value, chance, **facts)
    yield RATE_REDUCTION_SHARE.at(name, value / best, chance / best, **facts)
    if origin != "labels":
        yield skip(name, "rate_reduction_z: the null is that of labels, not of soft assignments")
    elif smallest < 2 * width:
        yield skip(name, f"rate_reduction_z: a class of {smallest:.0f} rows, fewer than 2·{width}")
    else:
        error = rates.rate_reduction_error(eigenvalues, count=count, width=width, classes=classes)
        z = (value - chance) / error
        yield RATE_REDUCTION_Z.at(name, z, 0.0, **facts, saved=value, chance=chance, standard_error=error)
