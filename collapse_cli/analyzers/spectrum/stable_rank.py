"""Stable rank: whether one direction dominates, and whether the scale of the layer is sane."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, on, skip, weight_analyzer

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Weight

GAUSSIAN = "a Gaussian matrix of the same shape"

STABLE_RANK = Metric(
    "stable_rank",
    "directions",
    "‖W‖_F²/σ₁²: the energy in units of the strongest direction.",
    better="higher",
    # not against the null: the value cannot fall below 1, and the null grows with the width
    warn=Limit(
        "below",
        1.1,
        "zoo: 1.00 where deep linear networks collapsed to one direction, 2.7 where three were left, 3.7 and more in "
        "healthy layers and 1.25 in a trained codebook",
    ),
    null=GAUSSIAN,
    message="One direction dominates: the stable rank is {value:.3g}; a random matrix of this shape has {null:.3g}.",
)
NUCLEAR_RANK = Metric(
    "nuclear_rank",
    "directions",
    "Σσ/σ₁: the sum of the singular values in units of the largest.",
    "higher",
    null=GAUSSIAN,
)
NUCLEAR_FROBENIUS = Metric(
    "nuclear_frobenius",
    "directions",
    "(Σσ)²/Σσ²: the number of equally strong directions by strength, where participation_ratio goes by energy.",
    better="higher",
    null=GAUSSIAN,
)
# never judged: σ₁ ÷ null is √(null ÷ value) of the stable rank, which is
SPECTRAL_NORM = Metric(
    "spectral_norm",
    "1",
    "σ₁, the largest factor by which the matrix stretches an input.",
    null="a Gaussian matrix of the same shape and the same root mean square",
)
ROOT_MEAN_SQUARE = Metric(
    "root_mean_square",
    "1",
    "The root mean square of the entries.",
    better="higher",
    warn=Limit("below", 1e-6, "convention: model-clinic 0.4.2, vanishing weights"),
    error=Limit("below", 0.0, "definition: a matrix of zeros passes nothing", inclusive=True),
    message="The root mean square of its {entries} entries is {value:.3g}: next to nothing passes.",
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
    """A Gaussian matrix under one direction of hundred times its strength, and a matrix of zeros."""
    import torch

    generator = torch.Generator().manual_seed(0)
    spike = torch.randn(64, 1, generator=generator) @ torch.randn(1, 64, generator=generator)
    return Example(
        {
            "encoder.layer.0.attention.self.query.weight": torch.randn(64, 64, generator=generator) + 20 * spike,
            "encoder.layer.0.intermediate.dense.weight": torch.zeros(128, 64),
        },
        config={"model_type": "bert", "hidden_size": 64, "num_attention_heads": 4},
    )


@weight_analyzer(
    name="stable-rank",
    family="spectrum",
    title="Stable rank and scale",
    metrics=(STABLE_RANK, NUCLEAR_RANK, NUCLEAR_FROBENIUS, SPECTRAL_NORM, ROOT_MEAN_SQUARE),
    accepts=on.matrices(8),
    remedy="Control the spectral norm (normalisation, reparametrisation, a lower rate, clipping), and find the data or "
    "the token behind the dominating direction; a layer of zeros was never trained or was cleared: restore it.",
    references=(
        Reference(
            "Li et al. Merge, Then Compress: Demystify Efficient SMoE with Hints from Its Routing Policy. 2023",
            "https://arxiv.org/abs/2310.01334",
        ),
        Reference(
            "Xu et al. Trained Rank Pruning for Efficient Deep Neural Networks. 2018",
            "https://arxiv.org/abs/1812.02402",
        ),
        Reference(
            "Zhai et al. Stabilizing Transformer Training by Preventing Attention Entropy Collapse. 2023",
            "https://arxiv.org/abs/2303.06296",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "transposed", "rotated", "rows_permuted"),
    unmoved_metrics=("stable_rank", "nuclear_rank", "nuclear_frobenius"),
)
def stable_rank(weight: "Weight") -> Iterator[Measurement | Skip]:
    """Does one direction dominate this matrix, and is its scale sane?

    ## Why it matters
    When one direction carries most of the energy, every input leaves the layer along it and the rest of the layer's
    width is hardly heard. The largest singular value is also what bounds the growth of activations and gradients
    through the layer, and runaway values of it precede divergence.

    ## How to read it
    The stable rank lies between 1 (a single direction) and the smaller side. A Gaussian matrix has about a quarter of
    its side if square, and more the longer it is; trained layers commonly have 0.05 to 0.5 of that. `nuclear_rank` and
    `nuclear_frobenius` count weaker directions too. `spectral_norm` against its null says how far the strongest
    direction stands out of noise of the same energy.

    ## Limits
    The stable rank sees one spike only: two equal spikes give 2 and may hide a collapse just as well, so read it with
    `effective-rank`. At finite size a Gaussian matrix stands 1 to 5 % above the null. Merged experts become
    low-dimensional without being broken. Sides beyond 8192 get σ₁ from a Lanczos iteration and no nuclear forms.
    """
    name, (rows, columns) = weight.site.name, weight.matrix.shape
    sigma = weight.get(kernels.spectrum.spectral_norm)
    frobenius = weight.get(kernels.spectrum.frobenius)
    rms = weight.get(kernels.spectrum.root_mean_square)
    nulls = kernels.random_matrix
    yield ROOT_MEAN_SQUARE.at(name, rms, entries=rows * columns)
    yield SPECTRAL_NORM.at(name, sigma, rms * (rows**0.5 + columns**0.5))
    value = (frobenius / sigma) ** 2 if sigma > 0.0 else 0.0
    yield STABLE_RANK.at(name, value, nulls.stable_rank_null(rows, columns), side=min(rows, columns), sigma_max=sigma)
    if not kernels.spectrum.has_exact_spectrum(weight):
        reason = f"min side {min(rows, columns)} > {kernels.spectrum.MAX_EXACT_SIDE}, no exact spectrum"
        yield skip(name, f"nuclear_rank, nuclear_frobenius: {reason}")
        return
    nuclear = float(weight.get(kernels.spectrum.singular_values).sum())
    by_sigma, by_frobenius = (nuclear / sigma, (nuclear / frobenius) ** 2) if sigma > 0.0 else (0.0, 0.0)
    yield NUCLEAR_RANK.at(name, by_sigma, nulls.nuclear_rank_null(rows, columns))
    yield NUCLEAR_FROBENIUS.at(name, by_frobenius, nulls.nuclear_frobenius_null(rows, columns))
