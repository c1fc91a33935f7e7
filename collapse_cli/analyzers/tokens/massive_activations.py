"""Massive activations: few entries that are orders of magnitude above the rest."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

#: Entries below which the largest says nothing.
MIN_ENTRIES = 10_000
#: The largest finite float16.
FLOAT16_MAX = 65504.0

MAX_TO_MEDIAN = Metric(
    "max_to_median",
    "1",
    "The largest magnitude of an entry over the (lower) median magnitude.",
    better="lower",
    null="as many Gaussian entries",
)
MASSIVE_PER_MILLION = Metric(
    "massive_per_million",
    "per million",
    "Entries above 100 and above 1,000 times the median magnitude, in a million.",
    better="lower",
    null="Gaussian entries have none",
)
MASSIVE_CHANNELS = Metric(
    "massive_channels", "channels", "How many channels host such an entry.", better="lower", null="none"
)
MASSIVE_ENERGY = Metric(
    "massive_energy",
    "1",
    "The share of Σh² that lies in such entries.",
    better="lower",
    null="Gaussian entries have none",
)
OUTLIER_SHARE = Metric(
    "outlier_share",
    "1",
    "The share of entries beyond six standard deviations of their own channel.",
    better="lower",
    null="Gaussian channels",
)
EXCESS_KURTOSIS = Metric(
    "excess_kurtosis",
    "1",
    "m₄/m₂² − 3 of a channel, the median over channels: how heavy the tails of an ordinary channel are.",
    better="lower",
    null="Gaussian channels",
)


def healthy() -> Example:
    """Gaussian tokens."""
    return _tokens(0.0)


def collapsed() -> Example:
    """The same with one channel of the first token a thousand times as large in every sequence."""
    return _tokens(2000.0)


def _tokens(planted: float) -> Example:
    import torch

    tokens = torch.randn(32, 16, 32, generator=torch.Generator().manual_seed(0))
    tokens[:, 0, 7] += planted
    return Example({"encoder.layer.3/tokens": tokens}, metadata={})


@activation_analyzer(
    name="massive-activations",
    family="tokens",
    title="Massive activations",
    metrics=(
        MAX_TO_MEDIAN,
        MASSIVE_PER_MILLION,
        MASSIVE_CHANNELS,
        MASSIVE_ENERGY,
        OUTLIER_SHARE,
        EXCESS_KURTOSIS,
    ),
    accepts=on.points(any_of=(("tokens",), ("features",)), says="hook points with tokens or features"),
    needs=(
        "top_entries",
        "top_entries(tokens)",
        "quantiles",
        "quantiles(tokens)",
        "channel_moments",
        "channel_moments(tokens)",
        "sample",
        "token_sample",
    ),
    remedy="Give attention an explicit bias or the model register tokens; quantise with the outlier channels apart; "
    "use bfloat16 instead of float16 where the headroom is small.",
    references=(
        Reference(
            "Sun, Chen, Kolter & Liu. Massive Activations in Large Language Models. 2024",
            "https://arxiv.org/abs/2402.17762",
        ),
        Reference(
            "Darcet, Oquab, Mairal & Bojanowski. Vision Transformers Need Registers. 2023",
            "https://arxiv.org/abs/2309.16588",
        ),
        Reference(
            "Yang et al. Unified Normalization for Accelerating and Stabilizing Transformers. 2022",
            "https://arxiv.org/abs/2208.01313",
        ),
        Reference(
            "Dao et al. Improved Training Technique for Latent Consistency Models. 2025",
            "https://arxiv.org/abs/2502.01441",
        ),
        Reference(
            "Gao et al. Feature Coding in the Era of Large Models: Dataset, Test Conditions, and Benchmark. 2024",
            "https://arxiv.org/abs/2412.04307",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("samples_permuted",),
    unmoved_metrics=("max_to_median", "massive_per_million", "massive_channels", "massive_energy", "excess_kurtosis"),
)
def massive_activations(point: "Activations") -> Iterator[Measurement | Skip]:
    """Do a few entries carry values orders of magnitude above the rest, and where?

    ## Why it matters
    Trained transformers put a handful of constants, thousands of times the median, into fixed channels of the first
    token or of delimiters, and use them as a bias of attention. They decide the range of a quantised activation, they
    overflow float16, and a model that loses them loses its language.

    ## How to read it
    Their presence is no fault; their growth over checkpoints and a small `float16_headroom` (the bits left before
    overflow, in the evidence of `max_to_median`) are. The evidence names the three largest entries with row, token and
    channel, and how much each varies over rows: a variation near 0 is a bias. `massive_energy` says how much of every
    norm and cosine of this layer they make up. `outlier_share` and `excess_kurtosis` speak of ordinary channels.

    ## Limits
    Nothing here is judged. Counts are exact while no more than 4,096 entries qualify, and lower bounds, said so,
    beyond. `outlier_share` is counted on a sample of tokens or rows where there are many. Pooling and class tokens
    change the count; a dump that was quantised has had its massive entries clipped. Where there are tokens, features
    are not looked at.
    """
    site, role = point.site.name, "tokens" if "tokens" in point.shapes else "features"
    suffix = "(tokens)" if role == "tokens" else ""
    sketch, top = point.read(f"quantiles{suffix}").sketch, point.read(f"top_entries{suffix}")
    moments = point.read(f"channel_moments{suffix}")
    if sketch.count < MIN_ENTRIES:
        yield skip(site, f"{sketch.count} finite entries < {MIN_ENTRIES}")
        return
    facts: dict[str, Any] = {"entries": sketch.count, "D": moments.mean.numel(), "dtype": point.dtypes[role]}
    kernel, median = kernels.massive_entries, sketch.magnitude_quantile(0.5)
    largest = max(abs(sketch.minimum), abs(sketch.maximum))
    # beyond 10³⁰⁰ the ratio would not fit into float64
    if median > 1e-300 * largest:
        yield MAX_TO_MEDIAN.at(
            site,
            largest / median,
            kernel.largest_null(sketch.count),
            **facts,
            median=median,
            largest=largest,
            top=kernel.top_three(top),
            float16_headroom=math.log2(FLOAT16_MAX) - math.log2(largest),
            zero_share=sketch.zeros / sketch.count,
        )
    else:
        yield skip(site, f"max_to_median: more than half of the entries are zero ({sketch.zeros} of {sketch.count})")
    found = kernel.massive(top, median)
    bounded = facts | {"threshold": found.threshold} | ({} if found.is_exact else {"is_lower_bound": True})
    yield MASSIVE_PER_MILLION.at(site, 1e6 * found.entries / sketch.count, 0.0, **bounded, massive=found.entries)
    yield MASSIVE_CHANNELS.at(site, found.channels, 0.0, **bounded)
    energy = moments.energy
    if energy > 0.0:
        yield MASSIVE_ENERGY.at(site, min(found.energy / energy, 1.0), 0.0, **bounded)
    else:
        yield skip(site, "massive_energy: every entry is zero")
    yield from _channels(point, role, facts)


def _channels(point: "Activations", role: str, facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    site, kernel = point.site.name, kernels.massive_entries
    moments = point.read("channel_moments(tokens)" if role == "tokens" else "channel_moments")
    kurtosis = moments.excess_kurtosis()
    if not kurtosis.numel():
        yield skip(site, "outlier_share, excess_kurtosis: no channel varies")
        return
    outliers = kernel.outlier_share(point, role, moments)
    said = {} if outliers.is_exact else {"counted_entries": outliers.entries}
    yield OUTLIER_SHARE.at(site, outliers.share, kernel.GAUSSIAN_OUTLIER_SHARE, **facts, **said)
    evidence = {"largest": float(kurtosis.max()), "varying_channels": kurtosis.numel()}
    yield EXCESS_KURTOSIS.at(site, float(kurtosis.median()), 0.0, **facts, **evidence)
