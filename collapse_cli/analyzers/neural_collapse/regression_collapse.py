"""Features of a regression against its targets."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

MIN_ROWS = 200

NRC1 = Metric(
    "nrc1",
    "1",
    "Mean share of a centred row outside the first T principal components, T targets; 0 under collapse.",
    null="isotropic rows: 1 − T/D",
)
NRC2 = Metric(
    "nrc2",
    "1",
    "Mean share of a centred row outside the row space of the head; 0 under collapse.",
    null="isotropic rows: 1 − T/D",
)
NRC3 = Metric(
    "nrc3",
    "1",
    "Squared distance of the normalised WWᵀ from the best normalised Σ^½ − √γI, Σ the covariance of the targets.",
)
ORDINALITY = Metric(
    "ordinality",
    "1",
    "Rank correlation between distances of the targets and distances of the features.",
    better="higher",
    null="features unrelated to targets: 0, with a standard error of 1/√N",
)
ORDINALITY_Z = Metric(
    "ordinality_z",
    "standard errors",
    "The same in standard errors of unrelated features, √N.",
    better="higher",
    null="features unrelated to targets: 0",
    warn=Limit(
        "below",
        1.0,
        "closed form: features unrelated to the targets stay about 0; untrained networks of the zoo read 1.3 and more",
        inclusive=True,
    ),
    message="Distances between features do not follow those between targets: rank correlation {correlation:.3g}, "
    "{value:.3g} standard errors from chance.",
)
NN_TARGET_GAP = Metric(
    "nn_target_gap",
    "1",
    "Mean target distance of a row to its nearest neighbour, over that of any two rows.",
    better="lower",
    null="features unrelated to targets: 1",
)
COMPONENTS = Metric(
    "components",
    "components",
    "Connected components of the graph that joins every row to its 5 nearest: pieces into which the features fall.",
    null="one cloud: 1",
)


def healthy() -> Example:
    """Features that are a linear image of three targets, with a little noise."""
    return _example(strength=1.0)


def collapsed() -> Example:
    """Features that do not depend on the targets."""
    return _example(strength=0.0)


def _example(strength: float) -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(240, 3, generator=generator)
    image = torch.linalg.qr(torch.randn(16, 3, generator=generator)).Q
    noise = torch.randn(240, 16, generator=generator)
    rows = strength * targets @ image.T + (0.1 if strength else 1.0) * noise
    return Example(
        {
            "encoder.layer.0/features": rows,
            "encoder.layer.0/targets": targets,
            "encoder.layer.0/head_weight": image.T.contiguous(),
        },
        metadata={},
    )


@activation_analyzer(
    name="regression-collapse",
    family="neural-collapse",
    title="Regression features against their targets",
    metrics=(NRC1, NRC2, NRC3, ORDINALITY, ORDINALITY_Z, NN_TARGET_GAP, COMPONENTS),
    accepts=on.points("features", "targets", says="hook points with features and targets of at least 200 rows"),
    needs=("moments", "moments(targets)", "sample"),
    uses=("head_weight",),
    remedy="For features that fall apart or are out of order, train with mixed positives and negatives or with an "
    "ordinal contrastive loss. For transfer, use less weight decay.",
    references=(
        Reference(
            "Andriopoulos et al. The Prevalence of Neural Collapse in Neural Multivariate Regression. 2024",
            "https://arxiv.org/abs/2409.04180",
        ),
        Reference(
            "Wu et al. Mixup Your Own Pairs. 2023",
            "https://arxiv.org/abs/2309.16633",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("features_rotated",),
    unmoved_metrics=("nrc1",),
)
def regression_collapse(point: "Activations") -> Iterator[Measurement | Skip]:
    """Do regression features collapse onto the target subspace, and do they keep its order?

    ## Why it matters
    With weight decay the features of a regression network shrink onto as many directions as there are targets, and the
    head onto the same ones. That is the optimum of the training loss and a loss for everything else. Order is another
    matter: features whose neighbours have unrelated targets have learnt nothing that a small head could read.

    ## How to read it
    `nrc1`, `nrc2` and `nrc3` are 0 under complete collapse and near 1 − T/D, 1 − T/D and more without; how much of it
    is wanted depends on what the model is for. `ordinality` is 1 when distances in the features follow those of the
    targets and 0 by chance, and `ordinality_z` below 3 cannot be told from chance. `nn_target_gap` near 0 says that
    neighbours have near targets. More than one of `components` means that the features fall into pieces.

    ## Limits
    Principal components chase noise, so `nrc1` of isotropic rows lies a little below its null. Targets are taken as
    they are: bring them to a common scale first. `nrc3` uses the symmetric root of the covariance of the targets; with
    one target it is always 0. Order and neighbours are those of at most 1,414 seeded rows. Euclidean distances say
    little where one direction without meaning dominates the features.
    """
    site = point.site.name
    moments, of_targets = point.read("moments"), point.read("moments(targets)")
    if moments.count < MIN_ROWS:
        yield skip(site, f"{moments.count} rows < {MIN_ROWS}")
        return
    width, targets = moments.mean.numel(), of_targets.mean.numel()
    facts = {"rows": moments.count, "width": width, "targets": targets, "dtype": point.dtypes["features"]}
    facts |= {"exact": point.read("sample").is_exact}
    order = point.get(kernels.regression_geometry.target_order)
    if order is None:
        yield skip(site, "all rows are equal, or all targets")
        return
    compared = facts | {"compared": order.compared}
    yield ORDINALITY.at(site, order.correlation, 0.0, **compared)
    score = order.correlation * math.sqrt(order.compared)
    yield ORDINALITY_Z.at(site, score, 0.0, correlation=order.correlation, **compared)
    yield NN_TARGET_GAP.at(site, order.gap, 1.0, **compared)
    yield COMPONENTS.at(site, order.components, 1.0, **compared)
    if targets >= width:
        yield skip(site, f"nrc1, nrc2, nrc3: {targets} targets ≥ {width} features")
        return
    share = kernels.regression_geometry.outside_principal(point, targets)
    if share is not None:
        yield NRC1.at(site, share, 1.0 - targets / width, **facts)
    yield from _of_head(point, facts)


def _of_head(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    site, covariance = point.site.name, point.read("moments(targets)").centred_scatter
    targets, width = covariance.shape[0], point.read("moments").mean.numel()
    head = point.arrays.get("head_weight")
    if head is None:
        yield skip(site, "nrc2, nrc3: no head_weight")
        return
    if tuple(head.shape) != (targets, width) or not bool(head.isfinite().all()):
        yield skip(site, f"nrc2, nrc3: head_weight is {tuple(head.shape)}, not finite {targets} × {width}")
        return
    weights = head.cpu().double()
    found = kernels.regression_geometry.gram_distance(weights, covariance / point.read("moments").count)
    if found is None:
        yield skip(site, "nrc2, nrc3: the head is zero")
        return
    space = kernels.regression_geometry.row_space(weights)
    share = kernels.regression_geometry.outside_head(point, space)
    if share is not None:
        yield NRC2.at(site, share, 1.0 - space.shape[1] / width, head_rank=space.shape[1], **facts)
    yield NRC3.at(site, found[0], root_gamma=found[1], **facts)
