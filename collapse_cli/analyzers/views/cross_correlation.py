"""The cross-correlation of two views, which Barlow Twins drives to the identity."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Activations

#: Fewer rows say nothing of a correlation.
MIN_ROWS = 16
#: Fewer rows a dimension, and single correlations are mostly noise; said in the evidence.
ROWS_PER_DIMENSION = 4
#: ε of the batch normalisation before the loss (PyTorch's default).
EPSILON = 1e-5
#: Weight of the off-diagonal in Barlow Twins' loss (Zbontar et al. 2021).
OFF_DIAGONAL_WEIGHT = 0.0051

MEAN_DIAGONAL = Metric(
    "mean_diagonal",
    "1",
    "Mean correlation of a dimension in one view with the same dimension in the other.",
    better="higher",
    null="unrelated views",
)
MEAN_DIAGONAL_Z = Metric(
    "mean_diagonal_z",
    "standard errors",
    "The mean diagonal over its standard error 1/√(ND) for unrelated views.",
    better="higher",
    warn=Limit("below", 3.0, "definition: not told from unrelated views by three standard errors", inclusive=True),
    null="unrelated views",
    message="The two views of a sample are as good as unrelated: their correlation is {correlation:.2g} on average, "
    "{value:.2g} standard errors. Are the rows of the two views in the same order?",
)
OFF_DIAGONAL_EXCESS = Metric(
    "off_diagonal_excess",
    "1",
    "Mean squared correlation of different dimensions across views, above the 1/(N−1) of independent ones.",
    better="lower",
    warn=Limit(
        "above",
        0.55,
        "zoo: beyond every healthy model, at most 0.5; random vectors of two directions have ½ on average",
    ),
    error=Limit("above", 0.6, "closed form: 1/k in k directions, so fewer than two"),
    null="independent dimensions",
    message="The dimensions repeat each other: their squared correlation is {value:.2g}, as if {width} were "
    "{directions:.2g}.",
)
BARLOW_LOSS = Metric(
    "barlow_loss",
    "1",
    "Σ(1 − C_ii)² + 0.0051·ΣC_ij², the loss of Barlow Twins on all rows.",
    better="lower",
    null="unrelated views of independent dimensions",
)
DEAD_DIMS = Metric(
    "dead_dims",
    "1",
    "Share of the dimensions whose variance in a view is at most the ε of batch normalisation, 1e-5.",
    better="lower",
    warn=Limit(
        "above",
        0.9,
        "zoo: no dead dimension in healthy embeddings, all of them in completely collapsed ones",
        inclusive=True,
    ),
    null="every dimension alive",
    message="{count} of {width} dimensions are dead: their variance is at most 1e-5.",
)


def healthy() -> Example:
    """Gaussian samples and two views that differ by noise."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(256, 16, generator=generator)
    noise = torch.randn(2, 256, 16, generator=generator)
    return Example(
        {"projector/view_a": rows + 0.3 * noise[0], "projector/view_b": rows + 0.3 * noise[1]},
        metadata={},
    )


def collapsed() -> Example:
    """One hook point where every dimension is a multiple of the same one, and one where nothing varies."""
    import torch

    generator = torch.Generator().manual_seed(0)
    line = torch.randn(256, 1, generator=generator) * torch.randn(1, 16, generator=generator)
    return Example(
        {
            "backbone/view_a": line,
            "backbone/view_b": line + 0.01 * torch.randn(256, 16, generator=generator),
            "projector/view_a": torch.ones(256, 16),
            "projector/view_b": torch.ones(256, 16),
        },
        metadata={},
    )


