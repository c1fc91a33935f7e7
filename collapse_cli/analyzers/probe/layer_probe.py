"""Layer probe: how much of the class a simple readout finds at each layer."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, layers_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.probes import Readout
    from collapse_cli.kernels.views import Activations, Layers

#: Where so many rows are of one class, accuracy cannot tell a readout that finds the rare ones from a guess.
LARGEST_MAJORITY = 0.9
NEEDS = ("folds(class_moments,by=groups)", "class_moments", "sample")

MAJORITY = "always answering the largest class"

RIDGE_ACCURACY = Metric(
    "ridge_accuracy",
    "1",
    "The share of held-out rows whose class a one-hot ridge regression finds, folds swapped and averaged.",
    better="higher",
    null=MAJORITY,
)
RIDGE_ACCURACY_Z = Metric(
    "ridge_accuracy_z",
    "standard errors",
    "How far ridge_accuracy of the last layer lies above chance, in binomial standard errors.",
    better="higher",
    warn=Limit("below", 3.0, "definition: not distinguishable from chance, 3 standard errors", inclusive=True),
    message="A linear readout of the last layer finds the class in {accuracy:.3g} of {tested} held-out rows; always "
    "answering the largest of {classes} classes gives {majority:.3g}.",
)
CENTROID_ACCURACY = Metric(
    "centroid_accuracy",
    "1",
    "The share of rows that lie nearest to the mean of their class, each left out of its own mean.",
    better="higher",
    null=MAJORITY,
)
KNN_ACCURACY = Metric(
    "knn_accuracy",
    "1",
    "The share of rows whose class is the majority among the ten others of largest cosine.",
    better="higher",
    null="neighbours drawn at random: Σp² of the class shares",
)
LAST_LAYER_LOSS = Metric(
    "last_layer_loss",
    "1",
    "The ridge_accuracy of the best layer minus that of the last.",
    better="lower",
    null="the expected maximum of as many equally good layers, each measured with its standard error",
)
FACTOR_SHARE = Metric(
    "factor_share",
    "1",
    "The share of the variance of the features that lies between classes, η² = tr(between)/tr(total).",
    null="random labels: (K−1)/(N−1)",
)


def healthy() -> Example:
    """Three layers in which four classes come apart."""
    return Example(_layers((0.6, 1.5, 3.0)), metadata={})


def collapsed() -> Example:
    """Three layers, the last of which gives every row the same features."""
    return Example(_layers((1.5, 0.6, None)), metadata={})


def _layers(distances: tuple[float | None, ...]) -> dict[str, object]:
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(320) % 4
    means = torch.linalg.qr(torch.randn(16, 4, generator=generator)).Q.T
    arrays: dict[str, object] = {"labels": labels}
    for layer, distance in enumerate(distances):
        noise = torch.randn(320, 16, generator=generator)
        features = torch.ones(320, 16) if distance is None else noise + 2 * distance * means[labels]
        arrays[f"encoder.layer.{layer}/features"] = features
        arrays[f"encoder.layer.{layer}/labels"] = labels
    del arrays["labels"]
    return arrays


@layers_analyzer(
    name="layer-probe",
    family="probe",
    title="Layer probe",
    metrics=(
        RIDGE_ACCURACY,
        RIDGE_ACCURACY_Z,
        CENTROID_ACCURACY,
        KNN_ACCURACY,
        LAST_LAYER_LOSS,
        FACTOR_SHARE,
    ),
    accepts=on.points("features", "labels", says="hook points with features and labels"),
    remedy="Take the features of the best layer (of a diffusion model: the best block and time step). Where only the "
    "last layers lose the class, shorten the tunnel or give the head more capacity, so that the loss of the last layer "
    "does not reach so far back.",
    references=(
        Reference(
            "Mukhopadhyay et al. Diffusion Models Beat GANs on Image Classification. 2023",
            "https://arxiv.org/abs/2307.08702",
        ),
        Reference(
            "Lampinen, Chan & Hermann. Learned feature representations are biased by complexity, learning order, "
            "position, and more. 2024",
            "https://arxiv.org/abs/2405.05847",
        ),
        Reference("Sarnthein et al. Random Teachers are Good Teachers. 2023", "https://arxiv.org/abs/2302.12091"),
        Reference(
            "Ozair et al. Wasserstein Dependency Measure for Representation Learning. 2019",
            "https://arxiv.org/abs/1903.11780",
        ),
        Reference(
            "Golub, Heath & Wahba. Generalized Cross-Validation as a Method for Choosing a Good Ridge Parameter. "
            "Technometrics 1979",
            "https://doi.org/10.1080/00401706.1979.10489751",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=(*NEEDS, "class_moments(features,groups)"),
    unmoved_by=("features_rotated", "scaled"),
)
def layer_probe(layers: "Layers") -> Iterator[Measurement | Skip]:
    """How much class information is linearly, locally or centrally readable at each layer?

    ## Why it matters
    What a model has learnt is what can be read from its features. A class that no linear readout finds is lost to
    whatever is built on that layer; a class that the middle finds better than the end says that the last layers have
    adapted to another task, and that transfer should begin earlier.

    ## How to read it
    `ridge_accuracy` is the linear readout, fitted on one half of the rows and tested on the other, both ways.
    `centroid_accuracy` asks whether classes are round and apart, `knn_accuracy` whether rows of a class are neighbours:
    high linear and low neighbour accuracy means that the class is there, beneath stronger variation. Compare each with
    its null, and the layers with one another: the series is in the evidence of `last_layer_loss`, whose null is what
    equally good layers show by chance. `factor_share` is the share of variance that classes explain (and groups, where
    the dump has them); a factor with little variance can still be read perfectly.

    ## Limits
    A probe finds what can be read, not what the model uses. An untrained network already probes above chance, so the
    same probe on untrained weights is a better null than the largest class. Rows are split at random, and by
    `groups` where the dump has them, so that samples of one patient, speaker or scanner are never on both sides; with
    few groups the halves are uneven, and a class that has too few rows in one is not tested. Without `groups` what is
    read may be the patient; neighbours and class means leave out the row alone, not its group. Where more than nine in
    ten rows are of one class, chance is not judged, since accuracy cannot show that rare classes are found. Classes
    with fewer than 20 rows in a half are fitted and not tested. Neighbours are looked for among the sample rows only.
    """
    profile = []
    for point in layers.points:
        if not all(point.has(need) for need in NEEDS):
            yield skip(point.site.name, "its class moments were not accumulated")
            continue
        ridge = point.get(kernels.probes.ridge_readout_accuracy)
        if ridge is None:
            apart = ", the rows of a group kept together" if "groups" in point.shapes else ""
            few = f"fewer than {kernels.probes.CLASS_ROWS} test rows per class in two classes{apart}"
            yield skip(point.site.name, few)
            continue
        profile.append((point, ridge))
        yield from _of_one(point, ridge)
    if not profile:
        return
    if profile[-1][0] is layers.points[-1]:
        yield from _chance_at_the_end(*profile[-1])
    yield from _along_the_depth(layers.site.name, profile)


def _of_one(point: "Activations", ridge: "Readout") -> Iterator[Measurement | Skip]:
    name, moments, classes = point.site.name, point.read("class_moments"), point.get(kernels.probes.probed_classes)
    facts = {
        "classes": classes.numel(),
        "small_classes": moments.labels.numel() - classes.numel(),
        "width": moments.shift.numel(),
        "finite_rows": point.finite_rows,
        "dtype": point.dtypes["features"],
        "exact": point.read("sample").is_exact,
    }
    yield RIDGE_ACCURACY.at(name, ridge.accuracy, ridge.majority, tested=ridge.rows, **facts)
    centroid = point.get(kernels.probes.centroid_readout)
    if centroid is not None:
        yield CENTROID_ACCURACY.at(name, centroid.accuracy, centroid.majority, tested=centroid.rows, **facts)
    neighbour = point.get(kernels.probes.neighbour_readout)
    if neighbour is not None:
        yield KNN_ACCURACY.at(
            name,
            neighbour.accuracy,
            neighbour.squared_shares,
            tested=neighbour.rows,
            neighbours=kernels.probes.NEIGHBOURS,
            **facts,
        )
    share = kernels.probes.variance_share(moments)
    if share is None:
        yield skip(name, "factor_share: all rows are equal")
        return
    groups = {}
    if point.has("class_moments(features,groups)"):
        of_groups = point.read("class_moments(features,groups)")
        groups = {"groups": of_groups.labels.numel(), "group_share": kernels.probes.variance_share(of_groups)}
    null = (moments.labels.numel() - 1) / (moments.count - 1)
    yield FACTOR_SHARE.at(name, share, null, rows=moments.count, **facts, **groups)


def _chance_at_the_end(point: "Activations", ridge: "Readout") -> Iterator[Measurement | Skip]:
    if ridge.majority > LARGEST_MAJORITY:
        reason = (
            f"ridge_accuracy_z: {ridge.majority:.3g} of the rows are of one class, accuracy says nothing of the rest"
        )
        yield skip(point.site.name, reason)
        return
    error = (ridge.majority * (1.0 - ridge.majority) / ridge.rows) ** 0.5
    yield RIDGE_ACCURACY_Z.at(
        point.site.name,
        (ridge.accuracy - ridge.majority) / error,
        accuracy=ridge.accuracy,
        majority=ridge.majority,
        tested=ridge.rows,
        classes=point.get(kernels.probes.probed_classes).numel(),
    )


def _along_the_depth(site: str, profile: "list[tuple[Activations, Readout]]") -> Iterator[Measurement | Skip]:
    from statistics import NormalDist

    if len(profile) < 2:
        yield skip(site, "last_layer_loss: fewer than 2 layers with a readout")
        return
    points = [point for point, _ in profile]
    accuracies = [ridge.accuracy for _, ridge in profile]
    last, count = profile[-1][1], len(profile)
    error = (last.accuracy * (1.0 - last.accuracy) / last.rows) ** 0.5
    # expected maximum of that many normal scores (Blom 1958)
    null = error * NormalDist().inv_cdf((count - 0.375) / (count + 0.25))
    names = [point.site.name for point in points]
    best = names[accuracies.index(max(accuracies))]
    loss = LAST_LAYER_LOSS.at(site, max(accuracies) - accuracies[-1], null, best=best, last=names[-1])
    yield kernels.depth_profile.with_series(loss, kernels.depth_profile.layer_indices(points), accuracies, names)
