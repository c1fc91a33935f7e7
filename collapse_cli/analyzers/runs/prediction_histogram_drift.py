"""Whether the predictions of a run drift towards few classes."""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import (
    Example,
    Limit,
    Measurement,
    Metric,
    Reference,
    Skip,
    activation_series_analyzer,
    on,
    skip,
)

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.comparisons import ActivationSeries
    from collapse_cli.kernels.views import Activations

__all__ = ["prediction_histogram_drift"]

#: Predictions of every member, and rows of the newest classes, from which shares are told.
MIN_ROWS, MIN_NEWEST = 50, 20
OF_LABELS = "the labels; without labels the first member"

HISTOGRAM_DIVERGENCE = Metric(
    "histogram_divergence",
    "nats",
    "The Jensen–Shannon divergence of the predicted classes of the last member from those of the first.",
    better="lower",
    null="(K_used − 1)/8·(1/N₁ + 1/N₂): two draws of one distribution",
)
EFFECTIVE_CLASSES = Metric(
    "effective_classes",
    "1",
    "exp of the entropy of the shares of the predicted classes over the number of classes, in the last member.",
    warn=Limit("below", 0.6, "zoo: sound adaptation keeps .93 and more, mild drift .3 to .8", of="null"),
    error=Limit("below", 0.25, "zoo: collapsed adaptation keeps .1 to .24, mild drift .3 to .8", of="null"),
    null=OF_LABELS,
    message="The predictions of {member} use {used} of {classes} classes, {value:.3g} of them effectively; {null:.3g} "
    "are expected.",
)
MAJORITY_SHARE = Metric(
    "majority_share",
    "1",
    "The share of the most predicted class, in the last member.",
    better="lower",
    null=OF_LABELS,
)
UNUSED_CLASS_SHARE = Metric(
    "unused_class_share",
    "1",
    "The share of classes that the last member never predicts.",
    better="lower",
    null="(1 − 1/K)^N: uniform predictions",
)
RECENCY_BIAS = Metric(
    "recency_bias",
    "1",
    "How often the last member predicts the classes that only the last group has, over how often they are right.",
    warn=Limit("above", 3.0, "zoo: class after class with rehearsal reads .9 to 1, without it 5"),
    null="1: as often as they are labels",
    message="{member} predicts the {newest} newest classes {value:.3g} times as often as they are right.",
)


