"""Structure inside classes."""

import math
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

FINE_PURITY_LIFT = Metric(
    "fine_purity_lift",
    "1",
    "Share of the 10 nearest rows of the same class that have the same fine label, beyond chance: (P−c)/(1−c).",
    better="higher",
    null="fine labels shuffled within each class: 0",
)
FINE_PURITY_LIFT_Z = Metric(
    "fine_purity_lift_z",
    "standard errors",
    "The same in standard deviations of shuffled fine labels.",
    better="higher",
    null="fine labels shuffled within each class: 0",
    warn=Limit(
        "below",
        3.0,
        "closed form: shuffled fine labels stay within 3 standard errors of chance",
        intent=frozenset({"representation"}),
        inclusive=True,
    ),
    message="Fine labels have left no trace inside the classes: {share:.3g} of the neighbours share theirs, shuffled "
    "labels give {chance:.3g}.",
)
CLUSTER_GAIN = Metric(
    "cluster_gain",
    "1",
    "Median over classes of the spread that two means explain, over what they explain of one Gaussian.",
    null="one Gaussian per class: 1",
)
INTRA_SHARE = Metric(
    "intra_share",
    "1",
    "Share of the total spread that is within classes, tr Σ_W/tr Σ_T.",
    null="labels at random: (N−K)/(N−1)",
)


def healthy() -> Example:
    """Three classes of two clusters each, which the fine labels name."""
    return _example(gap=1.0)


def collapsed() -> Example:
    """The same classes, each one cluster."""
    return _example(gap=0.0)


def _example(gap: float) -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    fine = torch.randint(2, (120,), generator=generator)
    rows = 0.2 * torch.randn(120, 12, generator=generator)
    rows[torch.arange(120), labels] += 2.0
    rows[:, 5] += gap * (2.0 * fine - 1.0)
    return Example(
        {
            "encoder.layer.0/features": rows,
            "encoder.layer.0/labels": labels,
            "encoder.layer.0/fine_labels": 2 * labels + fine,
        },
        intent="representation",
        metadata={},
    )


@activation_analyzer(
    name="subclass-collapse",
    family="neural-collapse",
    title="Structure inside classes",
    metrics=(FINE_PURITY_LIFT, FINE_PURITY_LIFT_Z, CLUSTER_GAIN, INTRA_SHARE),
    accepts=on.points("features", "labels", says="hook points with features and labels, and fine_labels if there are"),
    needs=("class_moments", "sample"),
    uses=("fine_labels",),
    remedy="Train for fewer supervised epochs, with the leave-one-out nearest-neighbour loss, or with a clustering or "
    "contrastive term within classes; where fine labels exist, train on them.",
    references=(
        Reference(
            "Feng et al. Rethinking Supervised Pre-training for Better Downstream Transferring. 2021",
            "https://arxiv.org/abs/2110.06014",
        ),
        Reference(
            "Papyan, Han & Donoho. Prevalence of Neural Collapse during the terminal phase of deep learning "
            "training. 2020",
            "https://arxiv.org/abs/2008.08186",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "features_rotated", "shifted"),
)
def subclass_collapse(point: "Activations") -> Iterator[Measurement | Skip]:
    """Is structure inside a class still there: finer labels, or several modes?

    ## Why it matters
    Labels are coarser than the world. A model that is trained on them until every class is one point has thrown away
    what tells a terrier from a poodle, and nothing downstream can bring it back. This is the harm that neural collapse
    does to transfer.

    ## How to read it
    With fine labels `fine_purity_lift` is the answer: 1 when neighbours within a class always share the fine label, 0
    when the fine labels might as well be shuffled; `fine_purity_lift_z` says how far from shuffled. Without them
    `cluster_gain` asks whether two clusters explain more of a class than of one Gaussian with the same first axis: 1 is
    one blob, π/2 two separate points. `intra_share` is the spread within classes over all spread.

    ## Limits
    Neighbours are taken within the class only, or else coarse separation would pass for fine structure. Several modes
    in a class may be label noise or a nuisance such as the camera. `cluster_gain` sees the split in two, and a class
    with many modes may score little above 1; with fewer rows than dimensions one Gaussian scores up to 1.4. It is
    experimental. Classes with fewer than 20 rows are left out, and of more than 64 classes or 256 rows per class a
    seeded choice is looked at.
    """
    site, found = point.site.name, point.get(kernels.neural_collapse.classes)
    if found.count < 1:
        yield skip(site, f"no class with {kernels.neural_collapse.MIN_ROWS} rows")
        return
    facts = point.get(kernels.neural_collapse.sizes)
    share = point.get(kernels.subclasses.within_share)
    if share is None:
        yield skip(site, "all rows are equal")
        return
    yield INTRA_SHARE.at(site, share, (found.rows - found.count) / (found.rows - 1), **facts)
    samples = point.get(kernels.subclasses.class_samples)
    facts = facts | {"compared_classes": len(samples), "compared": sum(rows.shape[0] for rows, _ in samples)}
    if not samples:
        yield skip(site, "cluster_gain, fine_purity_lift, fine_purity_lift_z: no class with 20 rows")
        return
    generator, gains = point.generator(), []
    for rows, _ in samples:
        split = kernels.subclasses.two_cluster_share(rows, generator=generator)
        if split is not None:
            gains.append(split[0] / (2.0 / math.pi * split[1]))
    if gains:
        yield CLUSTER_GAIN.at(site, median(gains), 1.0, spread_classes=len(gains), **facts)
    else:
        yield skip(site, "cluster_gain: every class is one point")
    yield from _fine(point, facts)


def _fine(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    site, names = point.site.name, "fine_purity_lift, fine_purity_lift_z"
    if "fine_labels" not in point.shapes:
        yield skip(site, f"{names}: no fine_labels")
        return
    purity = point.get(kernels.subclasses.fine_purity)
    if purity is None:
        yield skip(site, f"{names}: no class of 20 rows has two fine labels")
        return
    facts = facts | {"share": purity.share, "chance": purity.chance, "fine_rows": purity.rows}
    # chance is below 1 where a class has two fine labels
    yield FINE_PURITY_LIFT.at(site, (purity.share - purity.chance) / (1.0 - purity.chance), 0.0, **facts)
    if purity.deviation <= 0.0:
        yield skip(site, "fine_purity_lift_z: shuffling the fine labels changes nothing")
        return
    yield FINE_PURITY_LIFT_Z.at(site, (purity.share - purity.chance) / purity.deviation, 0.0, **facts)
