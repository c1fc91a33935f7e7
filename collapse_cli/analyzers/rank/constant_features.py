"""Constant features: outputs that no longer depend on the input."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

#: Fewer rows are read and not judged on: a handful of equal inputs is no collapse.
FEW_ROWS = 10
#: Rounding of constant values is within half an ulp of them, whose square is three times Σulp²/12.
ROUNDING_BOUND = 3.0

SPREAD_OVER_ROUNDING = Metric(
    "spread_over_rounding",
    "1",
    "The squared distance of all rows from their mean over what rounding to the stored precision adds, Σulp²/12.",
    better="higher",
    error=Limit(
        "below", ROUNDING_BOUND, "definition: rounding is at most ulp/2, and (ulp/2)² = 3·ulp²/12", inclusive=True
    ),
    null="at most 3 for equal rows and rounding",
    message="All {rows} rows are one vector: they differ by {value:.3g} of what rounding alone would add.",
)
L2_STD_SHARE = Metric(
    "l2_std_share",
    "1",
    "√D times the mean standard deviation of the features of rows of unit norm.",
    better="higher",
    warn=Limit(
        "below",
        0.01,
        "zoo: 0.8 in sound embeddings, 0.001 where half of what bfloat16 keeps of the neighbours is lost; 0.1 for the "
        "last layer of GPT-2, which works at a mean cosine of 0.99 (Ethayarajh 2019)",
    ),
    error=Limit("below", 0.001, "zoo: below 1e-6 where neighbours are at chance, 0.00104 or more before"),
    null="1 for isotropic rows",
    message="The {rows} directions differ by {value:.3g} of what isotropic ones do (1 is isotropic, 0 one direction).",
)
CONSTANT_DIM_SHARE = Metric(
    "constant_dim_share",
    "1",
    "The share of features whose values differ by no more than rounding.",
    better="lower",
    null="0",
)
DEAD_DIM_SHARE = Metric(
    "dead_dim_share", "1", "The share of features that are exactly zero in every row.", better="lower", null="0"
)
ZERO_ROW_SHARE = Metric("zero_row_share", "1", "The share of rows that are exactly zero.", better="lower", null="0")
DUPLICATE_RATE = Metric(
    "duplicate_rate", "1", "One minus the number of different rows over the number of rows.", better="lower", null="0"
)


def healthy() -> Example:
    """Gaussian rows, as bfloat16."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return Example({"encoder/features": torch.randn(128, 64, generator=generator).bfloat16()}, metadata={})


