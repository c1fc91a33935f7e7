"""Effective rank: in how many directions a matrix really acts."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, on, skip, weight_analyzer

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Weight

GAUSSIAN = "a Gaussian matrix of the same shape"

EFFECTIVE_RANK_LAMBDA = Metric(
    "effective_rank_lambda",
    "directions",
    "The exponential of the entropy of the energies λ/Σλ: the number of equally strong directions with that entropy.",
    better="higher",
    warn=Limit(
        "below",
        0.01,
        "zoo: beyond every healthy model; a sixth of the lowest table of a trained encoder (0.056)",
        of="null",
    ),
    null=GAUSSIAN,
    message="Its energy lies in {value:.3g} of {side} directions; a random matrix of this shape uses {null:.3g}.",
)
EFFECTIVE_RANK_SIGMA = Metric(
    "effective_rank_sigma",
    "directions",
    "The same of the singular values σ/Σσ above the noise floor, which hears weak directions that λ drowns.",
    better="higher",
    warn=Limit(
        "below",
        0.1,
        "zoo: 0.06 where weight decay left three of 64 directions, 0.78 and more in healthy layers and 0.27 in a "
        "position table of a trained encoder",
        of="null",
    ),
    error=Limit(
        "below",
        0.04,
        "zoo: 0.02 where weight decay left one of 64 directions and 0.06 where it left three, 0.78 and more in healthy "
        "layers; rank 8 of 256 gives 0.039 at most",
        of="null",
    ),
    null=GAUSSIAN,
    message="Acts in {value:.3g} of {side} directions above rounding; a random matrix of this shape in {null:.3g}.",
)
PARTICIPATION_RATIO = Metric(
    "participation_ratio",
    "directions",
    "(Σλ)²/Σλ²: the number of equally strong directions, counting the strong ones most.",
    better="higher",
    warn=Limit(
        "below",
        0.004,
        "zoo: beyond every healthy model; a fourteenth of the lowest table of a trained encoder (0.056)",
        of="null",
    ),
    null=GAUSSIAN,
    message="{value:.3g} of {side} directions carry its energy; in a random matrix of this shape {null:.3g} do.",
)
ENERGY_RANK_90 = Metric(
    "energy_rank_90", "directions", "The number of leading directions that hold 90 % of the energy.", null=GAUSSIAN
)
ENERGY_RANK_99 = Metric(
    "energy_rank_99", "directions", "The number of leading directions that hold 99 % of the energy.", null=GAUSSIAN
)
NUMERICAL_RANK = Metric(
    "numerical_rank",
    "directions",
    "The number of singular values that rounding to the stored precision could not have made.",
    better="higher",
    error=Limit("below", 1.0, "definition: the layer passes one number or none", inclusive=True),
    null="full rank",
    message="Has numerical rank {value:.0f} of {side}: whatever comes in, at most one number comes out.",
)
RANK_1E3 = Metric(
    "rank_1e3",
    "directions",
    "The number of singular values above a thousandth of the largest.",
    better="higher",
)


def healthy() -> Example:
    """A Gaussian square and a Gaussian rectangle."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return Example(
        {
            "encoder.layer.0.attention.self.query.weight": 0.05 * torch.randn(64, 64, generator=generator),
            "encoder.layer.0.intermediate.dense.weight": 0.05 * torch.randn(128, 64, generator=generator),
        },
        config={"model_type": "bert", "hidden_size": 64, "num_attention_heads": 4},
    )


def collapsed() -> Example:
    """One layer of rank 8 at width 256, and one whose rows are all the same."""
    import torch

    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(256, 8, generator=generator), torch.randn(8, 256, generator=generator)
    return Example(
        {
            "encoder.layer.0.attention.self.query.weight": 0.02 * factors[0] @ factors[1],
            "encoder.layer.0.attention.output.dense.weight": torch.randn(1, 256, generator=generator).repeat(256, 1),
        },
        config={"model_type": "bert", "hidden_size": 256, "num_attention_heads": 4},
    )


