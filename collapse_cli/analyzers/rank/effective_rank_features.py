"""Effective rank of features: how many dimensions carry the variance, by each standard count."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

#: Fewer rows can be of rank one for want of rows.
FEW_ROWS = 10
#: Below it the debiased participation ratio scatters by more than its bias.
FEW_ROWS_DEBIASED = 50
GAUSSIAN = "isotropic Gaussian rows, as many and as wide"

ERANK = Metric(
    "erank",
    "directions",
    "The exponential of the entropy of λ/Σλ, λ the eigenvalues of the covariance.",
    better="higher",
    null=GAUSSIAN,
)
PARTICIPATION_RATIO = Metric(
    "participation_ratio",
    "directions",
    "(Σλ)²/Σλ²: the number of equally strong directions, counting the strong ones most.",
    better="higher",
    null=GAUSSIAN,
)
PARTICIPATION_RATIO_DEBIASED = Metric(
    "participation_ratio_debiased",
    "directions",
    "The participation ratio with the bias taken off that few rows give it.",
    better="higher",
    null="the width, for isotropic Gaussian rows",
)
STABLE_RANK = Metric(
    "stable_rank",
    "directions",
    "Σλ/λ₁: how often the strongest direction would fit into the variance.",
    better="higher",
    null=GAUSSIAN,
)
RANK_95 = Metric(
    "rank_95",
    "directions",
    "The least number of directions that hold 95 % of the variance.",
    better="higher",
    null=GAUSSIAN,
)
RANK_ONE_OVER_ROUNDING = Metric(
    "rank_one_over_rounding",
    "1",
    "What the best rank-one matrix leaves of the features, over what rounding to the stored precision adds, Σulp²/12.",
    better="higher",
    error=Limit(
        "below",
        3.0,
        "definition: the best rank-one matrix leaves no more than rounding (Eckart & Young 1936), at most ulp/2 each",
        inclusive=True,
    ),
    null="at most 3 for rank one and rounding",
    message="All {rows} rows are multiples of one vector: what is left is {value:.3g} of what rounding would add.",
)


def healthy() -> Example:
    """Gaussian rows."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return Example({"encoder/features": torch.randn(256, 32, generator=generator)}, metadata={})


