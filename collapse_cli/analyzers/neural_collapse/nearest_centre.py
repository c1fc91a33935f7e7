"""The head against the nearest class mean."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Activations

#: Rows on which independent decisions are expected to differ, from which a standard error can be trusted.
MIN_EXPECTED_DIFFERENCES = 30

NCC_AGREEMENT = Metric(
    "ncc_agreement",
    "1",
    "Share of rows for which head and nearest class mean decide alike.",
    better="higher",
    null="independent decisions with the same frequencies: Σ P(head = k)·P(nearest = k)",
)
AGREEMENT_KAPPA = Metric(
    "agreement_kappa",
    "1",
    "Agreement beyond chance, (A − null)/(1 − null): 1 is complete, 0 is chance.",
    better="higher",
    null="independent decisions: 0",
)
AGREEMENT_KAPPA_Z = Metric(
    "agreement_kappa_z",
    "standard errors",
    "Agreement beyond chance in binomial standard errors of chance.",
    better="higher",
    null="independent decisions: 0",
    warn=Limit(
        "below",
        3.0,
        "closed form: independent decisions agree within 3 standard errors of chance",
        inclusive=True,
    ),
    message="Head and nearest class mean agree on {agreement:.3g} of the rows, chance gives {chance:.3g}: the head "
    "does not read these features as their classes lie.",
)
NCC_ACCURACY = Metric(
    "ncc_accuracy",
    "1",
    "Share of rows whose own class mean, taken without the row, is the nearest.",
    better="higher",
    null="always the largest class",
)
HEAD_MINUS_NCC = Metric(
    "head_minus_ncc",
    "1",
    "Accuracy of the head minus that of the nearest class mean; below 0 the head is worse than its own means.",
    better="higher",
    null="equal accuracy: 0",
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
        metadata={},
    )


@activation_analyzer(
    name="nearest-centre",
    family="neural-collapse",
    title="Nearest class centre against the head",
    metrics=(NCC_AGREEMENT, AGREEMENT_KAPPA, AGREEMENT_KAPPA_Z, NCC_ACCURACY, HEAD_MINUS_NCC),
    accepts=on.points("features", "labels", says="hook points with features and labels, and a head or logits"),
    needs=("class_moments", "sample"),
    uses=("head_weight", "head_bias", "logits"),
    remedy="Where the head is worse than the class means, fit it again on these features or recalibrate it (in "
    "continual learning the forgetting sits in the head), or classify by the nearest class mean.",
    references=(
        Reference(
            "Papyan, Han & Donoho. Prevalence of Neural Collapse during the terminal phase of deep learning "
            "training. 2020",
            "https://arxiv.org/abs/2008.08186",
        ),
        Reference(
            "Janson et al. A Simple Baseline that Questions the Use of Pretrained-Models in Continual Learning. 2022",
            "https://arxiv.org/abs/2210.04428",
        ),
        Reference(
            "Wu & Papyan. Linguistic Collapse: Neural Collapse in (Large) Language Models. 2024",
            "https://arxiv.org/abs/2405.17767",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "features_rotated"),
)
def nearest_centre(point: "Activations") -> Iterator[Measurement | Skip]:
    """Does the head decide like the nearest class mean, and which of the two is better?

    ## Why it matters
    Under neural collapse a linear head becomes the rule "nearest class mean" (NC4). Where the two disagree, one of them
    is wrong: a head that decides worse than the means of its own features is outdated or was never fitted to them, and
    refitting it is cheap.

    ## How to read it
    `ncc_agreement` depends on how many classes there are, `agreement_kappa` does not: 1 is complete agreement, 0 what
    independent decisions would give. `ncc_accuracy` is how well the features separate classes without any head, each
    row judged by means that do not contain it. `head_minus_ncc` below 0 says that the head is the weak part.

    ## Limits
    The agreement uses means that contain the row, as the literature does; on random labels with few rows per class that
    alone gives a high in-sample accuracy, which is why `ncc_accuracy` leaves the row out. Papyan reports one minus the
    agreement, and some implementations leave out the bias of the head, which is used here. Beyond 8,192 rows the shares
    are those of a uniform sample, uncertain by half a percent. Classes with fewer than 5 rows are left out.
    """
    site, found = point.site.name, point.get(kernels.neural_collapse.classes)
    if found.count < 2:
        yield skip(site, f"{found.count} classes with {kernels.neural_collapse.MIN_ROWS} rows < 2")
        return
    centres = point.get(kernels.nearest_centres.centre_decisions)
    compared = centres.labels.numel()
    if compared == 0:
        yield skip(site, "no row of these classes is in the sample")
        return
    facts = point.get(kernels.neural_collapse.sizes)
    facts = facts | {"compared": compared, "exact": point.read("sample").is_exact}
    accuracy = float((centres.left_out == centres.labels).double().mean())
    yield NCC_ACCURACY.at(site, accuracy, float(found.counts.max()) / found.rows, **facts)
    head = point.get(kernels.nearest_centres.head_decisions)
    source = point.get(kernels.nearest_centres.head_of_rows)
    if head is None:
        yield skip(site, f"ncc_agreement, agreement_kappa, agreement_kappa_z, head_minus_ncc: {source}")
        return
    facts = facts | {"head": source, "head_accuracy": float((head == centres.labels).double().mean())}
    yield HEAD_MINUS_NCC.at(site, facts["head_accuracy"] - accuracy, 0.0, ncc_accuracy=accuracy, **facts)
    yield from _agreement(site, head, centres.nearest, facts)


def _agreement(site: str, head: "Tensor", nearest: "Tensor", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    agreement, count = float((head == nearest).double().mean()), head.numel()
    chance = kernels.nearest_centres.chance_agreement(head, nearest)
    yield NCC_AGREEMENT.at(site, agreement, chance, **facts)
    if chance >= 1.0:
        yield skip(site, "agreement_kappa, agreement_kappa_z: both always decide for one class")
        return
    facts = facts | {"agreement": agreement, "chance": chance}
    yield AGREEMENT_KAPPA.at(site, (agreement - chance) / (1.0 - chance), 0.0, **facts)
    if count * (1.0 - chance) < MIN_EXPECTED_DIFFERENCES:
        yield skip(site, f"agreement_kappa_z: chance leaves {count * (1.0 - chance):.3g} rows to differ on")
        return
    # no class in common: the smallest variance that one row can show
    deviation = math.sqrt(max(chance * (1.0 - chance), 1.0 / count) / count)
    yield AGREEMENT_KAPPA_Z.at(site, (agreement - chance) / deviation, 0.0, **facts)
