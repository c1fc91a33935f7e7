"""Pair margin: whether one similarity separates pairs of one class from pairs of two."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.pair_similarity import Cosines
    from collapse_cli.kernels.views import Activations

#: Fewer positive pairs say nothing of their tail; fewer classes need more pairs.
MIN_PAIRS, MANY_PAIRS, MIN_CLASSES = 100, 10_000, 20

RANDOM_LABELS = "random labels on isotropic rows"

PAIR_MARGIN = Metric(
    "pair_margin",
    "cosine",
    "The smallest cosine of a pair of one class minus the largest of a pair of two classes, over sampled pairs.",
    better="higher",
    null=RANDOM_LABELS,
)
PAIR_MARGIN_1PCT = Metric(
    "pair_margin_1pct",
    "cosine",
    "The same without the worst hundredth of either kind of pair.",
    better="higher",
    null=RANDOM_LABELS,
)
PAIR_OVERLAP = Metric(
    "pair_overlap",
    "1",
    "The common area of the histograms of cosines of pairs of one class and of two, in 512 bins.",
    better="lower",
    null=RANDOM_LABELS,
)
PAIR_EER = Metric(
    "pair_eer",
    "1",
    "The error rate at the threshold at which as many pairs are wrongly accepted as are wrongly refused.",
    better="lower",
    null=RANDOM_LABELS,
)
PAIR_EER_Z = Metric(
    "pair_eer_z",
    "standard errors",
    "How far pair_eer lies below ½, in standard errors of independent pairs.",
    better="higher",
    warn=Limit("below", 3.0, "definition: not distinguishable from chance, 3 standard errors", inclusive=True),
    message="Pairs of one class are no more similar than pairs of two: equal error rate {eer:.3g} over {positive} "
    "positive and {negative} negative pairs.",
)
NEGATIVE_MISMATCH = Metric(
    "negative_mismatch",
    "1",
    "The largest difference between the distribution of cosines of pairs of two classes and that of rows with the head "
    "rows of other classes.",
    better="lower",
    null="both kinds of negative alike",
)
HEAD_CENTRING = Metric(
    "head_centring",
    "1",
    "The length of the mean of the unit head rows: 0 for a simplex, 1 when all have bunched.",
    better="lower",
    null="directions at random",
)


def healthy() -> Example:
    """Four classes on a simplex, with a head that is the simplex."""
    return _example(spread=0.2)


def collapsed() -> Example:
    """The same features for every row, and a head whose rows are one vector."""
    return _example(spread=None)


def _example(spread: float | None) -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(320) % 4
    means = torch.eye(4, 16) - torch.eye(4, 16).mean(0)
    features, head = torch.ones(320, 16), torch.ones(4, 16)
    if spread is not None:
        features, head = means[labels] + spread * torch.randn(320, 16, generator=generator), means
    return Example({"features": features, "labels": labels, "head_weight": head}, metadata={})


@activation_analyzer(
    name="pair-margin",
    family="class-geometry",
    title="Pair margin",
    metrics=(PAIR_MARGIN, PAIR_MARGIN_1PCT, PAIR_OVERLAP, PAIR_EER, PAIR_EER_Z, NEGATIVE_MISMATCH, HEAD_CENTRING),
    accepts=on.points("features", "labels", says="hook points with features and labels"),
    remedy="Draw negative pairs from the batch and from the head alike (unified negative pairs), train with a margin "
    "and harder negatives, and give graded similarity soft labels.",
    references=(
        Reference(
            "Jung et al. Unified Negative Pair Generation toward Well-discriminative Feature Space for Face "
            "Recognition. 2022",
            "https://arxiv.org/abs/2203.11593",
        ),
        Reference(
            "Zhu et al. Coarse-to-Fine: Learning Compact Discriminative Representation for Single-Stage Image "
            "Retrieval. 2023",
            "https://arxiv.org/abs/2308.04008",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=("sample",),
    uses=("head_weight",),
    unmoved_by=("scaled",),
)
def pair_margin(point: "Activations") -> Iterator[Measurement | Skip]:
    """Do similarities within and between classes separate, and have the head's vectors bunched?

    ## Why it matters
    Verification and retrieval accept a pair when its similarity exceeds one threshold. That works as far as pairs of
    one class are more similar than pairs of two; where the two distributions overlap, no threshold helps. A head whose
    rows have all turned one way no longer supplies hard negatives, and training stops to push classes apart.

    ## How to read it
    `pair_margin` above 0 means that one threshold makes no error on the sampled pairs; `pair_margin_1pct` is the same
    without outliers. `pair_overlap` and `pair_eer` say how much is confused on average: 0 is perfect, an equal error
    rate of ½ is chance. The evidence has the accept rate at one false accept in 10,000 and the sensitivity index d′.
    `negative_mismatch` compares negative pairs of rows with negatives from the head; large means that the head is no
    substitute for real pairs. `head_centring` is near 0 for an evenly spread head.

    ## Limits
    The extremes depend on the number of pairs: never compare `pair_margin` between dumps of different size. Error rates
    over pairs are dominated by large classes. Pairs that share a row are not independent, so the standard error is a
    lower bound; so are patches of one image. At most 4096 sample rows are paired; where that leaves few
    positive pairs, whole classes are drawn. An early layer may stand at chance in a good network: judge the layer that
    is compared.
    """
    name = point.site.name
    if point.read("sample").indices.numel() == 0:
        yield skip(name, "fewer than 100 positive pairs: no rows")
        return
    same, different = point.get(kernels.pair_similarity.pair_cosines)
    classes = point.get(kernels.pair_similarity.paired_classes)
    if same.count < MIN_PAIRS or different.count < MIN_PAIRS:
        yield skip(name, f"fewer than {MIN_PAIRS} positive pairs ({same.count}) or negative ones ({different.count})")
        return
    if classes < MIN_CLASSES and same.count < MANY_PAIRS:
        yield skip(name, f"{classes} classes < {MIN_CLASSES} and {same.count} positive pairs < {MANY_PAIRS}")
        return
    facts = {"positive": same.count, "negative": different.count, "classes": classes}
    facts |= {"exact": point.read("sample").is_exact, **kernels.feature_spectrum.facts(point)}
    yield from _separation(name, same, different, facts)
    yield from _head(point, different, facts)


def _separation(
    name: str, same: "Cosines", different: "Cosines", facts: dict[str, Any]
) -> Iterator[Measurement | Skip]:
    import math

    width = facts["width"]
    extremes = sum(math.sqrt(2.0 * math.log(pairs.count) / width) for pairs in (same, different))
    yield PAIR_MARGIN.at(
        name,
        same.lowest - different.highest,
        -min(extremes, 2.0),
        lowest_positive=same.lowest,
        highest_negative=different.highest,
        **facts,
    )
    low, high = same.quantile(0.01), different.quantile(0.99)
    # two standard normal quantiles of 1 %, 2 × 2.326
    yield PAIR_MARGIN_1PCT.at(name, low - high, -min(4.65 / math.sqrt(width), 2.0), **facts)
    yield PAIR_OVERLAP.at(name, kernels.pair_similarity.histogram_overlap(same, different), 1.0, **facts)
    rate = kernels.pair_similarity.equal_error_rate(same, different)
    accepted = kernels.pair_similarity.true_accept_rate(same, different, 1e-4)
    index = kernels.pair_similarity.separation(same, different)
    yield PAIR_EER.at(name, rate, 0.5, accept_rate_at_1e4=accepted, sensitivity_index=index, **facts)
    error = 0.5 * math.sqrt(1.0 / same.count + 1.0 / different.count)
    yield PAIR_EER_Z.at(name, (0.5 - rate) / error, eer=rate, **facts)


def _head(point: "Activations", different: "Cosines", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, head = point.site.name, point.arrays.get("head_weight")
    if head is None:
        yield skip(name, "negative_mismatch, head_centring: no head_weight")
        return
    head = head.reshape(head.shape[0], -1)
    mean = kernels.nearest_rows.unit_rows(head)
    live = int((mean.square().sum(1) > 0.0).sum())
    if live == 0 or not bool(head.isfinite().all()):
        yield skip(name, "negative_mismatch, head_centring: the head is zero or not finite")
        return
    yield HEAD_CENTRING.at(
        name, float(mean.sum(0).norm()) / live, live**-0.5, head_rows=live, zero_rows=head.shape[0] - live
    )
    highest = point.get(kernels.pair_similarity.highest_label)
    if head.shape[1] != facts["width"] or highest >= head.shape[0]:
        yield skip(name, f"negative_mismatch: a head of {head.shape[0]} × {head.shape[1]} has no row per label")
        return
    negatives = kernels.pair_similarity.head_cosines(point, head)
    if negatives.count == 0:
        yield skip(name, "negative_mismatch: the head has one row")
        return
    distance = kernels.pair_similarity.distribution_distance(different, negatives)
    yield NEGATIVE_MISMATCH.at(name, distance, 0.0, head_pairs=negatives.count, head_mean=negatives.mean, **facts)