def _example(last: "Tensor") -> Example:
    """A first member of even predictions of ten classes, one between, and the last; labels in two groups."""
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 10

    def member(predicted: "Tensor") -> dict[str, Any]:
        logits = 4.0 * torch.nn.functional.one_hot(predicted, 10).float()
        return {"logits": logits, "labels": labels, "groups": labels // 5}

    even = [torch.randint(10, (400,), generator=generator) for _ in range(2)]
    members = [member(predicted) for predicted in (*even, last)]
    return Example(members[0], metadata={}, others=tuple(members[1:]), steps=(0.0, 1.0, 2.0))


def healthy() -> Example:
    """Draws of one distribution."""
    import torch

    return _example(torch.randint(10, (400,), generator=torch.Generator().manual_seed(1)))


def collapsed() -> Example:
    """The last member answers one class."""
    import torch

    return _example(torch.full((400,), 9))


@activation_series_analyzer(
    name="prediction-histogram-drift",
    family="runs",
    title="Drift of the prediction histogram",
    metrics=(HISTOGRAM_DIVERGENCE, EFFECTIVE_CLASSES, MAJORITY_SHARE, UNUSED_CLASS_SHARE, RECENCY_BIAS),
    accepts=on.points("logits", says="hook points with logits in two dumps or a run of dumps"),
    also=("activation_pair",),
    remedy="Class-balanced replay, logit adjustment, a bias-corrected head, a regulariser on the marginal entropy; "
    "stop test-time adaptation when the effective classes fall.",
    references=(
        Reference("Lin. Divergence measures based on the Shannon entropy. 1991", "https://doi.org/10.1109/18.61115"),
        Reference("Wu et al. Large Scale Incremental Learning. 2019", "https://arxiv.org/abs/1905.13260"),
        Reference(
            "Döbler, Marsden & Yang. Robust Mean Teacher for Continual and Gradual Test-Time Adaptation. 2022",
            "https://arxiv.org/abs/2211.13081",
        ),
        Reference(
            "Niu et al. Towards Stable Test-Time Adaptation in Dynamic Wild World. 2023",
            "https://arxiv.org/abs/2302.12400",
        ),
        Reference("Udandarao et al. No “Zero-Shot” Without Exponential Data. 2024", "https://arxiv.org/abs/2404.04125"),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=(
        "counts(logits)",
        "counts(labels)",
        "counts(labels,groups)",
        "counts(after.logits)",
        "counts(after.labels)",
        "counts(after.labels,after.groups)",
    ),
    unmoved_by=("samples_permuted", "scaled"),
)
def prediction_histogram_drift(view: "ActivationSeries | Activations") -> Iterator[Measurement | Skip]:
    """Are predictions drifting towards few classes?

    ## Why it matters
    Self-training, test-time adaptation and continual learning all can fall into predicting what they predicted before:
    a class that is answered more often is learnt more often. Accuracy on a balanced test hides it until late.

    ## How to read it
    Every number is that of the last member. `histogram_divergence` compares it with the first, its null being what two
    draws of one distribution give; the evidence has the divergence of every member from the one before and from the
    first. `effective_classes` is 1 for even predictions and 1/K for one class; it, and `majority_share`, are to be held
    against those of the labels, which the null is. 95 % bootstrap intervals are in the evidence. `recency_bias` above
    1: the classes that only the last group of rows has are predicted too often.

    ## Limits
    Only the largest logit of a row counts. A shift of the data shifts predictions: compare the same rows, or the same
    population. Few rows leave classes unused by chance, and take from the labels as much. Nothing is said below 50
    predictions, of recency below 20 rows of the newest classes and without labels in groups. Greedy answers of a
    language model use fewer tokens than text does, and may be warned of; with four classes or fewer even a constant
    answer is a warning at most, which `prediction-collapse` judges on each dump.
    """
    site = view.site.name
    members, labels, suffixes = _members(view)
    if len(members) < 2:
        yield skip(site, f"run too short: {len(members)} of 2")
        return
    counted = [member.read(f"counts({after}logits)") for member, after in zip(members, suffixes, strict=True)]
    rows = [one.total for one in counted]
    if min(rows) < MIN_ROWS:
        yield skip(site, f"{min(rows)} predictions: fewer than {MIN_ROWS}")
        return
    classes = max(one.counts.numel() for one in counted)
    histograms = [one.histogram(classes).cpu() for one in counted]
    facts: dict[str, Any] = {
        "member": labels[-1],
        "N": rows[-1],
        "N_first": rows[0],
        "classes": classes,
        "used": int((histograms[-1] > 0).sum()),
    }
    yield _divergence(site, histograms, facts)
    yield from _spread(view, members[-1], suffixes[-1], histograms, facts)
    yield from _recency(site, members[-1], suffixes[-1], histograms[-1], facts)


def _members(view: "ActivationSeries | Activations") -> "tuple[list[Activations], list[str], list[str]]":
    """Every member, its label, and what its roles begin with: of a pair of dumps both are in one view."""
    if isinstance(view, kernels.comparisons.ActivationSeries):
        return list(view.members), list(view.labels), [""] * len(view.members)
    if not view.has("counts(after.logits)"):
        return [view], ["OLD"], [""]
    return [view, view], ["OLD", "NEW"], ["", "after."]


def _divergence(site: str, histograms: "list[Tensor]", facts: dict[str, Any]) -> Measurement:
    shares = kernels.prediction_shares
    from_first = [shares.divergence(histograms[0], one) for one in histograms[1:]]
    consecutive = [shares.divergence(a, b) for a, b in pairwise(histograms)]
    places = list(range(1, len(histograms)))
    evidence = {
        "place": kernels.run_series.curve(places, from_first)["step"],
        "from_first": kernels.run_series.curve(places, from_first)["value"],
        "from_the_one_before": kernels.run_series.curve(places, consecutive)["value"],
    }
    null = shares.divergence_null(histograms[0], histograms[-1])
    return HISTOGRAM_DIVERGENCE.at(site, from_first[-1], null, **facts, **evidence)


def _spread(
    view: "ActivationSeries | Activations",
    member: "Activations",
    after: str,
    histograms: "list[Tensor]",
    facts: dict[str, Any],
) -> Iterator[Measurement]:
    site, shares, last = view.site.name, kernels.prediction_shares, histograms[-1]
    classes, expected, compared = last.numel(), histograms[0], "the first member"
    if member.has(f"counts({after}labels)"):
        labels = member.read(f"counts({after}labels)")
        # labels beyond the classes of the logits are those of another task
        if labels.total >= MIN_ROWS and labels.largest < classes:
            expected, compared = labels.histogram(classes).cpu(), "the labels"
    within = shares.intervals(last, view.generator())
    places = list(range(len(histograms)))

    def evidence(metric: str, values: list[float]) -> dict[str, Any]:
        curve = kernels.run_series.curve(places, values)
        interval = [within[metric].low, within[metric].high]
        return {**facts, "compared_with": compared, "interval": interval, "by_member": curve["value"]}

    effective = [float(shares.effective(one)) for one in histograms]
    largest = [float(one.max()) / float(one.sum()) for one in histograms]
    yield EFFECTIVE_CLASSES.at(
        site, effective[-1], float(shares.effective(expected)), **evidence("effective_classes", effective)
    )
    majority = float(expected.max()) / float(expected.sum())
    yield MAJORITY_SHARE.at(
        site, largest[-1], majority, **evidence("majority_share", largest), majority_class=int(last.argmax())
    )
    null = shares.unused_null(classes, int(last.sum()))
    yield UNUSED_CLASS_SHARE.at(site, 1.0 - facts["used"] / classes, null, **facts)


def _recency(
    site: str, member: "Activations", after: str, last: "Tensor", facts: dict[str, Any]
) -> Iterator[Measurement | Skip]:
    need = f"counts({after}labels,{after}groups)"
    if not member.has(need):
        yield skip(site, "recency_bias: no labels in groups")
        return
    counted = member.read(need)
    newest = kernels.prediction_shares.newest_classes(counted.by_group.cpu())
    labels = counted.counts.cpu()
    rows = int(labels[list(newest)].sum()) if newest else 0
    if rows < MIN_NEWEST:
        yield skip(site, f"recency_bias: {rows} rows of classes that only the last group has, fewer than {MIN_NEWEST}")
        return
    predicted = kernels.prediction_shares.share_of(last, newest)
    true = rows / int(labels.sum())
    counts = {"newest": len(newest), "rows_of_newest": rows, "predicted_share": predicted, "true_share": true}
    yield RECENCY_BIAS.at(site, predicted / true, 1.0, **facts, **counts)
