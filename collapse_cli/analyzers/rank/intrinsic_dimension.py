"""Intrinsic dimension: on how many dimensions the features locally lie."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

#: Different rows below which neighbours are too far apart to be local (the Gaussian reference saturates as well).
FEW_ROWS = 1000
#: Share of repeated rows above which the sample is not one of a manifold.
MANY_DUPLICATES = 0.5
GAUSSIAN = "a Gaussian sample with the same covariance and number of rows"

TWONN = Metric(
    "twonn",
    "dimensions",
    "The dimension at which the ratio of the distances to the second and first neighbour is distributed as it is.",
    null=GAUSSIAN,
)
MLE_K20 = Metric(
    "mle_k20",
    "dimensions",
    "The maximum-likelihood dimension from the distances to 20 neighbours, averaged over the rows as 1/d.",
    null=GAUSSIAN,
)
ID_SHARE = Metric(
    "id_share",
    "1",
    "TwoNN over that of a Gaussian sample with the same covariance: below 1 the features are curved or clustered.",
    null="1",
)
ROWS_PER_DIMENSION = Metric(
    "rows_per_dimension", "rows", "The number of rows over the TwoNN dimension.", better="higher"
)


def healthy() -> Example:
    """A sheet of 5 dimensions in a space of 20."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(1200, 5, generator=generator) @ torch.randn(5, 20, generator=generator)
    return Example({"encoder/features": rows}, metadata={})


def collapsed() -> Example:
    """A line."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(1200, 1, generator=generator, dtype=torch.float64) * torch.randn(1, 20, generator=generator)
    return Example({"encoder/features": rows}, metadata={})


@activation_analyzer(
    name="intrinsic-dimension",
    family="rank",
    title="Intrinsic dimension",
    metrics=(TWONN, MLE_K20, ID_SHARE, ROWS_PER_DIMENSION),
    accepts=on.points("features", says="hook points with features"),
    remedy="If the rank is low as well, treat it as dimensional collapse: variance and redundancy terms, more views. A "
    "low intrinsic dimension with good probes is compression and no damage.",
    references=(
        Reference(
            "Facco et al. Estimating the intrinsic dimension of datasets by a minimal neighborhood information. "
            "Scientific Reports 2017",
            "https://doi.org/10.1038/s41598-017-11873-y",
        ),
        Reference(
            "Levina & Bickel. Maximum Likelihood Estimation of Intrinsic Dimension. NIPS 2004",
            "https://papers.nips.cc/paper/2577-maximum-likelihood-estimation-of-intrinsic-dimension",
        ),
        Reference(
            "Ansuini et al. Intrinsic dimension of data representations in deep neural networks. 2019",
            "https://arxiv.org/abs/1905.12784",
        ),
        Reference(
            "Wang et al. Diffusion Models Learn Low-Dimensional Distributions via Subspace Clustering. 2024",
            "https://arxiv.org/abs/2409.02426",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("samples_permuted", "scaled"),
    needs=("moments", "sample"),
)
def intrinsic_dimension(point: "Activations") -> Iterator[Measurement | Skip]:
    """On how many dimensions do the features locally lie?

    ## Why it matters
    Linear rank counts the directions a cloud extends in; its points may still lie on a thin curved sheet. The number of
    dimensions of that sheet falls through the layers of networks that generalise, and says how many rows it takes to
    learn a function on it.

    ## How to read it
    `twonn` uses the two nearest neighbours, `mle_k20` twenty; where both agree the estimate is stable over scales.
    Estimates saturate (64 isotropic dimensions read 36 on 2,000 rows), so read them beside the null, a Gaussian sample
    with the same covariance: `id_share` near 1 means the linear dimensions are all there is, far below 1 a curved or
    clustered set. `rows_per_dimension` below 1 means fewer rows than dimensions.

    ## Limits
    No limit is set: a low dimension may be compression that serves the task. It takes 1,000 different rows; at most
    4,096 sampled rows are compared. Exact repetitions are dropped first, and with more than half of them nothing is
    said. Estimators differ by constants (where the ranks start, k − 1 or k − 2, how rows are averaged), so only numbers
    of one code compare. Rounding in half precision puts points on a lattice and lifts the estimate of thin sheets.
    """
    name, kernel = point.site.name, kernels.intrinsic_dimension
    if point.finite_rows < FEW_ROWS:
        yield skip(name, f"{point.finite_rows:,} rows: fewer than {FEW_ROWS:,} distinct rows")
        return
    rows, compared = point.get(kernel.distinct_sample)
    duplicates = 1.0 - rows.shape[0] / compared
    if duplicates > MANY_DUPLICATES:
        yield skip(name, f"duplicate rate above 50 %: {duplicates:.0%}")
        return
    if rows.shape[0] < FEW_ROWS:
        yield skip(name, f"{rows.shape[0]:,} of {compared:,}: fewer than {FEW_ROWS:,} distinct rows")
        return
    distances = kernel.neighbour_distances(rows, kernel.NEIGHBOURS)
    twonn, likelihood = kernel.two_nearest(distances), kernel.maximum_likelihood(distances)
    if twonn is None or likelihood is None:
        yield skip(name, "all neighbours of a row are equally far: the rows are a lattice")
        return
    sample = point.read("sample")
    facts = point.get(kernels.feature_spectrum.facts) | {
        "compared_rows": rows.shape[0],
        "duplicate_rate": duplicates,
        "exact": bool(sample.is_exact) and compared == point.finite_rows,
    }
    chance = kernel.neighbour_distances(kernel.gaussian_sample(point, rows.shape[0]), kernel.NEIGHBOURS)
    twonn_null, likelihood_null = kernel.two_nearest(chance), kernel.maximum_likelihood(chance)
    yield TWONN.at(name, twonn, twonn_null, **facts)
    yield MLE_K20.at(name, likelihood, likelihood_null, **facts, neighbours=kernel.NEIGHBOURS)
    if twonn_null is not None:
        yield ID_SHARE.at(name, twonn / twonn_null, 1.0, **facts, twonn=twonn, chance=twonn_null)
    yield ROWS_PER_DIMENSION.at(name, point.finite_rows / twonn, **facts, twonn=twonn)
