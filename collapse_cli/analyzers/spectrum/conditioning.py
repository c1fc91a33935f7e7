"""Conditioning: how far the strongest and the weakest direction lie apart."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Role, Skip, on, skip, weight_analyzer

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Weight

# never judged: κ of a healthy square matrix is heavy-tailed, and in few bits the floor bounds it at about 300
LOG10_CONDITION = Metric(
    "log10_condition",
    "dex",
    "log10 of σ₁/σ_m, with σ_m not below the noise floor.",
    better="lower",
    null="a Gaussian matrix of the same shape",
)
BELOW_FLOOR_SHARE = Metric(
    "below_floor_share",
    "1",
    "The share of singular values that rounding to the stored precision could have made.",
    better="lower",
    warn=Limit("above", 0.5, "zoo: 0.54 in layers grown fourfold by copying, 0 in healthy ones"),
    null="none",
    message="{below} of {side} singular values are not above rounding: these directions carry nothing.",
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
    """A layer of rank 4 at width 64."""
    import torch

    generator = torch.Generator().manual_seed(0)
    factors = torch.randn(64, 4, generator=generator), torch.randn(4, 64, generator=generator)
    return Example(
        {"encoder.layer.0.attention.self.query.weight": 0.02 * factors[0] @ factors[1]},
        config={"model_type": "bert", "hidden_size": 64, "num_attention_heads": 4},
    )


@weight_analyzer(
    name="conditioning",
    family="spectrum",
    title="Conditioning",
    metrics=(LOG10_CONDITION, BELOW_FLOOR_SHARE),
    accepts=on.matrices(8, but=frozenset({Role.EMBEDDING, Role.POSITION})),
    remedy="Regularise towards orthogonality or start orthogonal, normalise the inputs of the layer, and decay less "
    "the weights whose directions are dying.",
    references=(
        Reference(
            "Edelman. Eigenvalues and condition numbers of random matrices. SIAM Journal on Matrix Analysis and "
            "Applications 1988",
            "https://doi.org/10.1137/0609045",
        ),
        Reference(
            "Song et al. Householder Projector for Unsupervised Latent Semantics Discovery. 2023",
            "https://arxiv.org/abs/2307.08012",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "transposed"),
)
def conditioning(weight: "Weight") -> Iterator[Measurement | Skip]:
    """How far apart are the strongest and the weakest direction of this matrix?

    ## Why it matters
    Along its weakest direction a layer hardly answers, and gradients that come back along it hardly arrive. A matrix
    whose weakest directions have sunk into the rounding of its number format has lost them for good: nothing that is
    stored distinguishes them from nothing.

    ## How to read it
    `log10_condition` is a number of decades: 0 for an orthogonal matrix, 0.5 for a Gaussian matrix four times as long
    as wide. Evidence says "≥" when the smallest singular value is not above the noise floor, so that the true value may
    be larger. `below_floor_share` says how many such directions there are; 0 is normal.

    ## Limits
    The condition of a square Gaussian matrix grows with its side and is heavy-tailed (half of all 64×64 matrices are
    beyond 225): compare logarithms between layers of one shape, never means, and expect trained squares one to two
    decades above. For nearly square shapes the null interpolates. The floor bounds rounding from above: a graded matrix
    may hold its small singular values more exactly than that, and formats with few bits end near two decades.
    """
    name, (rows, columns) = weight.site.name, weight.matrix.shape
    if not kernels.spectrum.has_exact_spectrum(weight):
        limit = kernels.spectrum.MAX_EXACT_SIDE
        yield skip(
            name, f"log10_condition, below_floor_share: min side {min(rows, columns)} > {limit}, no exact spectrum"
        )
        return
    if not weight.get(kernels.spectrum.is_above_rounding):
        yield skip(name, "log10_condition, below_floor_share: rounding in this format could have made most of it")
        return
    values = weight.get(kernels.spectrum.refined_singular_values)
    floor, side = weight.get(kernels.spectrum.noise_floor), values.numel()
    below = int((values <= floor).sum())
    yield BELOW_FLOOR_SHARE.at(name, below / side, 0.0, below=below, side=side, floor=floor)
    largest, smallest = float(values[0]), float(values[-1])
    if largest == 0.0:
        yield skip(name, "log10_condition: all zero")
        return
    yield LOG10_CONDITION.at(
        name,
        math.log10(largest / max(smallest, floor)),
        math.log10(kernels.random_matrix.condition_null(rows, columns)),
        relation="≥" if smallest <= floor else "=",
        sigma_max=largest,
        sigma_min=smallest,
        floor=floor,
    )
