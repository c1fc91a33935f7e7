"""Whether a layer learned features between its initial and its final state, or only its readout did."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Measurement, Metric, Reference, Skip, on, pair_analyzer, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.comparisons import Comparison, Model
    from collapse_cli.kernels.views import Activations

__all__ = ["feature_learning"]

#: Fewer rows leave the standard error of a debiased CKA above .03.
MIN_ROWS = 50

FEATURE_CHANGE = Metric(
    "feature_change",
    "1",
    "How far the features of the same rows moved, relative to their size at the start.",
    better="higher",
    null="rows paired at random, √2 for centred features of one size; 0 is lazy",
)
KERNEL_CHANGE = Metric(
    "kernel_change",
    "1",
    "1 − debiased CKA between start and end: how much the similarities of the rows changed.",
    better="higher",
    null="1: unrelated features; 0 is lazy",
)
SPECTRAL_UPDATE = Metric(
    "spectral_update",
    "1",
    "The largest singular value of the change of a weight over that of the weight at the start.",
    better="higher",
    null="0: nothing was learned",
)
WIDTH_EXPONENT = Metric(
    "width_exponent",
    "1",
    "The slope of the logarithm of a change on the logarithm of the width: 0 learns features at any width.",
    null="−½: the lazy scaling",
)


def healthy() -> Example:
    """Features at the end that have nothing to do with those at the start."""
    import torch

    x, y = torch.randn(2, 400, 16, generator=torch.Generator().manual_seed(0))
    return Example({"layers.0/features": x}, metadata={}, others=({"layers.0/features": y},))


def collapsed() -> Example:
    """A lazy layer: its features at the end are those at the start, but for a thousandth."""
    import torch

    x, noise = torch.randn(2, 400, 16, generator=torch.Generator().manual_seed(0))
    return Example({"layers.0/features": x}, metadata={}, others=({"layers.0/features": x + 1e-3 * noise},))


def weights() -> Example:
    """A weight to which a strong direction was added."""
    import torch

    generator = torch.Generator().manual_seed(0)
    weight = 0.2 * torch.randn(24, 24, generator=generator)
    u, v = torch.randn(2, 24, generator=generator)
    return Example({"fc1.weight": weight}, others=({"fc1.weight": weight + torch.outer(u, v) / 12},))


@pair_analyzer(
    name="feature-learning",
    family="similarity",
    title="Feature learning",
    metrics=(FEATURE_CHANGE, KERNEL_CHANGE, SPECTRAL_UPDATE, WIDTH_EXPONENT),
    accepts=on.matrices(2),
    companions=on.points("features", "after.features", says="hook points with features in two dumps of the same rows"),
    also=("activation_pair",),
    sums_up=True,
    needs=(
        "moments",
        "moments(after.features)",
        "cross_moments(features,after.features)",
        "sample(features,after.features)",
    ),
    uses=("labels", "after.labels"),
    remedy="Use the maximal-update parametrisation, a larger learning rate for this layer or a smaller output scale; "
    "check first that the layer trains at all.",
    references=(
        Reference(
            "Yang & Hu. Feature Learning in Infinite-Width Neural Networks. 2020", "https://arxiv.org/abs/2011.14522"
        ),
        Reference(
            "Yang et al. A theory of representation learning gives a deep generalisation of kernel methods. 2021",
            "https://arxiv.org/abs/2108.13097",
        ),
        Reference(
            "Chizat, Oyallon & Bach. On Lazy Training in Differentiable Programming. 2018",
            "https://arxiv.org/abs/1812.07956",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed, "weights": weights},
    confidence="experimental",
    unmoved_by=("scaled", "features_rotated"),
)
def feature_learning(view: "Comparison | Activations | Model") -> Iterator[Measurement | Skip]:
    """Did this layer learn features, or only its readout?

    ## Why it matters
    A wide network can fit its data while every hidden layer stays where it was initialised and only the last one
    moves. Such lazy training is a kernel method with a random kernel: it transfers badly and gains nothing from depth.

    ## How to read it
    Give the checkpoint, or the dump, of the initialisation first and the trained one second. `kernel_change` near 0
    says that the layer sees the same similarities as at the start, near 1 that nothing is left of them.
    `feature_change` without `kernel_change` is a rotation. `spectral_update` is what the parametrisation controls:
    features move by a constant amount at any width when it does not shrink with the width.

    ## Limits
    Informational: nothing is judged, because a pair of neighbouring checkpoints is rightly lazy. The first member must
    be the true initialisation of the second, of the same seed; otherwise everything reads as unrelated. Batch
    normalisation hides the growth of weights, so believe the features. `width_exponent` asks for such pairs at three
    widths or more, which one pair does not have, and weights of several widths are not paired. The change of a weight
    below the rounding of its stored dtype is said to be so in the evidence.
    """
    if isinstance(view, kernels.comparisons.Model):
        yield skip(view.site.name, "width_exponent: one width of 3")
    elif isinstance(view, kernels.comparisons.Comparison):
        yield from _weight(view)
    else:
        yield from _features(view)


def _weight(view: "Comparison") -> Iterator[Measurement | Skip]:
    name, before = view.site.name, kernels.lanczos.norm_before(view)
    if before <= 0.0:
        yield skip(name, "spectral_update: all zero at the start")
        return
    change = kernels.lanczos.change_norm(view)
    floor = math.sqrt(2.0) * max(kernels.update_spectrum.rounding_floor(one) for one in (view.before, view.after))
    yield SPECTRAL_UPDATE.at(
        name,
        change / before,
        0.0,
        norm_before=before,
        norm_of_change=change,
        within_rounding=change <= floor,
        dtype=view.after.site.dtype,
    )


def _features(point: "Activations") -> Iterator[Measurement | Skip]:
    name = point.site.name
    if reason := kernels.paired_rows.fault(point, MIN_ROWS):
        yield skip(name, reason)
        return
    facts = kernels.feature_spectrum.facts(point)
    before, after, pairs = kernels.paired_rows.moments_of(point)
    if before.mean.numel() == after.mean.numel():
        squares = before.squared_norm_sum
        change = math.sqrt(pairs.squared_distance_sum / squares)
        shared = 2.0 * pairs.count * float(before.mean @ after.mean)
        null = math.sqrt(max(squares + after.squared_norm_sum - shared, 0.0) / squares)
        yield FEATURE_CHANGE.at(name, change, null, **facts)
    else:
        yield skip(name, f"feature_change: width {before.mean.numel()} → {after.mean.numel()}")
    alignment = point.get(kernels.paired_rows.debiased_alignment)
    if alignment is None:
        yield skip(name, "kernel_change: no variance in one of the dumps")
        return
    yield KERNEL_CHANGE.at(name, 1.0 - alignment, 1.0, **facts)