@activation_analyzer(
    name="cross-correlation",
    family="views",
    title="Cross-correlation of two views",
    metrics=(MEAN_DIAGONAL, MEAN_DIAGONAL_Z, OFF_DIAGONAL_EXCESS, BARLOW_LOSS, DEAD_DIMS),
    accepts=on.points("view_a", "view_b", says="hook points with two views"),
    remedy="If dimensions repeat each other, weigh the off-diagonal more (λ), widen the projector, or mix samples as a "
    "regulariser; if the views are unrelated, check that their rows belong together; stop at the peak of the "
    "nearest-neighbour accuracy, not at the lowest loss.",
    references=(
        Reference(
            "Zbontar et al. Barlow Twins: Self-Supervised Learning via Redundancy Reduction. 2021",
            "https://arxiv.org/abs/2103.03230",
        ),
        Reference(
            "Bandara et al. Guarding Barlow Twins Against Overfitting with Mixed Samples. 2023",
            "https://arxiv.org/abs/2312.02151",
        ),
        Reference(
            "Jing et al. Understanding Dimensional Collapse in Contrastive Self-supervised Learning. 2021",
            "https://arxiv.org/abs/2110.09348",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("samples_permuted", "shifted"),
    needs=("moments(view_a)", "moments(view_b)", "cross_moments(view_a,view_b)"),
)
def cross_correlation(point: "Activations") -> Iterator[Measurement | Skip]:
    """Does each dimension agree across views, and does it say something that the others do not?

    ## Why it matters
    An encoder can satisfy the agreement of views with a handful of directions, copied into all dimensions: the width is
    then wasted and everything that needed it is lost. The cross-correlation of two views shows both at once, agreement
    on its diagonal and redundancy beside it.

    ## How to read it
    `mean_diagonal` is 1 when views agree and 0 when they have nothing to do with each other; `mean_diagonal_z` says
    whether it can be told from 0. `off_diagonal_excess` is the mean squared correlation of different dimensions, less
    what chance gives at this number of rows: 0 when they are independent, 1 when all are copies, about 1/k when they
    live in k directions. `dead_dims` are dimensions that hardly vary at all.

    ## Limits
    The off-diagonal of few rows is noise of 1/N: 0.004 at 256 rows, and only its mean is taken away; below four rows a
    dimension the evidence says so. Dead dimensions have no correlation and read as decorrelated, so look at
    `dead_dims` first; features of a scale below 3e-3 are all dead by the ε of batch normalisation although they vary,
    and then nothing is said of unrelated views. The loss goes on falling when an encoder over-fits: compare with rows
    that were held out. Rotating the features changes every one of these numbers.
    """
    name = point.site.name
    left, right = (point.read(f"moments({role})") for role in ("view_a", "view_b"))
    width = point.shapes["view_a"][-1]
    if width != point.shapes["view_b"][-1]:
        yield skip(name, f"views of widths {width} and {point.shapes['view_b'][-1]}")
        return
    count = left.count
    if count < MIN_ROWS or width == 0:
        yield skip(name, f"finite rows {count} < {MIN_ROWS}" if width else "no dimensions")
        return
    cross = point.read("cross_moments(view_a,view_b)").centred_cross / count
    variances = [(moments.centred_scatter.diagonal() / count).clamp_min(0.0) for moments in (left, right)]
    scales = [(variance + EPSILON).sqrt() for variance in variances]
    correlation = cross / scales[0][:, None] / scales[1]
    evidence = kernels.feature_spectrum.facts(point, "view_a") | {
        "exact": True,
        "few_rows": count < ROWS_PER_DIMENSION * width,
    }
    dead = int(((variances[0] <= EPSILON) | (variances[1] <= EPSILON)).sum())
    yield DEAD_DIMS.at(name, dead / width, 0.0, count=dead, **evidence)
    diagonal = float(correlation.diagonal().mean())
    yield MEAN_DIAGONAL.at(name, diagonal, 0.0, **evidence)
    if dead == width:
        yield skip(name, "mean_diagonal_z: every dimension is dead")
    else:
        yield MEAN_DIAGONAL_Z.at(name, diagonal * math.sqrt(count * width), 0.0, correlation=diagonal, **evidence)
    yield from _redundancy(name, correlation, count=count, evidence=evidence)


def _redundancy(
    name: str, correlation: "Tensor", *, count: int, evidence: dict[str, object]
) -> Iterator[Measurement | Skip]:
    width = correlation.shape[0]
    diagonal = correlation.diagonal()
    apart = max(float(correlation.square().sum()) - float(diagonal.square().sum()), 0.0)
    loss = float((1.0 - diagonal).square().sum()) + OFF_DIAGONAL_WEIGHT * apart
    null = width + OFF_DIAGONAL_WEIGHT * width * (width - 1) / (count - 1)
    yield BARLOW_LOSS.at(name, loss, null, **evidence)
    if width < 2:
        yield skip(name, "off_diagonal_excess: one dimension")
        return
    floor = 1.0 / (count - 1)
    excess = apart / (width * (width - 1)) - floor
    directions = width / (1.0 + (width - 1) * max(excess, 0.0))
    yield OFF_DIAGONAL_EXCESS.at(name, excess, 0.0, floor=floor, directions=directions, **evidence)
