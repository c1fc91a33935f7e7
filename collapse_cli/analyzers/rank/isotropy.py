"""Isotropy: whether embeddings use all directions alike or sit in a narrow cone."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

#: Fewer rows and a mean over pairs says little.
FEW_ROWS = 10

MEAN_COSINE = Metric(
    "mean_cosine",
    "1",
    "The mean cosine over all pairs of different rows.",
    better="lower",
    warn=Limit(
        "above",
        0.999,
        "zoo: 0.3 in sound embeddings, 0.999998 and more in collapsed ones; GPT-2's last layer works at 0.99 "
        "(Ethayarajh 2019)",
    ),
    null="0 for random directions",
    message="All {rows} rows point the same way: their mean cosine is {value:.5g}.",
)
ISOSCORE = Metric(
    "isoscore",
    "1",
    "(PR − 1)/(D − 1), PR the participation ratio of the covariance: 1 isotropic, 0 a line.",
    better="higher",
    null="isotropic Gaussian rows, as many and as wide",
)
SELF_CLUSTERING = Metric(
    "self_clustering",
    "1",
    "The mean squared cosine of pairs beyond that of random directions: 0 for those, 1 when all lie on one line.",
    better="lower",
    null="0 for random directions",
)
TOP_PC_SHARE = Metric(
    "top_pc_share",
    "1",
    "λ₁/Σλ: the share of the variance along the first principal component.",
    better="lower",
    null="isotropic Gaussian rows, as many and as wide",
)
PARTITION_ISOTROPY = Metric(
    "partition_isotropy",
    "1",
    "The smallest over the largest Σexp(c·z) over the eigenvectors c of the directions z, both signs.",
    better="higher",
    null="1 for infinitely many isotropic rows",
)


def healthy() -> Example:
    """Gaussian rows."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return Example({"encoder/features": torch.randn(256, 32, generator=generator)}, metadata={})


def collapsed() -> Example:
    """A hundredth of noise about one vector."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(32, generator=generator) + 0.01 * torch.randn(256, 32, generator=generator)
    return Example({"encoder/features": rows}, metadata={})


@activation_analyzer(
    name="isotropy",
    family="rank",
    title="Isotropy",
    metrics=(MEAN_COSINE, ISOSCORE, SELF_CLUSTERING, TOP_PC_SHARE, PARTITION_ISOTROPY),
    accepts=on.points("features", says="hook points with features"),
    remedy="Without training: subtract the mean (per language or group where there are several) and the first "
    "principal components. In training: a uniformity term or more negatives, and another temperature.",
    references=(
        Reference(
            "Rudman et al. IsoScore: Measuring the Uniformity of Embedding Space Utilization. 2021",
            "https://arxiv.org/abs/2108.07344",
        ),
        Reference(
            "Mu & Viswanath. All-but-the-Top: Simple and Effective Postprocessing for Word Representations. 2017",
            "https://arxiv.org/abs/1702.01417",
        ),
        Reference(
            "Tsitsulin, Munkhoeva & Perozzi. Unsupervised Embedding Quality Evaluation. 2023",
            "https://arxiv.org/abs/2305.16562",
        ),
        Reference(
            "Ethayarajh. How Contextual are Contextualized Word Representations? Comparing the Geometry of BERT, "
            "ELMo, and GPT-2 Embeddings. 2019",
            "https://arxiv.org/abs/1909.00512",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("samples_permuted", "scaled", "features_rotated"),
    needs=("moments", "sample"),
)
def isotropy(point: "Activations") -> Iterator[Measurement | Skip]:
    """Do the embeddings sit in a narrow cone, or use all directions alike?

    ## Why it matters
    Retrieval and clustering compare directions. When all embeddings lie in a narrow cone, the differences that carry
    meaning are a small rest on a large common part, and cosine thresholds, quantisation and nearest neighbours suffer.

    ## How to read it
    `mean_cosine` is the width of the cone: 0 for random directions, 1 when all are one. `isoscore` and `top_pc_share`
    are about the mean and stand beside what isotropic rows give. `self_clustering` also hears groups that point
    opposite ways, which the mean cosine does not. `partition_isotropy` is 1 where no direction is preferred. If
    `mean_cosine` is high and `isoscore` too, a common offset is all there is, and subtracting it repairs the space.

    ## Limits
    Anisotropy is often one mean vector, and models with it work: the image and text towers of CLIP stand at a mean
    cosine near 0.5, layers of language models far above. Hence only directions that are all but equal are a warning.
    Features after a ReLU are positive and have a positive mean cosine. `isoscore` of few rows is biased as its null is.
    `partition_isotropy` is taken on the sampled rows, and zero rows have no direction and are left out of all but
    `isoscore` and `top_pc_share`.
    """
    name, moments = point.site.name, point.read("moments")
    rows, width = moments.count, moments.shift.numel()
    if rows < FEW_ROWS or width == 0:
        yield skip(name, f"fewer than {FEW_ROWS} finite rows")
        return
    facts = point.get(kernels.feature_spectrum.facts)
    yield from _of_directions(point, facts | {"unit_rows": moments.unit_count})
    values = point.get(kernels.feature_spectrum.covariance_eigenvalues)
    if float(values[0]) == 0.0:
        yield skip(name, "isoscore, top_pc_share: all rows are equal")
        return
    top_null = kernels.random_matrix.stable_rank_null(rows - 1, width)
    yield TOP_PC_SHARE.at(name, float(values[0] / values.sum()), 1.0 / top_null, **facts, centred=True)
    score = kernels.isotropy.isoscore(moments.centred_scatter)
    if score is None:
        yield skip(name, "isoscore: one feature has one direction")
        return
    ratio_null = kernels.feature_spectrum.participation_ratio_null(rows, width)
    yield ISOSCORE.at(name, score, (ratio_null - 1.0) / (width - 1), **facts, centred=True)


def _of_directions(point: "Activations", facts: dict[str, object]) -> Iterator[Measurement | Skip]:
    name, moments = point.site.name, point.read("moments")
    count, width = moments.unit_count, moments.shift.numel()
    cosine = kernels.isotropy.mean_cosine(moments.unit_sum, count)
    if cosine is None or count < FEW_ROWS:
        yield skip(
            name, f"mean_cosine, self_clustering, partition_isotropy: {count} rows that are not zero, of {FEW_ROWS}"
        )
        return
    error = (2.0 / (count * (count - 1) * width)) ** 0.5
    yield MEAN_COSINE.at(name, cosine, 0.0, **facts, chance_standard_error=error)
    clustering = kernels.isotropy.self_clustering(moments.unit_gram, count)
    if clustering is None:
        yield skip(name, "self_clustering: one feature has one direction")
    else:
        yield SELF_CLUSTERING.at(name, clustering, 0.0, **facts)
    sample = point.read("sample")
    rows = sample.rows("features")[sample.is_uniform].double().flatten(1)
    norms = rows.norm(dim=1, keepdim=True)
    units = (rows / norms)[norms[:, 0] > 0.0]
    if units.shape[0] == 0:
        yield skip(name, "partition_isotropy: all sampled rows are zero")
        return
    evenness = kernels.partition_isotropy.partition_isotropy(units, moments.unit_gram)
    yield PARTITION_ISOTROPY.at(name, evenness, 1.0, **facts, sampled_rows=units.shape[0], exact=sample.is_exact)
