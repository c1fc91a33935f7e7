"""A linear predictor and the eigenspace of the features it is fed: whether learning without negatives can hold."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Activations

#: Fewer rows say nothing of a second moment.
MIN_ROWS = 16
#: Fewer rows a dimension, and the small eigenvalues are those of the sample; said in the evidence.
ROWS_PER_DIMENSION = 10
#: Eigenvalues below this share of the largest count as small (the threshold of the authors' code).
SMALL = 1e-3
#: From this share of the participation ratio of isotropic rows on, eigenvectors are an accident of the sample.
ISOTROPIC = 0.9
RANDOM = "a predictor of random entries"

EIGEN_ALIGNMENT = Metric(
    "eigen_alignment",
    "1",
    "Mean |cos(v, Wv)| over the eigenvectors v of F = E[zzᵀ], weighted by their eigenvalues.",
    better="higher",
    null=RANDOM,
)
EIGEN_ALIGNMENT_Z = Metric(
    "eigen_alignment_z",
    "standard errors",
    "The eigen alignment less that of a random predictor, over its standard error.",
    better="higher",
    warn=Limit("below", 3.0, "definition: not told from a random predictor by three standard errors", inclusive=True),
    null=RANDOM,
    message="The predictor has nothing to do with the features: its alignment with their eigenvectors is "
    "{alignment:.2g}, that of a random one {chance:.2g}.",
)
COMMUTATOR = Metric(
    "commutator",
    "1",
    "‖FW − WF‖ over ‖F‖·‖W‖: 0 when predictor and second moment share their eigenvectors.",
    better="lower",
    null=RANDOM,
)
ASYMMETRY = Metric("asymmetry", "1", "‖W − Wᵀ‖ over ‖W‖: 0 for a symmetric predictor.", better="lower", null=RANDOM)
SMALL_EIGEN_SHARE = Metric(
    "small_eigen_share",
    "1",
    "Share of the eigenvalues of F below a thousandth of the largest; 1 if all are zero.",
    better="lower",
    error=Limit("above", 1.0, "definition: the features are zero, no eigenvalue is left", inclusive=True),
    null="isotropic Gaussian features",
    message="All features are zero: the predictor has nothing left to predict from.",
)
SPECTRUM_MATCH = Metric(
    "spectrum_match",
    "1",
    "Correlation of the predictor's strength along an eigenvector, vᵀWv, with the root of its eigenvalue.",
    better="higher",
    null=RANDOM,
)


def _features() -> "tuple[Tensor, Tensor]":
    import torch

    generator = torch.Generator().manual_seed(0)
    scales = torch.arange(1, 17).float().rsqrt()
    return torch.randn(256, 16, generator=generator) * scales, torch.randn(16, 16, generator=generator)


def healthy() -> Example:
    """Features of a decaying spectrum and a predictor as DirectPred sets it, the root of their second moment."""
    import torch

    features, _ = _features()
    values, vectors = torch.linalg.eigh(features.T @ features / 256)
    root = vectors @ torch.diag(values.clamp_min(0.0).sqrt()) @ vectors.T
    return Example({"projector/features": features, "projector/head_weight": root}, metadata={})


def collapsed() -> Example:
    """A random predictor, and features that have all become zero."""
    import torch

    features, random = _features()
    return Example(
        {
            "projector/features": features,
            "projector/head_weight": random,
            "projector2/features": torch.zeros(256, 16),
            "projector2/head_weight": random,
        },
        metadata={},
    )


@activation_analyzer(
    name="predictor-alignment",
    family="views",
    title="Predictor and feature eigenspace",
    metrics=(EIGEN_ALIGNMENT, EIGEN_ALIGNMENT_Z, COMMUTATOR, ASYMMETRY, SMALL_EIGEN_SHARE, SPECTRUM_MATCH),
    accepts=on.points("features", "head_weight", says="hook points with features and a square linear predictor"),
    remedy="Set the predictor from the features as DirectPred does, strengths √s + ε·max s along the eigenvectors; "
    "keep an exponential moving average of the target and weight decay on the predictor.",
    references=(
        Reference(
            "Tian, Chen & Ganguli. Understanding Self-Supervised Learning Dynamics without Contrastive Pairs. 2021",
            "https://arxiv.org/abs/2102.06810",
        ),
        Reference(
            "Grill et al. Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning. 2020",
            "https://arxiv.org/abs/2006.07733",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled",),
    needs=("moments(features)",),
    uses=("head_weight",),
)
def predictor_alignment(point: "Activations") -> Iterator[Measurement | Skip]:
    """Does the linear predictor follow the features' own directions, as learning without negatives needs?

    ## Why it matters
    BYOL and SimSiam have no negatives; what keeps them from the constant solution is the predictor. In the linear
    theory its eigenvectors align with those of the features' second moment, and the strength of each direction is then
    kept or lost by itself. A predictor that is not aligned, or too weak, lets directions decay one after another.

    ## How to read it
    `eigen_alignment` rises to 1 in training; a random predictor has √(2/πD). `commutator` and `asymmetry` fall to 0
    with it. `spectrum_match` is near 1 when the predictor is stronger along stronger directions, as in DirectPred.
    `small_eigen_share` is the part of the width that is gone: watch it rise from one checkpoint to the next.

    ## Limits
    `features` must be what the predictor is fed, the projector's output, and `head_weight` its matrix, out × in. A
    classifier with as many classes as features has the same shape and is judged as if it were a predictor. A predictor
    with a hidden layer has no such matrix. Isotropic features commute with everything and their eigenvectors are
    arbitrary, so nothing is said of them; the same holds for groups of nearly equal eigenvalues within a spectrum.
    F is not centred: a common mean is its first direction. Below ten rows a dimension the evidence says so.
    """
    name = point.site.name
    width = point.shapes["features"][-1]
    weight = point.arrays.get("head_weight")
    if weight is None or tuple(weight.shape) != (width, width) or width < 2:
        yield skip(name, "head_weight is not D×D" if width > 1 else f"width {width} < 2")
        return
    if point.finite_rows < MIN_ROWS:
        yield skip(name, f"finite rows {point.finite_rows} < {MIN_ROWS}")
        return
    predictor = weight.double().cpu()
    if not bool(predictor.isfinite().all()):
        yield skip(name, "head_weight is not finite")
        return
    moments = point.read("moments(features)")
    count = moments.count
    moment = moments.uncentred_gram / count
    evidence = kernels.feature_spectrum.facts(point) | {"few_rows": count < ROWS_PER_DIMENSION * width}
    values, vectors = kernels.predictor.eigenspace(moment)
    null = kernels.predictor.small_eigenvalue_null(count, width, SMALL)
    if float(values[0]) == 0.0:
        yield SMALL_EIGEN_SHARE.at(name, 1.0, null, largest=0.0, **evidence)
        yield skip(name, "all metrics but small_eigen_share: the features are zero")
        return
    small = int((values < SMALL * values[0]).sum())
    yield SMALL_EIGEN_SHARE.at(name, small / width, null, largest=float(values[0]), small=small, **evidence)
    scale = float(predictor.norm())
    if scale == 0.0:
        yield skip(name, "all metrics but small_eigen_share: the predictor is zero")
        return
    yield from _alignment(name, predictor / scale, (values / values[0], vectors), count=count, evidence=evidence)


def _alignment(
    name: str,
    predictor: "Tensor",
    space: "tuple[Tensor, Tensor]",
    *,
    count: int,
    evidence: dict[str, object],
) -> Iterator[Measurement | Skip]:
    """All that is free of the scale of predictor and features."""
    values, vectors = space
    width = values.numel()
    along, cosines = kernels.predictor.eigen_cosines(predictor, vectors)
    alignment = float((values * cosines).sum() / values.sum())
    directions = kernels.spectrum.participation_ratio(values)
    chance = math.sqrt(2.0 / (math.pi * width))
    error = math.sqrt((1.0 - 2.0 / math.pi) / (width * directions))
    yield EIGEN_ALIGNMENT.at(name, min(alignment, 1.0), chance, directions=directions, **evidence)
    if directions >= ISOTROPIC * kernels.feature_spectrum.participation_ratio_null(count, width):
        yield skip(name, "eigen_alignment_z: isotropic features, their eigenvectors are arbitrary")
    else:
        z = (alignment - chance) / error
        yield EIGEN_ALIGNMENT_Z.at(name, z, 0.0, alignment=alignment, chance=chance, **evidence)
    moment = (vectors * values) @ vectors.T
    commutator = float((moment @ predictor - predictor @ moment).norm()) / float(values.norm())
    yield COMMUTATOR.at(name, commutator, math.sqrt(max(2.0 * (1.0 - directions / width) / width, 0.0)), **evidence)
    asymmetry = float((predictor - predictor.T).norm())
    yield ASYMMETRY.at(name, asymmetry, math.sqrt(2.0 * (1.0 - 1.0 / width)), **evidence)
    match = kernels.predictor.correlation(along, values.sqrt())
    if match is None:
        yield skip(name, "spectrum_match: all eigenvalues, or all strengths of the predictor, are equal")
    else:
        yield SPECTRUM_MATCH.at(name, match, 0.0, **evidence)
