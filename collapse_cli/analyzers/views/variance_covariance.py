"""The terms of VICReg: every dimension alive, dimensions decorrelated, views equal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Activations

#: Fewer rows say nothing of a variance.
MIN_ROWS = 16
#: ε under the root of the variance term (Bardes, Ponce & LeCun 2022).
EPSILON = 1e-4

VICREG_VARIANCE = Metric(
    "vicreg_variance",
    "1",
    "Mean over dimensions of what the standard deviation √(v + 1e-4) lacks to 1, averaged over the views.",
    better="lower",
    warn=Limit(
        "above",
        0.98999,
        "zoo: 0.7 or less in sound dumps of views; here deviations are below 4.5e-4 throughout, 0.99 is a constant",
    ),
    error=Limit("above", 0.989999, "zoo: collapsed embeddings are beyond, with deviations below 1.4e-4 throughout"),
    null="dimensions of unit variance",
    message="Constant: the variance term is {value:.6g} of at most 0.99; the largest deviation is {largest_std:.2g}.",
)
VICREG_COVARIANCE = Metric(
    "vicreg_covariance",
    "1",
    "Sum of the squared covariances between different dimensions over D, summed over the views.",
    better="lower",
    null="independent dimensions of unit variance",
)
COVARIANCE_SHARE = Metric(
    "covariance_share",
    "1",
    "Share of the squared entries of the covariance that lies off its diagonal, averaged over the views.",
    better="lower",
    null="independent dimensions of equal variance",
)
VICREG_INVARIANCE = Metric(
    "vicreg_invariance",
    "1",
    "Mean squared difference of the two views, over all entries.",
    better="lower",
    null="unrelated views of unit variance",
)


def healthy() -> Example:
    """Gaussian samples of unit variance and two views that differ by a little noise."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(256, 16, generator=generator)
    return Example(
        {
            "projector/view_a": rows,
            "projector/view_b": rows + 0.1 * torch.randn(256, 16, generator=generator),
        },
        metadata={},
    )


def collapsed() -> Example:
    """Both views of every sample are the same vector."""
    import torch

    row = torch.randn(1, 16, generator=torch.Generator().manual_seed(0))
    return Example(
        {"projector/view_a": row.repeat(256, 1), "projector/view_b": row.repeat(256, 1)},
        metadata={},
    )


@activation_analyzer(
    name="variance-covariance",
    family="views",
    title="Variance, covariance and invariance",
    metrics=(VICREG_VARIANCE, VICREG_COVARIANCE, COVARIANCE_SHARE, VICREG_INVARIANCE),
    accepts=on.points(says="hook points with two views, or with features for all but the invariance"),
    remedy="Raise the weight of the variance term, put batch normalisation into the projector, and make sure that the "
    "hook reads the layer the loss is applied to: a backbone has another scale than the projector.",
    references=(
        Reference(
            "Bardes, Ponce & LeCun. VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised "
            "Learning. 2021",
            "https://arxiv.org/abs/2105.04906",
        ),
        Reference(
            "Zbontar et al. Barlow Twins: Self-Supervised Learning via Redundancy Reduction. 2021",
            "https://arxiv.org/abs/2103.03230",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("samples_permuted", "shifted"),
    needs=("moments(features)", "moments(view_a)", "moments(view_b)", "cross_moments(view_a,view_b)"),
)
def variance_covariance(point: "Activations") -> Iterator[Measurement | Skip]:
    """Is every dimension alive, are the dimensions decorrelated, and are the views equal?

    ## Why it matters
    These are the three things that VICReg asks of an embedding, and together they rule out every way to collapse: a
    constant has no variance, a few directions that fill all dimensions have covariance, and what ignores the sample has
    no invariance. Whatever loss was used, they say which of the three an encoder lacks.

    ## How to read it
    `vicreg_variance` is 0 where every dimension has a standard deviation of 1 or more, and 0.99, not 1, for a constant,
    because of the ε under the root. `covariance_share` is free of scale: near its null the dimensions are independent,
    towards 1 a few directions fill all of them. `vicreg_covariance` and `vicreg_invariance` are the terms as the loss
    has them; their nulls hold at unit variance.

    ## Limits
    All but `covariance_share` assume the scale of the projector, one: a normalised or a backbone embedding reads
    high in `vicreg_variance` without any harm, and only values that mean a constant are judged. Features that are
    really that small, below 1e-4, are reported although they may vary. A trained backbone has a `covariance_share` of
    0.7 to 0.99 by its decaying spectrum, so it carries no limit. With few samples covariances are noise: compare with
    the null. With `features` alone the covariance is that of one view, half of what the loss adds up.
    """
    roles = ("view_a", "view_b") if point.has("moments(view_a)") and point.has("moments(view_b)") else ("features",)
    if not point.has(f"moments({roles[0]})"):
        yield skip(point.site.name, "neither two views nor features")
        return
    if point.finite_rows < MIN_ROWS:
        yield skip(point.site.name, f"finite rows {point.finite_rows} < {MIN_ROWS}")
        return
    count = point.finite_rows
    covariances = [point.read(f"moments({role})").centred_scatter / (count - 1) for role in roles]
    if any(covariance.numel() == 0 for covariance in covariances):
        yield skip(point.site.name, "no dimensions")
        return
    yield from _terms(point, covariances, roles)
    yield from _invariance(point)


def _terms(point: "Activations", covariances: "list[Tensor]", roles: tuple[str, ...]) -> Iterator[Measurement | Skip]:
    name, count = point.site.name, point.finite_rows
    widths = [covariance.shape[0] for covariance in covariances]
    evidence = kernels.feature_spectrum.facts(point, roles[0]) | {"roles": list(roles)}
    variances = [covariance.diagonal().clamp_min(0.0) for covariance in covariances]
    lacking = [float((1.0 - (variance + EPSILON).sqrt()).clamp_min(0.0).mean()) for variance in variances]
    yield VICREG_VARIANCE.at(
        name,
        sum(lacking) / len(lacking),
        0.0,
        largest_std=max(float(variance.max()) for variance in variances) ** 0.5,
        smallest_std=min(float(variance.min()) for variance in variances) ** 0.5,
        **evidence,
    )
    energies = [float(covariance.square().sum()) for covariance in covariances]
    apart = [
        max(energy - float(variance.square().sum()), 0.0) for energy, variance in zip(energies, variances, strict=True)
    ]
    yield VICREG_COVARIANCE.at(
        name,
        sum(part / width for part, width in zip(apart, widths, strict=True)),
        sum((width - 1) / (count - 1) for width in widths),
        **evidence,
    )
    if min(energies) == 0.0:
        yield skip(name, "covariance_share: a view is constant")
        return
    shares = [part / energy for part, energy in zip(apart, energies, strict=True)]
    nulls = [(width - 1) / (count + width) for width in widths]
    yield COVARIANCE_SHARE.at(name, sum(shares) / len(shares), sum(nulls) / len(nulls), **evidence)


def _invariance(point: "Activations") -> Iterator[Measurement | Skip]:
    name, need = point.site.name, "cross_moments(view_a,view_b)"
    if not point.has(need):
        yield skip(name, "vicreg_invariance: one view")
        return
    left, right = point.shapes["view_a"][-1], point.shapes["view_b"][-1]
    if left != right:
        yield skip(name, f"vicreg_invariance: views of widths {left} and {right}")
        return
    pairs = point.read(need)
    value = pairs.squared_distance_sum / (pairs.count * left)
    yield VICREG_INVARIANCE.at(name, value, 2.0, rows=pairs.count, width=left)
