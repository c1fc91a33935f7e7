"""Layerwise collapse: at which depth the samples of a class shrink together, and where the tunnel begins."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Measurement, Metric, Reference, Skip, layers_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations, Layers

#: A tunnel layer reads at least this share of what the last layer reads; a direction counts from this share of the
#: strongest on. Both are conventions of this project: the paper gives curves.
TUNNEL_SHARE, RANK_SHARE = 0.98, 1e-3
#: Quotients below it are rounding of single precision and are not compared.
SMALLEST_QUOTIENT = 1e-12
NEEDS = ("moments", "class_moments")
FOLDS = "folds(class_moments,by=groups)"

QUOTIENT_PROFILE = Metric(
    "quotient_profile",
    "1",
    "The variance within classes over the variance between class means, tr Σ_W/tr Σ_B, of one layer.",
    null="random labels: (1 − K/N)νK/(K − 1)",
)
DEPTH_MONOTONICITY = Metric(
    "depth_monotonicity",
    "1",
    "Spearman's correlation of the depth of a layer with how far its classes have collapsed, −ln quotient.",
    null="no relation to depth, 0 with a standard error of 1/√(L − 1)",
)
NC1_REVERSALS = Metric(
    "nc1_reversals",
    "steps",
    "The number of steps from one layer to the next at which the quotient rises by more than 3 standard errors.",
    better="lower",
)
NUMERICAL_RANK = Metric(
    "numerical_rank",
    "directions",
    "The number of directions of the covariance with more than a thousandth of the strongest standard deviation.",
    null="isotropic Gaussian rows, by the law of Marchenko and Pastur",
)
TUNNEL = Metric(
    "tunnel_share",
    "1",
    "The share of layers that lie behind the first one from which the class is read as well as from the last.",
    better="lower",
)


def healthy() -> Example:
    """Four layers, each a tenth as spread within its classes as the one before."""
    return _example((1.0, 0.3, 0.1, 0.03))


def collapsed() -> Example:
    """Five layers that read the class alike from the second on, and spread again at the fourth."""
    return _example((3.0, 0.2, 0.06, 0.4, 0.02))


def _example(spreads: tuple[float, ...]) -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 4
    arrays: dict[str, object] = {}
    for layer, spread in enumerate(spreads):
        noise = torch.randn(240, 16, generator=generator)
        arrays[f"encoder.layer.{layer}/features"] = torch.eye(4, 16)[labels] + spread * noise
        arrays[f"encoder.layer.{layer}/labels"] = labels
    return Example(arrays, metadata={})


@layers_analyzer(
    name="layerwise-collapse",
    family="neural-collapse",
    title="Layerwise collapse",
    metrics=(QUOTIENT_PROFILE, DEPTH_MONOTONICITY, NC1_REVERSALS, NUMERICAL_RANK, TUNNEL),
    accepts=on.points("features", "labels", says="at least 3 hook points in depth order, with features and labels"),
    remedy="For transfer take the last layer before the tunnel. A shallower network does as well on the task it was "
    "trained for; in continual learning freeze the layers before the tunnel.",
    references=(
        Reference(
            "Tirer, Huang & Niles-Weed. Perturbation Analysis of Neural Collapse. 2022",
            "https://arxiv.org/abs/2210.16658",
        ),
        Reference(
            "Masarczyk et al. The Tunnel Effect: Building Data Representations in Deep Neural Networks. 2023",
            "https://arxiv.org/abs/2305.19753",
        ),
        Reference(
            "Mukhopadhyay et al. Diffusion Models Beat GANs on Image Classification. 2023",
            "https://arxiv.org/abs/2307.08702",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=(*NEEDS, FOLDS, "sample"),
    unmoved_by=("features_rotated", "scaled"),
)
def layerwise_collapse(layers: "Layers") -> Iterator[Measurement | Skip]:
    """At which depth does variability collapse, and is there a tunnel of layers that only compress?

    ## Why it matters
    A classifier draws the samples of a class together layer by layer. Where the class is read as well from a middle
    layer as from the last, the layers behind it only compress: they add nothing to the task, lower the rank, and
    transfer worse. The depth at which that begins is where features should be taken and where a network can be cut.

    ## How to read it
    `quotient_profile` falls with depth in a trained classifier, often by a constant factor per layer; its null is what
    random labels give. `depth_monotonicity` is 1 if it falls at every step, and `nc1_reversals` counts the steps at
    which it clearly rises. `tunnel_share` is the part of the depth behind the first layer with 98 % of the last layer's
    accuracy; there `numerical_rank` usually drops too. The series are in the evidence.

    ## Limits
    No limit is set: collapse with depth is what supervised training does, and only the purpose of the features says
    whether it is wanted. Convolution maps must be pooled alike at every depth. Where the width changes, so does every
    null. Residual streams add an offset that no class moves, which the quotient does not see and distances do. A
    diffusion U-Net reads best in the middle, and its profile is not monotone by design. The thresholds of the tunnel
    and of the rank are conventions. Hook points whose names carry no layer number have no known depth and are left out,
    except the output, which is last.
    """
    points = kernels.depth_profile.ordered(layers.points)
    points = tuple(point for point in points if all(point.has(need) for need in NEEDS))
    if len(points) < 3:
        yield skip(layers.site.name, f"fewer than 3 ordered sites: {len(points)}")
        return
    profile = []
    for point in points:
        quotient = point.get(kernels.neural_collapse.nc1_quotient)
        if quotient is not None:
            profile.append((point, quotient))
        yield from _of_one(point, quotient)
    if len(profile) >= 3:
        yield from _along_the_depth(layers.site.name, profile)
    else:
        reason = "depth_monotonicity, nc1_reversals: fewer than 3 layers whose class means differ"
        yield skip(layers.site.name, reason)
    yield from _tunnel(layers.site.name, points)


def _of_one(point: "Activations", quotient: float | None) -> Iterator[Measurement | Skip]:
    name, classes = point.site.name, point.get(kernels.neural_collapse.classes)
    facts = {"classes": classes.count, "small_classes": classes.left_out, **kernels.feature_spectrum.facts(point)}
    if quotient is None:
        few = f"fewer than 2 classes with {kernels.neural_collapse.MIN_ROWS} rows"
        yield skip(name, f"quotient_profile: {'all class means are equal' if classes.count > 1 else few}")
    else:
        null = kernels.neural_collapse.nc1_quotient_null(classes.counts)
        yield QUOTIENT_PROFILE.at(name, quotient, null, error=quotient * _relative_error(point), **facts)
    eigenvalues = point.get(kernels.feature_spectrum.covariance_eigenvalues)
    if eigenvalues.numel() == 0 or float(eigenvalues[0]) == 0.0:
        yield skip(name, "numerical_rank: all rows are equal")
        return
    moments = point.read("moments")
    chance = kernels.feature_spectrum.marchenko_pastur_quantiles(moments.count - 1, moments.shift.numel())
    rank = int((eigenvalues > RANK_SHARE**2 * eigenvalues[0]).sum())
    yield NUMERICAL_RANK.at(name, rank, int((chance > RANK_SHARE**2 * chance[0]).sum()), **facts)


def _relative_error(point: "Activations") -> float:
    """√((2/PR_W)(1/(N−K) + 1/(K−1))): two sums of squares in PR_W directions."""
    classes, dimension = point.get(kernels.neural_collapse.classes), point.get(kernels.neural_collapse.within_dimension)
    if dimension == 0.0:
        return 0.0
    degrees = 1.0 / max(classes.rows - classes.count, 1) + 1.0 / (classes.count - 1)
    return float((2.0 / dimension * degrees) ** 0.5)


def _along_the_depth(site: str, profile: "list[tuple[Activations, float]]") -> Iterator[Measurement | Skip]:
    import math

    import torch

    points = [point for point, _ in profile]
    names = [point.site.name for point in points]
    quotients = [quotient for _, quotient in profile]
    layers = kernels.depth_profile.layer_indices(points)
    logs = [math.log(max(quotient, SMALLEST_QUOTIENT)) for quotient in quotients]
    order = kernels.rank_correlation.spearman(torch.tensor(layers).double(), -torch.tensor(logs).double())
    if order is None:
        yield skip(site, "depth_monotonicity: the quotient is the same at every layer")
    else:
        yield kernels.depth_profile.with_series(
            DEPTH_MONOTONICITY.at(site, order, 0.0, null_error=(len(layers) - 1) ** -0.5), layers, quotients, names
        )
    errors = [_relative_error(point) for point in points]
    rises = [
        names[i + 1] for i in range(len(logs) - 1) if logs[i + 1] - logs[i] > 3.0 * math.hypot(errors[i], errors[i + 1])
    ]
    reversals = NC1_REVERSALS.at(site, len(rises), steps=len(logs) - 1, rises=rises[:16])
    yield kernels.depth_profile.with_series(reversals, layers, quotients, names)


def _tunnel(site: str, points: "tuple[Activations, ...]") -> Iterator[Measurement | Skip]:
    readouts = [point.get(kernels.probes.ridge_readout_accuracy) if point.has(FOLDS) else None for point in points]
    known = [readout for readout in readouts if readout is not None]
    if len(known) < len(points):
        reason = f"fewer than {kernels.probes.CLASS_ROWS} rows per class and fold at some layer"
        yield skip(site, f"tunnel_share: {reason}")
        return
    last = known[-1]
    error = (last.majority * (1.0 - last.majority) / last.rows) ** 0.5
    if last.accuracy <= last.majority + 3.0 * error:
        yield skip(site, "tunnel_share: the last layer reads the class no better than chance")
        return
    accuracies = [readout.accuracy for readout in known]
    first = next(i for i, accuracy in enumerate(accuracies) if accuracy >= TUNNEL_SHARE * accuracies[-1])
    names = [point.site.name for point in points]
    share = TUNNEL.at(site, (len(points) - 1 - first) / len(points), begins_behind=names[first], tested=last.rows)
    yield kernels.depth_profile.with_series(share, kernels.depth_profile.layer_indices(points), accuracies, names)
