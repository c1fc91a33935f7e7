"""Depth collapse: whether with depth all inputs become parallel, or all orthogonal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, layers_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations, Layers

#: Fewer rows say nothing of a predictor.
MIN_ROWS = 20
#: Rows whose nearest row is looked for.
NEAREST_ROWS = 2048
#: 1 − c below it is the rounding of sums of cosines.
SMALLEST_GAP = 1e-12

RECURSION = "wide random layers of the dump's `activation` from the first layer on"

COSINE_PROFILE = Metric("cosine_profile", "1", "The mean cosine of two different rows of one layer, uncentred.")
COSINE_END = Metric("cosine_end", "1", "The mean cosine of two different rows at the deepest layer.", null=RECURSION)
COSINE_SLOPE = Metric(
    "cosine_slope",
    "per layer",
    "The slope of ln((1 − c)/c) over the last third of the layers: below 0 rows become parallel, above 0 orthogonal.",
    null=RECURSION,
)
MAJORITY_SHARE = Metric(
    "majority_share",
    "1",
    "The share of predictions that name the most frequent label.",
    warn=Limit("above", 1.0, "definition: every row gets the same answer, a constant predictor", inclusive=True),
    null="the share of that label",
    message="All {predicted} predictions are class {label}, which is the label of {null:.3g} of the rows.",
)
ONE_NN_AGREEMENT = Metric(
    "one_nn_agreement",
    "1",
    "The share of predictions that equal the label of the nearest other row, by cosine.",
    null="predictions and labels drawn independently",
)


def healthy() -> Example:
    """Six residual layers of orthogonal weights: the mean cosine stays where it is."""
    import torch

    generator = torch.Generator().manual_seed(0)
    features = torch.randn(120, 32, generator=generator) + 0.5
    head = torch.randn(32, 4, generator=generator)
    labels = (features @ head).argmax(1)
    arrays: dict[str, object] = {}
    for layer in range(6):
        arrays[f"layers.{layer}/features"] = features
        weight = torch.linalg.qr(torch.randn(32, 32, generator=generator)).Q
        features = features + 0.1 * torch.tanh(features @ weight)
    return Example(arrays | {"layers.5/logits": features @ head, "layers.5/labels": labels}, metadata={})


def collapsed() -> Example:
    """A hundred ReLU layers without a residual connection, and a head that answers one class."""
    import torch

    generator = torch.Generator().manual_seed(0)
    features, width = torch.randn(120, 64, generator=generator), 64
    arrays: dict[str, object] = {}
    for layer in range(100):
        if layer % 11 == 0:
            arrays[f"layers.{layer}/features"] = features
        weight = torch.randn(width, width, generator=generator) * (2.0 / width) ** 0.5
        features = torch.relu(features @ weight)
        features = features / features.square().mean().sqrt()
    logits = features @ torch.randn(width, 4, generator=generator)
    labels = torch.where(torch.arange(120) % 2 == 0, logits.mean(0).argmax(), torch.arange(120) % 4)
    outputs = {"layers.99/logits": logits, "layers.99/labels": labels}
    return Example(arrays | outputs, metadata={"activation": "relu"})


@layers_analyzer(
    name="depth-collapse",
    family="neural-collapse",
    title="Depth collapse",
    metrics=(COSINE_PROFILE, COSINE_END, COSINE_SLOPE, MAJORITY_SHARE, ONE_NN_AGREEMENT),
    accepts=on.points("features", says="at least 3 hook points in depth order, with features"),
    remedy="Add residual connections or normalisation, initialise at the edge of chaos, or take an activation whose "
    "correlation map has its fixed point away from 0 and 1.",
    references=(
        Reference(
            "Radhakrishnan, Belkin & Uhler. Wide and Deep Neural Networks Achieve Optimality for Classification. 2022",
            "https://arxiv.org/abs/2204.14126",
        ),
        Reference(
            "Poole et al. Exponential expressivity in deep neural networks through transient chaos. 2016",
            "https://arxiv.org/abs/1606.05340",
        ),
        Reference(
            "Yang & Hu. Feature Learning in Infinite-Width Neural Networks. 2020", "https://arxiv.org/abs/2011.14522"
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    confidence="experimental",
    needs=("moments", "sample"),
    uses=("logits", "labels"),
    unmoved_by=("scaled", "features_rotated"),
    unmoved_metrics=("cosine_profile", "cosine_end", "cosine_slope"),
)
def depth_collapse(layers: "Layers") -> Iterator[Measurement | Skip]:
    """With depth, do all inputs become parallel (majority vote) or mutually orthogonal (nearest neighbour)?

    ## Why it matters
    A deep network without skips forgets its input in one of two ways. If every pair of inputs becomes parallel, the
    kernel is constant and the best that a head can do is to answer the most frequent class. If every pair becomes
    orthogonal, the network only recognises what it has seen and answers like the nearest neighbour.

    ## How to read it
    `cosine_profile` follows the mean cosine through the layers; neither end is healthy. `cosine_end` stands beside what
    as many wide random layers of the named activation would give (metadata `activation`: relu, tanh, sigmoid, gelu,
    silu). `cosine_slope` says how fast it still moves; its null is that of the recursion. With logits and labels at
    the deepest layer that has them, `majority_share` of 1 is a constant predictor, and `one_nn_agreement` near 1 with
    cosines near 0 is a nearest-neighbour one.

    ## Limits
    A common mean vector raises the cosine without any loss of information; `isotropy` after centring tells. Layer
    normalisation and residual connections change the fixed point, so the recursion is a reference for plain networks
    only. Only the constant predictor is judged. The nearest row is looked for in the features beside the logits, among
    the sample rows. Hook points whose names carry no layer number have no known depth and are left out, except the
    output, which is last.
    """
    points = [point for point in kernels.depth_profile.ordered(layers.points) if point.has("moments")]
    if len(points) < 3:
        yield skip(layers.site.name, f"fewer than 3 ordered sites: {len(points)}")
        return
    profile = []
    for point in points:
        moments = point.read("moments")
        cosine = kernels.isotropy.mean_cosine(moments.unit_sum, moments.unit_count)
        if cosine is None:
            yield skip(point.site.name, "cosine_profile: fewer than 2 rows that are not zero")
            continue
        profile.append((point, cosine))
        yield COSINE_PROFILE.at(
            point.site.name, cosine, nonzero_rows=moments.unit_count, **kernels.feature_spectrum.facts(point)
        )
    if len(profile) >= 3:
        yield from _along_the_depth(layers.site.name, profile)
    else:
        yield skip(layers.site.name, "cosine_end, cosine_slope: fewer than 3 layers with rows that are not zero")
    predicting = [point for point in points if {"logits", "labels"} <= point.shapes.keys()]
    if predicting:
        yield from _predictions(predicting[-1])
    else:
        yield skip(layers.site.name, "majority_share, one_nn_agreement: no layer has logits and labels")


def _along_the_depth(site: str, profile: "list[tuple[Activations, float]]") -> Iterator[Measurement | Skip]:
    points = [point for point, _ in profile]
    cosines = [cosine for _, cosine in profile]
    names = [point.site.name for point in points]
    layers = kernels.depth_profile.layer_indices(points)
    activation = points[0].metadata.get("activation", "").strip().lower()
    facts: dict[str, Any] = {"activation": activation} if activation else {}
    expected = None
    if activation in kernels.correlation_map.ACTIVATIONS:
        expected = kernels.correlation_map.correlations(activation, cosines[0], layers)
    end = COSINE_END.at(site, cosines[-1], expected[-1] if expected else None, last=names[-1], **facts)
    yield kernels.depth_profile.with_series(end, layers, cosines, names)
    # the standard error of the mean cosine of isotropic rows
    errors = [_cosine_error(point) for point in points]
    third = slice(-max(2, -(-len(points) // 3)), None)
    slope = _slope(layers[third], cosines[third], errors[third])
    null = _slope(layers[third], expected[third], errors[third]) if expected else None
    yield kernels.depth_profile.with_series(COSINE_SLOPE.at(site, slope, null, **facts), layers, cosines, names)


def _cosine_error(point: "Activations") -> float:
    moments = point.read("moments")
    return float((2.0 / (moments.unit_count * (moments.unit_count - 1) * moments.shift.numel())) ** 0.5)


def _slope(layers: list[int], cosines: list[float], errors: list[float]) -> float:
    """Least squares of ln((1 − c)/max(c, se)) on the layer."""
    import math
    import statistics

    logs = [
        math.log(max(1.0 - cosine, SMALLEST_GAP) / max(cosine, error))
        for cosine, error in zip(cosines, errors, strict=True)
    ]
    return statistics.linear_regression(layers, logs).slope


def _predictions(point: "Activations") -> Iterator[Measurement | Skip]:
    import torch

    name, sample = point.site.name, point.read("sample")
    metrics = "majority_share, one_nn_agreement"
    if sample.indices.numel() == 0:
        yield skip(name, f"{metrics}: no rows")
        return
    labels = kernels.nearest_rows.uniform_rows(sample, "labels").reshape(-1).long()
    logits = kernels.nearest_rows.uniform_rows(sample, "logits")
    is_labelled = (labels != -1) & (labels != -100)
    predicted, labels = logits.reshape(labels.numel(), -1)[is_labelled].argmax(1), labels[is_labelled]
    found, counts = torch.unique(labels, return_counts=True)
    if labels.numel() < MIN_ROWS or found.numel() < 2:
        yield skip(name, f"{metrics}: {labels.numel()} labelled rows of {found.numel()} classes")
        return
    majority = found[counts.argmax()]
    facts = {"predicted": labels.numel(), "label": int(majority), "exact": sample.is_exact}
    share = float((predicted == majority).double().mean())
    yield MAJORITY_SHARE.at(name, share, float(counts.max()) / labels.numel(), **facts)
    rows = kernels.nearest_rows.uniform_rows(sample, "features")[is_labelled]
    kept = torch.linspace(0, labels.numel() - 1, min(NEAREST_ROWS, labels.numel())).round().long()
    rows, labels, predicted = rows[kept].reshape(kept.numel(), -1), labels[kept], predicted[kept]
    nearest = kernels.nearest_rows.nearest_rows(rows, count=1)[:, 0]
    agreement = float((predicted == labels[nearest]).double().mean())
    chance = sum(float((predicted == k).double().mean() * (labels == k).double().mean()) for k in found)
    yield ONE_NN_AGREEMENT.at(name, agreement, chance, **(facts | {"compared": kept.numel()}))
