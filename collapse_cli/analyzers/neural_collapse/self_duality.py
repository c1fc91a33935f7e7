"""How the rows of the classifier stand to the class means."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

SELF_DUALITY_ERROR = Metric(
    "self_duality_error",
    "1",
    "Distance of the normalised product of head and centred class means from that of a simplex; 0 to 2.",
    null="a random head: √2",
)
PAPYAN_NC3 = Metric(
    "papyan_nc3",
    "1",
    "Squared distance of head and centred class means, each divided by its Frobenius norm; 0 to 4.",
    null="a random head: 2",
)
DUALITY_COS = Metric(
    "duality_cos",
    "1",
    "Mean cosine between the class vector of the head and the centred mean of its class; 1 when they coincide.",
    null="a random head: 0, with a standard error of 1/√(KD)",
)
DUALITY_COS_Z = Metric(
    "duality_cos_z",
    "standard errors",
    "The same in standard errors of a random head.",
    better="higher",
    null="a random head: 0",
    warn=Limit(
        "below",
        3.0,
        "closed form: a head that is unrelated to the class means stays within 3 standard errors of 0",
        intent=frozenset({"classifier"}),
        inclusive=True,
    ),
    message="The head does not point at the means of its {classes} classes: mean cosine {cosine:.3g}, {value:.3g} "
    "standard errors from chance.",
)
UNIFORM_DUALITY_VAR = Metric(
    "uniform_duality_var",
    "1",
    "Variance over the classes of the cosine between class vector and centred class mean.",
    null="a random head: 1/D",
)
MEAN_LOGIT_OFFSET = Metric(
    "mean_logit_offset",
    "1",
    "Length of the logits of the global mean, bias included, over that of all centred class means.",
)


def healthy() -> Example:
    """A simplex whose vertices are class means and class vectors."""
    return _example(order=(0, 1, 2, 3))


def collapsed() -> Example:
    """The same with the class vectors handed round."""
    return _example(order=(1, 2, 3, 0))


def _example(order: tuple[int, ...]) -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 4
    means = torch.nn.functional.pad(torch.eye(4) - 0.25, (0, 12))
    return Example(
        {
            "encoder.layer.0/features": means[labels] + 0.05 * torch.randn(80, 16, generator=generator),
            "encoder.layer.0/labels": labels,
            "encoder.layer.0/head_weight": means[list(order)],
            "encoder.layer.0/head_bias": torch.zeros(4),
        },
        intent="classifier",
        metadata={},
    )


@activation_analyzer(
    name="self-duality",
    family="neural-collapse",
    title="Self-duality of head and class means",
    metrics=(
        SELF_DUALITY_ERROR,
        PAPYAN_NC3,
        DUALITY_COS,
        DUALITY_COS_Z,
        UNIFORM_DUALITY_VAR,
        MEAN_LOGIT_OFFSET,
    ),
    accepts=on.points("features", "labels", "head_weight", says="hook points with features, labels and head_weight"),
    needs=("class_moments",),
    uses=("head_bias",),
    remedy="Check that the head belongs to these features and that its rows are in the order of the labels. Where two "
    "losses share one head, give one of them a head of its own, and apply weight decay to head and features.",
    references=(
        Reference(
            "Papyan, Han & Donoho. Prevalence of Neural Collapse during the terminal phase of deep learning "
            "training. 2020",
            "https://arxiv.org/abs/2008.08186",
        ),
        Reference(
            "Wu & Papyan. Linguistic Collapse: Neural Collapse in (Large) Language Models. 2024",
            "https://arxiv.org/abs/2405.17767",
        ),
        Reference(
            "Kothapalli. Neural Collapse: A Review on Modelling Principles and Generalization. 2022",
            "https://arxiv.org/abs/2206.04041",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "features_rotated"),
)
def self_duality(point: "Activations") -> Iterator[Measurement | Skip]:
    """Does the classifier point where the class means point?

    ## Why it matters
    A linear classifier trained to the end with weight decay has class vectors proportional to its centred class means
    (NC3). A head that points elsewhere fights its features: two losses pull at it, it belongs to another epoch of the
    backbone, or its rows are not in the order of the labels.

    ## How to read it
    `self_duality_error` and `papyan_nc3` are 0 when head and means are the same simplex and √2 and 2 for a head drawn
    at random. `duality_cos` is the easiest: 1 is aligned, 0 is chance, and `duality_cos_z` says how far from chance.
    Read `uniform_duality_var` only beside it, for it is tiny for a random head too. `mean_logit_offset` compares what
    the global mean adds to all logits with what tells classes apart; 0 when the bias cancels it.

    ## Limits
    Row k of the head has to belong to label k. Softmax does not see a vector common to all class vectors; the evidence
    holds the error after removing it. With more than D+1 classes no simplex exists and `self_duality_error` cannot
    reach 0. Tied weights make the head an input embedding as well, which pulls it away from the means for a good
    reason. Under imbalance the lengths differ by class, which the cosines ignore and the two distances do not. Classes
    with fewer than 5 rows are left out.
    """
    site, found = point.site.name, point.get(kernels.neural_collapse.classes)
    if found.count < 2:
        yield skip(site, f"{found.count} classes with {kernels.neural_collapse.MIN_ROWS} rows < 2")
        return
    head = point.get(kernels.neural_collapse.head_of_classes)
    if head is None:
        yield skip(site, point.get(kernels.neural_collapse.head_mismatch))
        return
    width = found.width
    facts = point.get(kernels.neural_collapse.sizes) | {"head_rows": point.shapes["head_weight"][0]}
    centred, lengths = found.centred, found.centred.norm(dim=1)
    vectors = head.norm(dim=1)
    live = (lengths > found.rounding) & (vectors > 0.0)
    if not bool(live.any()):
        yield skip(site, "all class means are equal" if float(vectors.max()) > 0.0 else "the head is zero")
        return
    without_mean = kernels.neural_collapse.duality_distance(found.means, head - head.mean(0))
    error = kernels.neural_collapse.duality_distance(found.means, head)
    yield SELF_DUALITY_ERROR.at(site, error, math.sqrt(2.0), centred_head=without_mean, **facts)
    between = float((head / head.norm() - centred / centred.norm()).square().sum())
    yield PAPYAN_NC3.at(site, between, 2.0, **facts)
    cosines = (head * centred).sum(1)[live] / (lengths * vectors)[live]
    cosine, live_count = float(cosines.mean()), int(live.sum())
    facts = facts | {"live": live_count}
    yield DUALITY_COS.at(site, cosine, 0.0, **facts)
    yield DUALITY_COS_Z.at(site, cosine * math.sqrt(live_count * width), 0.0, cosine=cosine, **facts)
    if live_count > 1:
        yield UNIFORM_DUALITY_VAR.at(site, float(cosines.var()), 1.0 / width, **facts)
    else:
        yield skip(site, "uniform_duality_var: one class with a direction")
    offset = point.get(kernels.neural_collapse.mean_logit_offset)
    if offset is None:
        yield skip(site, "mean_logit_offset: the head is orthogonal to the class means, or its bias has another length")
        return
    yield MEAN_LOGIT_OFFSET.at(site, offset, has_bias="head_bias" in point.arrays, **facts)
