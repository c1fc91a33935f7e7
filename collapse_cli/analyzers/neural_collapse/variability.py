"""Spread within classes against the distance between them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

RANDOM_LABELS = "isotropic Gaussian rows with labels at random"

NC1 = Metric(
    "nc1",
    "1",
    "Spread within classes over that between them, along each direction of the class means: tr(Σ_B⁺Σ_W)/K.",
    null=f"{RANDOM_LABELS}: (ν−1)(K−1)/(D−K), for K > D+2 (ν−1)D/(K−D−2), ν the harmonic mean of the class sizes",
)
NC1_QUOTIENT = Metric(
    "nc1_quotient",
    "1",
    "Total spread within classes over total spread of the class means, tr Σ_W/tr Σ_B.",
    null=f"{RANDOM_LABELS}: (1−K/N)νK/(K−1)",
)
CDNV = Metric(
    "cdnv",
    "1",
    "Class-distance normalised variance (V_i+V_j)/(2‖m_i−m_j‖²), the mean over pairs of classes.",
    null=f"{RANDOM_LABELS}: ½(ν−1)·PR/(PR−2), PR the participation ratio of the within-class covariance",
)
CDNV_LEGACY = Metric(
    "cdnv_legacy",
    "1/length²",
    "The same with ‖m_i−m_j‖⁴ below, as some published tables have it; it depends on the scale of the features.",
)
CDNV_MAX = Metric(
    "cdnv_max",
    "1",
    "The class-distance normalised variance of the pair of classes that is told apart worst.",
    better="lower",
    null=f"{RANDOM_LABELS}: the largest that is typical of so many pairs",
)
MERGED_PAIRS = Metric(
    "merged_pairs",
    "pairs",
    "Pairs of classes of at least 20 rows each whose means differ by less than three standard errors.",
    better="lower",
    null=f"{RANDOM_LABELS}: all pairs",
)
MERGED_CLASSES = Metric(
    "merged_classes",
    "1",
    "Share of the classes of at least 20 rows whose mean differs from that of another class by less than three "
    "standard errors.",
    better="lower",
    null=f"{RANDOM_LABELS}: all classes",
    warn=Limit(
        "above",
        0.25,
        "zoo: beyond every sound or untrained model; two of ten classes may have one mean in the pixels already",
        intent=frozenset({"classifier"}),
    ),
    error=Limit(
        "above",
        0.5,
        "zoo: all of the classes where superclasses were taught; a half cannot be told from another then",
        intent=frozenset({"classifier"}),
        inclusive=True,
    ),
    message="{merged} of {mergeable} classes have the mean of another one within three standard errors, first "
    "{first_pair}.",
)


def healthy() -> Example:
    """Four simplex vertices with little noise, 30 rows each."""
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 4
    means = torch.nn.functional.pad(torch.eye(4) - 0.25, (0, 12))
    rows = means[labels] + 0.05 * torch.randn(120, 16, generator=generator)
    return Example(
        {"encoder.layer.0/features": rows, "encoder.layer.0/labels": labels}, intent="classifier", metadata={}
    )


def collapsed() -> Example:
    """The same with the last two classes on one vertex."""
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 4
    means = torch.nn.functional.pad(torch.eye(4) - 0.25, (0, 12))
    rows = means[labels.clamp_max(2)] + 0.05 * torch.randn(120, 16, generator=generator)
    return Example(
        {"encoder.layer.0/features": rows, "encoder.layer.0/labels": labels}, intent="classifier", metadata={}
    )


@activation_analyzer(
    name="variability",
    family="neural-collapse",
    title="Within-class variability",
    metrics=(NC1, NC1_QUOTIENT, CDNV, CDNV_LEGACY, CDNV_MAX, MERGED_PAIRS, MERGED_CLASSES),
    accepts=on.points("features", "labels", says="hook points with features and labels"),
    needs=("class_moments",),
    remedy="For transfer take an earlier layer, train with mixup or with a term that keeps subspaces or neighbourhoods "
    "within a class. For merged classes rebalance the data, check the labels for noise between the two, or fix "
    "the head to a simplex.",
    references=(
        Reference(
            "Papyan, Han & Donoho. Prevalence of Neural Collapse during the terminal phase of deep learning "
            "training. 2020",
            "https://arxiv.org/abs/2008.08186",
        ),
        Reference(
            "Galanti, György & Hutter. On the Role of Neural Collapse in Transfer Learning. 2021",
            "https://arxiv.org/abs/2112.15121",
        ),
        Reference(
            "Wu & Papyan. Linguistic Collapse: Neural Collapse in (Large) Language Models. 2024",
            "https://arxiv.org/abs/2405.17767",
        ),
        Reference(
            "Tirer, Huang & Niles-Weed. Perturbation Analysis of Neural Collapse. 2022",
            "https://arxiv.org/abs/2210.16658",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("samples_permuted", "features_rotated", "scaled", "shifted"),
    unmoved_metrics=("nc1", "nc1_quotient", "cdnv", "cdnv_max", "merged_pairs", "merged_classes"),
)
def variability(point: "Activations") -> Iterator[Measurement | Skip]:
    """Have the rows of a class shrunk onto their mean, and are any two classes no longer told apart?

    ## Why it matters
    At the end of supervised training the rows of a class fall together onto one point (NC1). A classifier wants that; a
    representation that is to serve other tasks loses with it whatever tells the samples of one class apart. Two classes
    whose means have fallen together are bad for both: no head can separate them any more.

    ## How to read it
    All values are 0 when every class is one point, and meet the null when the labels say nothing about the features.
    Training moves them over decades, so compare logarithms. `nc1` weighs each direction of the class means by itself,
    so that one badly separated pair is enough to make it large; `nc1_quotient` and `cdnv` are averages, and `cdnv_max`
    names the worst pair in its evidence. `merged_pairs` are pairs whose means are as close as those of two samples of
    one class, and `merged_classes` the classes in one: never good, and an error for a classifier that cannot tell half
    of its classes from another. One pair may be alike in the input already: features of a network that was never
    trained have such pairs.

    ## Limits
    `nc1` sees only the directions in which class means differ; spread orthogonal to them is in the quotient. Classes
    with fewer than 5 rows are left out and counted, although their rows take part in the pooled spread. With few rows
    per class all values are too large by the noise of the means, of which the null is the extreme case. Rare classes
    are easily called merged, because their means are uncertain: gather more rows. Features kept in half precision with
    a large common offset have rounding in their spread. Beyond 8,192 classes averages are over a million seeded pairs.
    Some implementations divide the spread of the means by D and not by K, and then `nc1` differs by D/K.
    """
    site, found = point.site.name, point.get(kernels.neural_collapse.classes)
    if found.count < 2:
        yield skip(site, f"{found.count} classes with {kernels.neural_collapse.MIN_ROWS} rows < 2")
        return
    facts = point.get(kernels.neural_collapse.sizes)
    dimension = point.get(kernels.neural_collapse.within_dimension)
    facts = facts | {"within_dimension": dimension}
    yield from _pooled(point, facts)
    pairs = kernels.class_pairs.class_pairs(found, dimension, generator=point.generator())
    facts = facts | {"pairs": pairs.compared, "coincident": pairs.coincident, "exact": pairs.is_exhaustive}
    if pairs.largest < 0.0:
        yield skip(site, "cdnv, cdnv_legacy, cdnv_max: all class means are equal")
    else:
        null = kernels.neural_collapse.ratio_null(found.counts, dimension)
        yield CDNV.at(site, pairs.mean, null, **facts)
        yield CDNV_LEGACY.at(site, pairs.legacy, **facts)
        null = kernels.neural_collapse.largest_ratio_null(found.counts, dimension)
        labels = [int(found.labels[place]) for place in pairs.largest_at]
        yield CDNV_MAX.at(site, pairs.largest, null, closest_pair=labels, **facts)
    if pairs.mergeable == 0:
        yield skip(
            site, f"merged_pairs, merged_classes: fewer than 2 classes with {kernels.class_pairs.MERGE_ROWS} rows"
        )
        return
    first = pairs.first_merged
    named = [int(found.labels[place]) for place in first] if first else []
    yield MERGED_PAIRS.at(site, pairs.merged, pairs.mergeable, mergeable=pairs.mergeable, first_pair=named, **facts)
    merged, classes = pairs.merged_classes, pairs.mergeable_classes
    yield MERGED_CLASSES.at(site, merged / classes, 1.0, merged=merged, mergeable=classes, first_pair=named, **facts)


def _pooled(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    site, found = point.site.name, point.get(kernels.neural_collapse.classes)
    ratio = point.get(kernels.neural_collapse.nc1)
    directions = min(found.count - 1, found.width)
    if ratio is None:
        yield skip(site, f"nc1: the class means span fewer than {directions} directions")
    else:
        null = kernels.neural_collapse.nc1_null(found.counts, found.width)
        yield NC1.at(site, ratio, null, directions=directions, **facts)
    quotient = point.get(kernels.neural_collapse.nc1_quotient)
    if quotient is None:
        yield skip(site, "nc1_quotient: all class means are equal")
        return
    yield NC1_QUOTIENT.at(site, quotient, kernels.neural_collapse.nc1_quotient_null(found.counts), **facts)
