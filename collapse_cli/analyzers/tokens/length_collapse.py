"""Length collapse: whether embeddings of long inputs crowd together."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.length_bins import LengthBin
    from collapse_cli.kernels.length_profile import LengthNull
    from collapse_cli.kernels.views import Activations

#: Rows and bins below which length says nothing.
MIN_ROWS, MIN_BINS = 200, 3
POOLING = "averaging as many tokens as the bin is long"

COSINE_GAP = Metric(
    "cosine_gap",
    "1",
    "The mean cosine of two of the longest inputs minus that of two of the shortest.",
    better="lower",
    null=POOLING,
)
LONGEST_EXCESS = Metric(
    "longest_excess",
    "1",
    "The mean cosine of two of the longest inputs beyond what pooling of so many tokens gives.",
    better="lower",
    warn=Limit(
        "above",
        0.5,
        "Zhou et al. 2025 show the effect and give no figure; topics of long texts explain tenths of the range",
    ),
    null=POOLING,
    message="The longest inputs ({longest:.0f} tokens) crowd together: mean cosine {cosine:.3g}, {value:.2g} beyond "
    "the {null_cosine:.3g} that pooling alone gives; the shortest ({shortest:.0f} tokens) have {first_cosine:.3g}.",
)
COSINE_SLOPE = Metric(
    "cosine_slope",
    "1",
    "By how much the mean cosine rises when the input is e times as long (row-weighted least squares over bins).",
    better="lower",
    null=POOLING,
)
CENTROID_DISTANCE_SLOPE = Metric(
    "centroid_distance_slope",
    "1",
    "By how much ‖z − g‖² changes when the input is e times as long, g the mean of all unit rows.",
    better="higher",
    null=POOLING,
)
LENGTH_AXIS = Metric(
    "length_axis",
    "1",
    "How well the first principal component tells the length: ∣correlation∣ of its score with log length.",
    better="lower",
    null="a component that does not know the length, √(2/(πN))",
)
RECALL_GAP = Metric(
    "recall_gap",
    "1",
    "The share of the shortest inputs whose nearest neighbour has their label, minus that of the longest.",
    better="lower",
    null="recall does not depend on length",
)


def healthy() -> Example:
    """Means of more and more independent tokens: the cosine rises exactly as averaging lets it."""
    return _by_length({16: 0.2, 64: 0.5, 256: 0.8})


def collapsed() -> Example:
    """Short inputs are apart, long ones all lie at the common mean."""
    return _by_length({16: 0.02, 64: 0.5, 256: 0.99})


def _by_length(cosines: dict[int, float]) -> Example:
    import torch

    rows = 70
    # orthonormal m, e_1, …: rows √c·m + √(1 − c)·e_i have cosine c exactly
    blocks = [
        math.sqrt(c) * torch.eye(rows + 1)[:1] + math.sqrt(1 - c) * torch.eye(rows + 1)[1:] for c in cosines.values()
    ]
    return Example(
        {
            "encoder.layer.3/features": torch.cat(blocks),
            "encoder.layer.3/lengths": torch.tensor(list(cosines)).repeat_interleave(rows),
            "encoder.layer.3/labels": torch.arange(rows).repeat(3),
        },
        metadata={"pooling": "mean"},
    )


@activation_analyzer(
    name="length-collapse",
    family="tokens",
    title="Length collapse",
    metrics=(COSINE_GAP, LONGEST_EXCESS, COSINE_SLOPE, CENTROID_DISTANCE_SLOPE, LENGTH_AXIS, RECALL_GAP),
    accepts=on.points("features", "lengths", says="hook points with features and lengths"),
    needs=("length_bins", "moments", "sample", "token_sample"),
    uses=("labels",),
    remedy="Sharpen attention of long inputs (TempScale: a lower softmax temperature); embed shorter chunks; train on "
    "batches in which all lengths are equally frequent.",
    references=(
        Reference(
            "Zhou et al. Length-Induced Embedding Collapse in PLM-based Models. 2024",
            "https://arxiv.org/abs/2410.24200",
        ),
        Reference(
            "Zhu et al. LongEmbed: Extending Embedding Models for Long Context Retrieval. 2024",
            "https://arxiv.org/abs/2404.12096",
        ),
        Reference(
            "Liu et al. Improving Long-Text Alignment for Text-to-Image Diffusion Models. 2024",
            "https://arxiv.org/abs/2410.11817",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "samples_permuted"),
    unmoved_metrics=("cosine_gap", "longest_excess", "cosine_slope", "centroid_distance_slope"),
)
def length_collapse(point: "Activations") -> Iterator[Measurement | Skip]:
    """Do embeddings of long inputs crowd together more than averaging alone explains?

    ## Why it matters
    Attention is a low-pass filter that grows stronger with the number of tokens, so that embeddings of long texts can
    end up near one another and far from the short ones. Retrieval then returns long documents for every query, or
    none, and a threshold on similarity means something else for every length.

    ## How to read it
    A mere rise of the cosine with length is the law of large numbers: the mean of n independent tokens has cosine
    c(n) = 1/(1 + ρ/n), and the nulls of `cosine_gap`, `cosine_slope` and `centroid_distance_slope` are that curve,
    started at the shortest bin. With `tokens` beside the features it is measured instead: tokens of the dump are dealt
    at random to documents of the same lengths and pooled again. `longest_excess` is what is left at the longest bin.
    With cls or last pooling nothing is averaged by the reader, and length should not matter at all. `length_axis` near
    1 means that the strongest direction of the space is the length. `recall_gap` needs `labels`.

    ## Limits
    Length goes with topic, language and source: long inputs of one kind lie together without any fault, so compare
    within one group before acting. Inputs cut to a maximum share one length, and their bin mixes lengths. Tokens of
    one text belong together, hence healthy encoders stand below the null. Where the shortest inputs have a mean cosine
    of zero or less, the closed form says nothing. Thin bins are joined with their neighbours.
    """
    site, facts = point.site.name, kernels.feature_spectrum.facts(point)
    held = point.read("length_bins")
    if held.count < MIN_ROWS:
        yield skip(site, f"{held.count} rows with a length < {MIN_ROWS}")
        return
    bins = kernels.length_profile.length_bins(point)
    if len(bins) < MIN_BINS:
        least = kernels.length_profile.MIN_BIN_ROWS
        yield skip(site, f"lengths too alike: {len(bins)} half-octaves with {least} rows or more < {MIN_BINS}")
        return
    left_out = {"zero_rows": held.zero_rows, "without_length": held.without_length}
    facts |= {name: count for name, count in left_out.items() if count}
    yield from _cosines(site, bins, kernels.length_profile.length_null(point, bins), facts)
    yield from _axis(point, facts)
    yield from _recall(point, bins, facts)


def _cosines(
    site: str, bins: "list[LengthBin]", null: "LengthNull | None", facts: dict[str, Any]
) -> Iterator[Measurement | Skip]:
    profile = kernels.length_profile
    facts = facts | {"by_length": profile.curve(bins, null), "null_from": null.source if null else "none: c₁ ≤ 0"}
    cosines = [one.cosine for one in bins]
    distances, gap = profile.centroid_distances(bins), cosines[-1] - cosines[0]
    if null is None:
        yield COSINE_GAP.at(site, gap, **facts)
        yield COSINE_SLOPE.at(site, profile.weighted_slope(bins, cosines), **facts)
        yield CENTROID_DISTANCE_SLOPE.at(site, profile.weighted_slope(bins, distances), **facts)
        yield skip(site, "longest_excess: the shortest bin has a mean cosine of zero or less, there is no null")
        return
    chance = null.cosines
    yield COSINE_GAP.at(site, gap, chance[-1] - chance[0], **facts, **_interval(null, gap=True))
    yield LONGEST_EXCESS.at(
        site,
        cosines[-1] - chance[-1],
        0.0,
        **facts,
        **_interval(null, gap=False),
        cosine=cosines[-1],
        null_cosine=chance[-1],
        first_cosine=cosines[0],
        shortest=math.exp(bins[0].mean_log_length),
        longest=math.exp(bins[-1].mean_log_length),
    )
    slopes = (profile.weighted_slope(bins, values) for values in (cosines, chance))
    yield COSINE_SLOPE.at(site, *slopes, **facts)
    distance_null = profile.weighted_slope(bins, profile.centroid_null(bins, chance))
    yield CENTROID_DISTANCE_SLOPE.at(site, profile.weighted_slope(bins, distances), distance_null, **facts)


def _interval(null: "LengthNull", *, gap: bool) -> dict[str, list[float]]:
    """What two standard deviations over deals leave of the null: of its gap, or of its cosine at the longest bin."""
    bounds = null.interval_of_gap() if gap else null.interval_of_longest()
    return {"null_interval": bounds} if bounds else {}


def _axis(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    value, count = kernels.length_profile.length_axis(point), point.read("length_bins").count
    if value is None:
        yield skip(point.site.name, "length_axis: the features do not vary")
    else:
        yield LENGTH_AXIS.at(point.site.name, value, math.sqrt(2.0 / (math.pi * count)), **facts)


def _recall(point: "Activations", bins: "list[LengthBin]", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    site = point.site.name
    if "labels" not in point.shapes:
        yield skip(site, "recall_gap: no labels")
        return
    found = kernels.length_profile.recall_by_length(point, bins)
    if found is None:
        least = kernels.length_profile.MIN_BIN_ROWS
        yield skip(site, f"recall_gap: fewer than {least} labelled rows of the shortest or the longest bin")
        return
    evidence = {"shortest_recall": found.shortest, "longest_recall": found.longest, "queries": found.queries}
    yield RECALL_GAP.at(site, found.shortest - found.longest, 0.0, **facts, **evidence, compared_with=found.rows)
