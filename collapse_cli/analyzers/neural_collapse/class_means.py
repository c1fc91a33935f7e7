"""How the class means stand to one another."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

RANDOM_MEANS = "isotropic Gaussian class means"

EQUINORM_COV = Metric(
    "equinorm_cov",
    "1",
    "Standard deviation (of K−1) over mean of the lengths of the centred class means; 0 for a simplex.",
    null=f"{RANDOM_MEANS}: 1/√(2D)",
)
EQUIANGULARITY = Metric(
    "equiangularity",
    "1",
    "Mean distance of the cosines between centred class means from the −1/(K−1) of a simplex.",
    null=f"{RANDOM_MEANS}: √(2/(πD))",
)
ETF_ERROR = Metric(
    "etf_error",
    "1",
    "Distance of the normalised Gram matrix of the centred class means from that of a simplex; 0 to √2.",
    null=f"{RANDOM_MEANS}: that of their class_mean_rank",
)
CLASS_MEAN_RANK = Metric(
    "class_mean_rank",
    "directions",
    "Participation ratio of the centred class means: over how many directions they are spread.",
    better="higher",
    warn=Limit(
        "below",
        0.1,
        "zoo: beyond every healthy model; these have 0.16 of the null and more, and means on a line 0.13 of it for ten "
        "classes",
        of="null",
        intent=frozenset({"classifier"}),
    ),
    null=f"{RANDOM_MEANS}: ((K−1)D+2)/(K+D)",
    message="The means of {classes} classes are spread over {value:.3g} directions; random means over {null:.3g}.",
)
GNC2_LOG_MEAN = Metric(
    "gnc2_log_mean",
    "1",
    "Mean of −ln distance between the directions of the centred class means; lower is more uniform.",
    null=f"{RANDOM_MEANS}: −½ln(2K/(K−1)) + 1/(4D)",
)
GNC2_LOG_VAR = Metric(
    "gnc2_log_var",
    "1",
    "Variance of −ln distance over the pairs of directions; 0 when all are equally far apart.",
    null=f"{RANDOM_MEANS}: 1/(4D)",
)


def healthy() -> Example:
    """Twenty simplex vertices in 32 dimensions, ten rows each."""
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 20
    means = torch.nn.functional.pad(torch.eye(20) - 0.05, (0, 12))
    rows = means[labels] + 0.05 * torch.randn(200, 32, generator=generator)
    return Example(
        {"encoder.layer.0/features": rows, "encoder.layer.0/labels": labels}, intent="classifier", metadata={}
    )


def collapsed() -> Example:
    """Twenty class means on one line."""
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 20
    means = torch.linspace(-1.0, 1.0, 20)[:, None] * torch.randn(1, 32, generator=generator)
    rows = means[labels] + 0.05 * torch.randn(200, 32, generator=generator)
    return Example(
        {"encoder.layer.0/features": rows, "encoder.layer.0/labels": labels}, intent="classifier", metadata={}
    )


@activation_analyzer(
    name="class-means",
    family="neural-collapse",
    title="Geometry of the class means",
    metrics=(EQUINORM_COV, EQUIANGULARITY, ETF_ERROR, CLASS_MEAN_RANK, GNC2_LOG_MEAN, GNC2_LOG_VAR),
    accepts=on.points("features", "labels", says="hook points with features and labels of at least 3 classes"),
    needs=("class_moments",),
    remedy="For bunched means train longer at low loss, leave label smoothing off, or fix the head to a simplex. With "
    "many more classes than features, widen the layer or add a term for uniformity on the sphere.",
    references=(
        Reference(
            "Papyan, Han & Donoho. Prevalence of Neural Collapse during the terminal phase of deep learning "
            "training. 2020",
            "https://arxiv.org/abs/2008.08186",
        ),
        Reference(
            "Wu & Papyan. Linguistic Collapse: Neural Collapse in (Large) Language Models. 2024",
            "https://arxiv.org/abs/2405.17767",
        ),
        Reference(
            "Liu et al. Generalizing and Decoupling Neural Collapse via Hyperspherical Uniformity Gap. 2023",
            "https://arxiv.org/abs/2303.06484",
        ),
        Reference(
            "Kothapalli. Neural Collapse: A Review on Modelling Principles and Generalization. 2022",
            "https://arxiv.org/abs/2206.04041",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("samples_permuted", "features_rotated", "scaled", "shifted"),
)
def class_means(point: "Activations") -> Iterator[Measurement | Skip]:
    """Are class means equally long, equally spread, or bunched together?

    ## Why it matters
    The best a balanced classifier can do is to put its class means at equal lengths and equal angles, as far from each
    other as that many points can be: a simplex (NC2), or, with more classes than dimensions, points spread evenly over
    the sphere (GNC2). Means that bunch along a few directions leave some classes a small margin however long training
    goes on.

    ## How to read it
    `equinorm_cov`, `equiangularity` and `etf_error` are 0 for a simplex; the nulls are what random means would give,
    and in many dimensions these are small as well. `class_mean_rank` counts directions, at most K−1, and is what
    `etf_error` is made of. With more classes than D+1 a simplex is impossible: `etf_error` then cannot fall below the
    floor in its evidence, and the two `gnc2` values are to be read, mean low and variance near 0.

    ## Limits
    `etf_error` is a participation ratio in disguise: random Gaussian means of a vocabulary score better than those of
    any trained language model. Lengths use the deviation of K−1 classes, others of K. Classes with fewer than 5 rows
    are left out and counted, and with few rows per class the noise of the means makes them look random. Coincident
    directions have no logarithm; they are counted and left out of the two `gnc2` values. A hierarchy of classes is a
    legitimate reason for a low rank.
    """
    site, found = point.site.name, point.get(kernels.neural_collapse.classes)
    many, width = found.count, found.width
    if many < 3:
        yield skip(site, f"{many} classes with {kernels.neural_collapse.MIN_ROWS} rows < 3")
        return
    facts = point.get(kernels.neural_collapse.sizes)
    lengths = found.centred.norm(dim=1)
    live = lengths > found.rounding
    if int(live.sum()) < 2:
        yield skip(site, "all class means are equal")
        return
    yield EQUINORM_COV.at(site, float(lengths.std() / lengths.mean()), (2.0 * width) ** -0.5, **facts)
    rank = kernels.class_geometry.class_mean_rank(found.means)
    random_rank = min(((many - 1) * width + 2) / (many + width), float(many - 1))
    yield CLASS_MEAN_RANK.at(site, rank, random_rank, **facts)
    yield ETF_ERROR.at(
        site,
        kernels.neural_collapse.simplex_distance(found.means),
        kernels.neural_collapse.simplex_distance_of(random_rank, many),
        floor=kernels.neural_collapse.simplex_distance_of(min(width, many - 1), many),
        **facts,
    )
    units = found.centred[live] / lengths[live, None]
    pairs = kernels.class_pairs.frame_pairs(units, cosine=-1.0 / (many - 1), generator=point.generator())
    facts = facts | {"pairs": pairs.compared, "coincident": pairs.coincident, "central": int((~live).sum())}
    yield EQUIANGULARITY.at(site, pairs.deviation, kernels.neural_collapse.equiangularity_null(width), **facts)
    if pairs.log_mean is None or pairs.log_variance is None:
        yield skip(site, "gnc2_log_mean, gnc2_log_var: all class means have one direction")
        return
    mean, variance = kernels.neural_collapse.log_kernel_null(many, width)
    yield GNC2_LOG_MEAN.at(site, pairs.log_mean, mean, **facts)
    yield GNC2_LOG_VAR.at(site, pairs.log_variance, variance, **facts)