def collapsed() -> Example:
    """One vector with noise far below its rounding step, as bfloat16."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(64, generator=generator) + 1e-4 * torch.randn(128, 64, generator=generator)
    return Example({"encoder/features": rows.bfloat16()}, metadata={})


@activation_analyzer(
    name="constant-features",
    family="rank",
    title="Constant features",
    metrics=(
        SPREAD_OVER_ROUNDING,
        L2_STD_SHARE,
        CONSTANT_DIM_SHARE,
        DEAD_DIM_SHARE,
        ZERO_ROW_SHARE,
        DUPLICATE_RATE,
    ),
    accepts=on.points("features", says="hook points with features"),
    remedy="Look for a stop-gradient, predictor, moving average or negatives that are missing or broken, a learning "
    "rate that is too high, and a missing batch normalisation in the projector. Check first that preprocessing passes "
    "the input on and that the hook sits where you think.",
    references=(
        Reference(
            "Chen & He. Exploring Simple Siamese Representation Learning. 2020", "https://arxiv.org/abs/2011.10566"
        ),
        Reference(
            "Zbontar et al. Barlow Twins: Self-Supervised Learning via Redundancy Reduction. 2021",
            "https://arxiv.org/abs/2103.03230",
        ),
        Reference(
            "Ethayarajh. How Contextual are Contextualized Word Representations? Comparing the Geometry of BERT, "
            "ELMo, and GPT-2 Embeddings. 2019",
            "https://arxiv.org/abs/1909.00512",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("samples_permuted", "scaled"),
    needs=("moments", "extremes"),
)
def constant_features(point: "Activations") -> Iterator[Measurement | Skip]:
    """Have all outputs, or some of them, become constant?

    ## Why it matters
    A self-supervised loss without negatives is satisfied by one vector for every input: complete collapse. The loss
    then looks excellent and the features carry nothing. Single constant features are the milder form: width that is
    paid for and does not work.

    ## How to read it
    `spread_over_rounding` asks whether the rows differ by more than storing them does: up to 3, no input is told from
    another. `l2_std_share` is SimSiam's standard deviation of normalised features, times √D: 1 when directions are
    isotropic, 0 when all are one. The shares count features that are constant or exactly zero, and rows that are zero
    or repeated; pruned or padded widths and repeated inputs are legitimate reasons for them.

    ## Limits
    Collapse onto two opposite vectors passes (share about 0.8): `effective-rank-features` and `isotropy` see it.
    `l2_std_share` cannot exceed 1 by much, so compare the share and not the raw deviation. Rounding is taken for that
    of the coarsest format that holds all values: bfloat16 values saved as float32 count as bfloat16. In half precision
    an offset far above the spread makes variance out of rounding. Zero rows have no direction and are left out of
    `l2_std_share`. Below 10 rows the two spreads are not reported.
    """
    name, extremes, rows = point.site.name, point.read("extremes"), point.finite_rows
    if rows < 2 or extremes.minimum.numel() == 0:
        yield skip(name, "fewer than 2 finite rows")
        return
    facts = point.get(kernels.feature_spectrum.facts)
    if rows < FEW_ROWS:
        yield skip(name, f"spread_over_rounding, l2_std_share: {rows} rows, fewer than {FEW_ROWS}")
    else:
        yield from _spreads(point)
    scatter, rounding = point.read("moments").centred_scatter.diagonal(), extremes.squared_rounding
    is_constant = scatter <= ROUNDING_BOUND * rounding
    constant = [int(place) for place in is_constant.nonzero().flatten()[:16]]
    yield CONSTANT_DIM_SHARE.at(name, float(is_constant.double().mean()), 0.0, **facts, first=constant)
    is_dead = extremes.zeros == extremes.count
    dead = [int(place) for place in is_dead.nonzero().flatten()[:16]]
    yield DEAD_DIM_SHARE.at(name, float(is_dead.double().mean()), 0.0, **facts, first=dead)
    yield ZERO_ROW_SHARE.at(name, extremes.zero_rows / extremes.count, 0.0, **facts, zero_rows=extremes.zero_rows)
    different = min(extremes.distinct.number, extremes.count)
    yield DUPLICATE_RATE.at(
        name, 1.0 - different / extremes.count, 0.0, **facts, different=different, exact=extremes.distinct.is_exact
    )


def _spreads(point: "Activations") -> Iterator[Measurement | Skip]:
    name, extremes, moments = point.site.name, point.read("extremes"), point.read("moments")
    facts = point.get(kernels.feature_spectrum.facts)
    rounding = float(extremes.squared_rounding.sum())
    spread = max(float(moments.centred_scatter.trace()), 0.0)
    # no rounding at all means that every value is zero
    ratio = spread / rounding if rounding > 0.0 else 0.0
    yield SPREAD_OVER_ROUNDING.at(
        name, ratio, ROUNDING_BOUND, **facts, spread=spread, rounding=rounding, mantissa_bits=extremes.mantissa_bits
    )
    count = moments.unit_count
    if count < FEW_ROWS:
        yield skip(name, f"l2_std_share: {count} rows that are not zero, fewer than {FEW_ROWS}")
        return
    variances = (moments.unit_gram.diagonal() - moments.unit_sum.square() / count).clamp_min(0.0) / (count - 1)
    deviation = float(variances.sqrt().mean())
    share = deviation * variances.numel() ** 0.5
    yield L2_STD_SHARE.at(name, share, 1.0, **facts, mean_std=deviation, unit_rows=count)
