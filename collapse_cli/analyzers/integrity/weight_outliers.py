"""Whether a few weights carry a tensor."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, on, skip, weight_analyzer

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Weight

#: Below this the error depends on the row and not on its distribution: one entry is exact.
_MIN_COLUMNS = 8
GAUSSIAN = "Gaussian entries, as many"

EXCESS_KURTOSIS = Metric(
    "excess_kurtosis",
    "1",
    "Fourth central moment over the squared variance, less 3: how heavy the tails are.",
    better="lower",
    warn=Limit(
        "above",
        20_000.0,
        "zoo: beyond every healthy model; twelve times the heaviest layer of a trained encoder (1,582, and 528 in "
        "another); the convention "
        "of 300 (model-clinic 0.4.2) calls these broken",
    ),
    null=GAUSSIAN,
    message="Excess kurtosis {value:.3g}: the variance of {entries} entries comes from a few of them.",
)
MAX_OVER_RMS = Metric(
    "max_over_rms",
    "1",
    "The largest magnitude over the root mean square.",
    better="lower",
    warn=Limit(
        "above",
        80.0,
        "zoo: beyond every healthy model; more than twice the worst layer of a trained encoder (36 times)",
        of="null",
    ),
    null=GAUSSIAN,
    message="Its largest entry, {largest:.3g}, is {value:.3g} times the rms; {null:.3g} is what chance gives.",
)
MAX_OVER_P99 = Metric(
    "max_over_p99",
    "1",
    "The largest magnitude over the one that 99 % of the entries stay below.",
    better="lower",
    warn=Limit(
        "above",
        200.0,
        "zoo: beyond every healthy model; three times the worst layer of a trained encoder (65); the convention of 100 "
        "for an extreme "
        "spike (weightlens 0.3.0) is nearly reached there",
        inclusive=True,
    ),
    null=GAUSSIAN,
    message="Its largest entry is {value:.3g} times the 99 % quantile {p99:.3g}; chance gives {null:.3g}.",
)
OUTLIER_ENERGY = Metric(
    "outlier_energy",
    "1",
    "Share of the sum of squares that the largest 0.1 % of the entries hold.",
    better="lower",
    warn=Limit(
        "above",
        40.0,
        "zoo: beyond every healthy model; half of the energy, five times the worst layer of a trained encoder",
        of="null",
    ),
    null=GAUSSIAN,
    message="{top} of {entries} entries hold {value:.3g} of the energy; chance gives {null:.3g}.",
)
RTN4_ERROR = Metric(
    "rtn4_error",
    "1",
    "Relative error of rounding to four bits with one symmetric scale per row.",
    better="lower",
    warn=Limit(
        "above",
        4.0,
        "zoo: beyond every healthy model; more than half of the norm is lost, a trained encoder stays below 1.6",
        of="null",
    ),
    null="a Gaussian matrix with as many columns",
    message="Rounding to 4 bits per row loses {value:.3g} of its norm; chance gives {null:.3g}.",
)


def _matrix(outlier: float | None) -> Example:
    import torch

    tensor = torch.randn(128, 128, generator=torch.Generator().manual_seed(0))
    if outlier is not None:
        tensor[5, 7] = outlier
    return Example({"encoder.layer.0.output.dense.weight": tensor}, {"model_type": "bert"})


def healthy() -> Example:
    """Gaussian weights."""
    return _matrix(None)


def collapsed() -> Example:
    """The same with one entry of 1000."""
    return _matrix(1000.0)


@weight_analyzer(
    name="weight-outliers",
    family="integrity",
    title="Outlying weights",
    metrics=(EXCESS_KURTOSIS, MAX_OVER_RMS, MAX_OVER_P99, OUTLIER_ENERGY, RTN4_ERROR),
    accepts=on.matrices(min_entries=4096),
    remedy="Look at the row and column of the largest entry before anything else: a single large weight can be "
    "load-bearing, so never clip it unseen. In training: weight decay or normalisation where the outlying row is. "
    "Before quantising: rotate, scale per channel, or use a grid with a power exponent.",
    references=(
        Reference(
            "Yvinec, Dapogny & Bailly. NUPES: Non-Uniform Post-Training Quantization via Power Exponent Search. 2023",
            "https://arxiv.org/abs/2308.05600",
        ),
        Reference(
            "Yang et al. Unified Normalization for Accelerating and Stabilizing Transformers. 2022",
            "https://arxiv.org/abs/2208.01313",
        ),
        Reference(
            "Ding et al. Dissecting Bit-Level Scaling Laws in Quantizing Vision Generative Models. 2025",
            "https://arxiv.org/abs/2501.06218",
        ),
        Reference("Yu et al. The Super Weight in Large Language Models. 2024", "https://arxiv.org/abs/2411.07191"),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "transposed", "rows_permuted"),
    unmoved_metrics=("excess_kurtosis", "max_over_rms", "max_over_p99", "outlier_energy"),
)
def weight_outliers(weight: "Weight") -> Iterator[Measurement | Skip]:
    """Do a few weights carry the tensor?

    ## Why it matters
    When a few entries hold the energy of a matrix, all others are noise beside them: gradients, normalisation and
    weight decay follow the few, and whoever quantises the layer spends its levels on them and rounds the rest to
    nothing. Outliers grow slowly in training and show here long before they show in the loss.

    ## How to read it
    Every metric stands beside the value of Gaussian entries. Trained layers are commonly at 1 to 5 times it; output
    projections of MLPs in trained encoders reach 36 times in `max_over_rms` and a kurtosis of 1,600 through single
    entries. `rtn4_error` is what naive 4-bit rounding would cost. `within_rows` in the evidence is the kurtosis with
    every row divided by its own rms: if it is near 0, rows differ in scale and there are no outliers.

    ## Limits
    Exact zeros fake outliers (a density ρ alone gives a kurtosis of 3/ρ − 3), so that beyond 1 % of them they are left
    out, which the evidence says. Quantile and energy come from a histogram and are exact to one part in 128. No number
    here tells a load-bearing outlier from a broken one; a flipped bit in the exponent looks the same. With n entries
    the largest can be √n times the rms at most, so that small matrices rarely reach the limits.
    """
    name, known = weight.site.name, kernels.distribution
    if weight.tensor.numel() == 0:
        yield skip(name, "empty tensor")
        return
    found, tails = weight.get(known.moments), weight.get(known.tails)
    if found is None or tails is None:
        yield skip(name, "every entry is zero")
        return
    maximum = known.gaussian_maximum(found.entries)
    facts: dict[str, Any] = {"entries": found.entries, "zeros": found.zeros, "zeros_left_out": found.are_zeros_left_out}
    facts |= {"largest": found.largest, "rms": found.root_mean_square}
    if found.excess_kurtosis is None:
        yield skip(name, "excess_kurtosis: every entry has the same value")
    else:
        spread = {"standard_error": math.sqrt(24.0 / found.entries), "within_rows": found.within_rows}
        yield EXCESS_KURTOSIS.at(name, found.excess_kurtosis, 0.0, **facts, **spread)
    yield MAX_OVER_RMS.at(name, found.max_over_rms, maximum, **facts)
    p99 = found.largest * tails.p99_over_max
    yield MAX_OVER_P99.at(name, 1.0 / tails.p99_over_max, maximum / known.GAUSSIAN_P99, p99=p99, **facts)
    yield OUTLIER_ENERGY.at(name, tails.top_energy, known.top_energy_null(), top=tails.top_entries, **facts)
    columns = weight.matrix.shape[1]
    if columns < _MIN_COLUMNS:
        yield skip(name, f"rtn4_error: {columns} columns < {_MIN_COLUMNS}, rows too short to share a scale")
        return
    yield RTN4_ERROR.at(name, weight.get(known.rtn4_error), known.rtn4_null(columns), columns=columns)