def collapsed() -> Example:
    """Multiples of one vector, as bfloat16."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(256, 1, generator=generator) @ torch.randn(1, 64, generator=generator)
    return Example({"encoder/features": rows.bfloat16()}, metadata={})


@activation_analyzer(
    name="effective-rank-features",
    family="rank",
    title="Effective rank of features",
    metrics=(
        ERANK,
        PARTICIPATION_RATIO,
        PARTICIPATION_RATIO_DEBIASED,
        STABLE_RANK,
        RANK_95,
        RANK_ONE_OVER_ROUNDING,
    ),
    accepts=on.points("features", says="hook points with features"),
    remedy="For self-supervised encoders: variance and redundancy terms, more views, an intact stop-gradient. For "
    "classifiers ask class geometry first, low rank is what training drives at. When fine-tuning, updates kept "
    "orthogonal to the pre-trained subspace keep its rank.",
    references=(
        Reference(
            "Roy & Vetterli. The effective rank: a measure of effective dimensionality. EUSIPCO 2007",
            "https://www.eurasip.org/Proceedings/Eusipco/Eusipco2007/Papers/a5p-h05.pdf",
        ),
        Reference("Page. Average Entropy of a Subsystem. 1993", "https://arxiv.org/abs/gr-qc/9305007"),
        Reference(
            "Srivastava. Some Tests Concerning the Covariance Matrix in High Dimensional Data. Journal of the Japan "
            "Statistical Society 2005",
            "https://doi.org/10.14490/jjss.35.251",
        ),
        Reference(
            "Yan et al. Orthogonal Subspace Decomposition for Generalizable AI-Generated Image Detection. 2024",
            "https://arxiv.org/abs/2411.15633",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("samples_permuted", "scaled", "features_rotated", "shifted"),
    # bfloat16 rows are rounded anew by a rotation or a shift, so that a collapsed dump gains noise
    unmoved_metrics=("stable_rank", "rank_95"),
    needs=("moments", "extremes", "sample"),
)
def effective_rank_features(point: "Activations") -> Iterator[Measurement | Skip]:
    """How many dimensions carry the variance of the features, by each standard count?

    ## Why it matters
    Width says how many numbers are stored, not how many are independent. Features that fill a handful of directions
    cannot be told apart by any linear readout beyond these, and a sudden fall between two layers or two checkpoints
    is where information is lost.

    ## How to read it
    Every count stands beside its null, what the same number of isotropic Gaussian rows gives: no count can exceed the
    rows less one. `participation_ratio` weighs the head of the spectrum, `erank` the tail, `stable_rank` only the
    first direction; `participation_ratio_debiased` takes the effect of few rows off and compares across sample sizes.
    `rank_one_over_rounding` up to 3 means that the rows are multiples of one vector and that all the rest is rounding.
    The evidence of `erank` holds the spectrum.

    ## Limits
    Only rank one is judged: low rank is right under neural collapse, and a few outlier features take most of the
    variance of large language models that work well. All counts but `rank_one_over_rounding` are about the mean; the
    stable rank of features with an offset, not centred, is near 1 whatever the rest does. Below 50 rows the debiased
    count scatters more than it corrects. Rows that are tokens of one sequence are not independent, and the null is
    then too high. Where float32 rounding is below what sums resolve, rank one is asked of the sampled rows.
    """
    name, moments = point.site.name, point.read("moments")
    rows, width = moments.count, moments.shift.numel()
    if rows < 3 or width == 0:
        yield skip(name, "fewer than 3 finite rows")
        return
    spectrum = kernels.feature_spectrum
    values = point.get(spectrum.covariance_eigenvalues)
    if float(values[0]) == 0.0:
        yield skip(name, "all rows are equal")
        return
    facts = point.get(spectrum.facts) | {"centred": True}
    yield from _counts(point, facts)
    if rows < FEW_ROWS:
        yield skip(name, f"rank_one_over_rounding: {rows} rows, fewer than {FEW_ROWS}")
    elif width < 2:
        yield skip(name, "rank_one_over_rounding: one feature is of rank one")
    else:
        left, taken_from = spectrum.rank_one_over_rounding(point)
        bits = point.read("extremes").mantissa_bits
        facts |= {"centred": False, "mantissa_bits": bits, "taken_from": taken_from}
        yield RANK_ONE_OVER_ROUNDING.at(name, left, 3.0, **facts)


def _counts(point: "Activations", facts: dict[str, object]) -> Iterator[Measurement | Skip]:
    name, moments, spectrum = point.site.name, point.read("moments"), kernels.feature_spectrum
    values, count, nulls = point.get(spectrum.covariance_eigenvalues), kernels.spectrum, kernels.random_matrix
    degrees, width = moments.count - 1, moments.shift.numel()
    yield ERANK.at(
        name,
        count.entropy_rank(values),
        nulls.effective_rank_lambda_null(degrees, width),
        **facts,
        eigenvalues=spectrum.curve(values),
    )
    ratio_null = spectrum.participation_ratio_null(moments.count, width)
    yield PARTICIPATION_RATIO.at(name, count.participation_ratio(values), ratio_null, **facts)
    debiased = kernels.isotropy.debiased_participation_ratio(moments.centred_scatter, moments.count)
    if debiased is None:
        yield skip(name, "participation_ratio_debiased: the rows are too few to estimate Σλ²")
    else:
        few = moments.count < FEW_ROWS_DEBIASED
        yield PARTICIPATION_RATIO_DEBIASED.at(name, debiased, float(width), **facts, few_rows=few)
    yield STABLE_RANK.at(
        name, float(values.sum() / values[0]), nulls.stable_rank_null(degrees, width), **facts, top=float(values[0])
    )
    ranks = {f"rank_{share}": count.energy_rank(values, share / 100) for share in (90, 99)}
    yield RANK_95.at(
        name, count.energy_rank(values, 0.95), nulls.energy_rank_null(degrees, width, 0.95), **facts, **ranks
    )