@weight_analyzer(
    name="effective-rank",
    family="spectrum",
    title="Effective rank",
    metrics=(
        EFFECTIVE_RANK_LAMBDA,
        EFFECTIVE_RANK_SIGMA,
        PARTICIPATION_RATIO,
        ENERGY_RANK_90,
        ENERGY_RANK_99,
        NUMERICAL_RANK,
        RANK_1E3,
    ),
    accepts=on.matrices(8),
    remedy="Train with a longer warm-up and less weight decay on this matrix, and give the lost directions a new "
    "orthogonal start (in a fine-tune: restore them from the base). If low rank is wanted, store it as two factors "
    "of rank energy_rank_99.",
    references=(
        Reference(
            "Roy & Vetterli. The effective rank: a measure of effective dimensionality. EUSIPCO 2007",
            "https://www.eurasip.org/Proceedings/Eusipco/Eusipco2007/Papers/a5p-h05.pdf",
        ),
        Reference("Page. Average Entropy of a Subsystem. 1993", "https://arxiv.org/abs/gr-qc/9305007"),
        Reference(
            "Sun et al. SVFit: Parameter-Efficient Fine-Tuning of Large Pre-Trained Models Using Singular Values. 2024",
            "https://arxiv.org/abs/2409.05926",
        ),
        Reference(
            "Guo, Wang & Kankanhalli. PELA: Learning Parameter-Efficient Models with Low-Rank Approximation. 2023",
            "https://arxiv.org/abs/2310.10700",
        ),
        Reference(
            "Xu et al. Trained Rank Pruning for Efficient Deep Neural Networks. 2018",
            "https://arxiv.org/abs/1812.02402",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "transposed", "rotated", "rows_permuted"),
    # what is counted against the noise floor moves with the largest row and with the digits really used
    unmoved_metrics=("effective_rank_lambda", "participation_ratio", "energy_rank_90", "energy_rank_99"),
)
def effective_rank(weight: "Weight") -> Iterator[Measurement | Skip]:
    """In how many directions does this matrix really act?

    ## Why it matters
    A matrix of rank r passes at most r numbers on, however wide it is. Training can lose directions without any sign
    in the loss: weight decay shrinks what gradients no longer reach, a diverging step leaves one direction that drowns
    the others. What is lost here cannot be repaired by the layers behind it.

    ## How to read it
    Compare with the null, the value of a Gaussian matrix of the same shape. Trained layers commonly stand at 0.3 to
    0.9 of it; at 0.01 of it the layer is a handful of directions. `effective_rank_lambda` weighs directions by energy,
    `effective_rank_sigma` by strength, and is therefore larger; `participation_ratio` mostly counts the strongest.
    `numerical_rank` counts what rounding could not have made, and `energy_rank_99` is the rank that a compression to
    99 % of the energy would keep. The evidence holds the spectrum and the edge that pure noise of this energy reaches.

    ## Limits
    Three unrelated numbers are called effective rank in the literature: of σ, of λ, and Σσ/σ₁ (`nuclear_rank` of
    `stable-rank`). Embeddings, position tables, routers and factorised designs are low by role: compare them with
    their like and not with chance; the limits are set so low that a healthy position table passes them. A fused qkv
    that could not be split hides three spectra. The noise floor bounds rounding from above, so a graded matrix can have
    more directions than `numerical_rank` says; in formats so coarse that the floor says nothing it is not reported.
    """
    name, (rows, columns) = weight.site.name, weight.matrix.shape
    side = min(rows, columns)
    if not kernels.spectrum.has_exact_spectrum(weight):
        yield from _beyond_the_exact_spectrum(weight, side)
        return
    values = weight.get(kernels.spectrum.singular_values)
    energies = values.square()
    nulls = kernels.random_matrix
    edge = weight.get(kernels.spectrum.root_mean_square) * (rows**0.5 + columns**0.5)
    yield EFFECTIVE_RANK_LAMBDA.at(
        name,
        kernels.spectrum.entropy_rank(energies),
        nulls.effective_rank_lambda_null(rows, columns),
        side=side,
        spectrum=kernels.spectrum.spectrum_curve(values, edge),
    )
    ratio_null = nulls.participation_ratio_null(rows, columns)
    yield PARTICIPATION_RATIO.at(name, kernels.spectrum.participation_ratio(energies), ratio_null, side=side)
    for metric, share in ((ENERGY_RANK_90, 0.90), (ENERGY_RANK_99, 0.99)):
        rank = kernels.spectrum.energy_rank(energies, share)
        yield metric.at(name, rank, nulls.energy_rank_null(rows, columns, share), side=side)
    yield RANK_1E3.at(name, int((values > 1e-3 * values[0]).sum()), side=side)
    yield from _above_the_floor(weight, side)


def _above_the_floor(weight: "Weight", side: int) -> Iterator[Measurement | Skip]:
    name, floor = weight.site.name, weight.get(kernels.spectrum.noise_floor)
    if not weight.get(kernels.spectrum.is_above_rounding):
        yield skip(name, "effective_rank_sigma, numerical_rank: rounding in this format could have made most of it")
        return
    values = weight.get(kernels.spectrum.singular_values)
    rank = weight.get(kernels.spectrum.numerical_rank)
    yield EFFECTIVE_RANK_SIGMA.at(
        name,
        kernels.spectrum.entropy_rank(values[:rank]),
        kernels.random_matrix.effective_rank_sigma_null(*weight.matrix.shape),
        side=side,
        floor=floor,
        above_floor=rank,
    )
    yield NUMERICAL_RANK.at(name, rank, side, side=side, floor=floor, sigma_max=float(values[0]))


def _beyond_the_exact_spectrum(weight: "Weight", side: int) -> Iterator[Measurement | Skip]:
    squares = weight.get(kernels.spectrum.squared_gram_norm)
    ratio = weight.get(kernels.spectrum.frobenius) ** 4 / squares if squares > 0.0 else 0.0
    null = kernels.random_matrix.participation_ratio_null(*weight.matrix.shape)
    yield PARTICIPATION_RATIO.at(weight.site.name, ratio, null, side=side)
    yield skip(
        weight.site.name,
        "effective_rank_lambda, effective_rank_sigma, energy_rank_90, energy_rank_99, numerical_rank, rank_1e3: "
        f"min side {side} > {kernels.spectrum.MAX_EXACT_SIDE}, no exact spectrum",
    )
