"""Token similarity: whether the tokens of a sequence have become copies of one another."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.accumulators import TokenMoments
    from collapse_cli.kernels.views import Activations

#: Below it the spread between sequences says nothing about the layer.
MIN_SEQUENCES = 16
#: 1 − null that rounding of unit rows in float64 leaves where all tokens of all sequences are one.
ROUNDING = 1e-9

MEAN_COSINE = Metric(
    "mean_cosine",
    "1",
    "The cosine of two tokens of one sequence, averaged over pairs and then over sequences.",
    better="lower",
    null="tokens of different sequences",
)
COSINE_EXCESS = Metric(
    "cosine_excess",
    "1",
    "(mean cosine − null)/(1 − null): what tokens of one sequence share beyond what all tokens share.",
    better="lower",
    warn=Limit(
        "above",
        0.995,
        "zoo: up to .75 after the last layer of sound encoders, .999 and more where skips are weak; the tokens differ "
        "by 7 % of their length",
    ),
    error=Limit(
        "above",
        0.99999,
        "zoo: 1 − 1e-14 where depth has neither skips nor perceptrons; tokens differ by less than the step of "
        "bfloat16, .4 % of their length",
    ),
    null="tokens of a sequence are as far apart as those of different sequences",
    message="The tokens of a sequence are nearly copies of one another: excess cosine {value:.6g}, mean cosine "
    "{mean_cosine:.6g}, against {between_cosine:.3g} between sequences ({sequences} sequences).",
)
RESIDUAL = Metric(
    "residual",
    "1",
    "‖X − 1x̄ᵀ‖/‖X‖, the part of a sequence that is not the same for all its tokens, averaged over sequences.",
    better="higher",
    error=Limit("below", 1.2e-7, "closed form: tokens equal to the rounding of float32, 2⁻²³"),
    null="zero-mean independent tokens, √((T − 1)/T)",
    message="All tokens of a sequence are the same vector: what differs between them is {value:.2g} of their length "
    "({sequences} sequences).",
)
HC_DC_RATIO = Metric(
    "hc_dc_ratio",
    "1",
    "‖HC‖/‖DC‖: the strength of what differs between tokens over that of their mean, averaged over sequences.",
    better="higher",
    null="zero-mean independent tokens, √(T − 1)",
)
HIGH_FREQUENCY = Metric(
    "high_frequency",
    "1",
    "Mean over channels of the log amplitude at the highest diagonal frequency of the grid minus that of the mean.",
    better="higher",
    null="white tokens, ½ log 2",
)
OBJECT_AUC = Metric(
    "object_auc",
    "1",
    "The chance that two tokens of one object are closer than two tokens of different objects of the sequence.",
    better="higher",
    null="tokens that do not know their object",
)


def healthy() -> Example:
    """Tokens with a content of their own about the content of their sequence and about one common direction."""
    return _tokens(own=1.0, shared=0.5)


def collapsed() -> Example:
    """Every token of a sequence is the same vector, another one in every sequence."""
    return _tokens(own=0.0, shared=1.0)


def _tokens(own: float, shared: float) -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    sequences, side, width = 24, 4, 32
    labels = torch.arange(side * side).remainder(4).repeat(sequences, 1)
    tokens = own * torch.randn(sequences, side * side, width, generator=generator)
    objects = own * torch.randn(sequences, 4, width, generator=generator)
    tokens += objects.gather(1, labels[:, :, None].expand(-1, -1, width))
    tokens += shared * torch.randn(sequences, 1, width, generator=generator) + 0.3
    return Example(
        {"encoder.layer.3/tokens": tokens, "encoder.layer.3/token_labels": labels}, metadata={"grid": f"{side}x{side}"}
    )


@activation_analyzer(
    name="token-similarity",
    family="tokens",
    title="Token similarity",
    metrics=(MEAN_COSINE, COSINE_EXCESS, RESIDUAL, HC_DC_RATIO, HIGH_FREQUENCY, OBJECT_AUC),
    accepts=on.points("tokens", says="hook points with tokens"),
    needs=("token_moments",),
    remedy="Keep skip connections and MLPs around attention; rescale the high-pass part of attention (AttnScale, "
    "FeatScale); lower the attention temperature; give the model register tokens.",
    references=(
        Reference(
            "Dong, Cordonnier & Loukas. Attention is Not All You Need: Pure Attention Loses Rank Doubly Exponentially "
            "with Depth. 2021",
            "https://arxiv.org/abs/2103.03404",
        ),
        Reference(
            "Wang et al. Anti-Oversmoothing in Deep Vision Transformers via the Fourier Domain Analysis: From Theory "
            "to Practice. 2022",
            "https://arxiv.org/abs/2203.05962",
        ),
        Reference(
            "Park et al. What Do Self-Supervised Vision Transformers Learn? 2023", "https://arxiv.org/abs/2305.00729"
        ),
        Reference(
            "Zhou et al. Length-Induced Embedding Collapse in PLM-based Models. 2024",
            "https://arxiv.org/abs/2410.24200",
        ),
        Reference(
            "Shi et al. Hybrid Distillation: Connecting Masked Autoencoders with Contrastive Learners. 2023",
            "https://arxiv.org/abs/2306.15876",
        ),
        Reference("Zong et al. Self-slimmed Vision Transformer. 2021", "https://arxiv.org/abs/2111.12624"),
        Reference(
            "Wu et al. Masked Momentum Contrastive Learning for Zero-shot Semantic Understanding. 2023",
            "https://arxiv.org/abs/2308.11448",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "samples_permuted"),
    # the floor inside the logarithm of the Fourier amplitude knows a scale; pairs are drawn by the number of the row
    unmoved_metrics=("mean_cosine", "cosine_excess", "residual", "hc_dc_ratio"),
)
def token_similarity(point: "Activations") -> Iterator[Measurement | Skip]:
    """Have the tokens of a sequence become copies of one another in this layer?

    ## Why it matters
    Attention averages, and an average of averages is a constant: without what works against it, all tokens of a
    sequence converge to one vector as depth grows (oversmoothing, token rank collapse). Layers behind that point see
    a sequence of one token, and dense tasks such as segmentation or tagging have nothing left to tell apart.

    ## How to read it
    Read `cosine_excess` before `mean_cosine`: a direction common to all tokens of all sequences raises the mean cosine
    without any smoothing, and the null, the cosine of tokens of different sequences, takes it out. `residual` is the
    share that differs between tokens: 0 is total collapse, √((T − 1)/T) independent tokens; `hc_dc_ratio` is the same
    as a ratio, HC (what differs) over DC (the mean, by the names of signal processing). Over depth, a steady fall is
    oversmoothing. `high_frequency` needs metadata `grid`; it falls where neighbours on the grid are averaged first.
    `object_auc` needs `token_labels`: ½ means that objects have dissolved into one another.

    ## Limits
    Tokens of the last layer under a pooled objective may legitimately be alike: nobody reads them one by one. A few
    tokens of huge norm dominate residual and ratio, but not the cosines; class and register tokens do so often, leave
    them out with metadata `cls`. The distance is one to equal tokens and not to rank one: tokens that are multiples of
    one direction by various factors have a residual near 1 and a cosine of ±1. Short sequences are left out and
    counted.
    """
    site, moments = point.site.name, point.read("token_moments")
    if moments.sequences < MIN_SEQUENCES:
        reason = f"{moments.sequences} sequences of {kernels.token_moments.MIN_TOKENS} tokens or more < {MIN_SEQUENCES}"
        left = {"too short": moments.short, "not finite": moments.non_finite, "all zero": moments.zero}
        said = ", ".join(f"{count} {what}" for what, count in left.items() if count)
        yield skip(site, f"{reason} ({said})" if said else reason)
        return
    facts = _facts(point, moments)
    yield from _cosines(site, moments, facts)
    residual, ratio = moments.of("residual"), moments.of("hc_dc")
    yield RESIDUAL.at(
        site,
        residual.mean,
        moments.of("residual_null").mean,
        **facts,
        smallest=residual.smallest,
        composite_norm=moments.of("composite").mean,
    )
    if ratio.count:
        constant = {"without_mean": moments.sequences - ratio.count} if ratio.count < moments.sequences else {}
        yield HC_DC_RATIO.at(site, ratio.mean, moments.of("hc_dc_null").mean, **facts, **constant)
    else:
        yield skip(site, "hc_dc_ratio: the tokens of every sequence have mean zero")
    yield from _frequencies(point, moments, facts)
    yield from _objects(point, moments, facts)


def _facts(point: "Activations", moments: "TokenMoments") -> dict[str, object]:
    found = {
        "sequences": moments.sequences,
        "tokens": moments.tokens,
        "D": point.shapes["tokens"][-1],
        "dtype": point.dtypes["tokens"],
    }
    left_out = {
        "short_sequences": moments.short,
        "non_finite_sequences": moments.non_finite,
        "zero_sequences": moments.zero,
        "zero_tokens": moments.zero_tokens,
        "leading_dropped": moments.leading,
    }
    return found | {name: count for name, count in left_out.items() if count}


def _cosines(site: str, moments: "TokenMoments", facts: dict[str, object]) -> Iterator[Measurement | Skip]:
    cosine, null = moments.of("cosine"), moments.between_cosine
    if not cosine.count or null is None:
        yield skip(site, "mean_cosine, cosine_excess: no sequence has two tokens that are not zero")
        return
    spread = {"standard_error": cosine.standard_error, "smallest": cosine.smallest, "largest": cosine.largest}
    yield MEAN_COSINE.at(site, cosine.mean, null, **facts, **spread)
    if 1.0 - null < ROUNDING:
        yield skip(site, f"cosine_excess: tokens of different sequences are the same too (cosine {null:.9g})")
        return
    excess = (cosine.mean - null) / (1.0 - null)
    yield COSINE_EXCESS.at(site, excess, 0.0, **facts, mean_cosine=cosine.mean, between_cosine=null)


def _frequencies(
    point: "Activations", moments: "TokenMoments", facts: dict[str, object]
) -> Iterator[Measurement | Skip]:
    site, sums, grid = point.site.name, moments.of("high_frequency"), moments.grid
    if len(grid) != 2:
        yield skip(site, "high_frequency: metadata grid does not say rows x columns")
    elif min(grid) < 3:
        yield skip(site, f"high_frequency: side {min(grid)} of the grid < 3 has no frequency but the mean")
    elif sums.count < MIN_SEQUENCES:
        what = f"{sums.count} sequences have the {grid[0] * grid[1]} tokens of the grid"
        yield skip(site, f"high_frequency: {what}, fewer than {MIN_SEQUENCES}")
    else:
        null = kernels.token_moments.WHITE_HIGH_FREQUENCY
        yield HIGH_FREQUENCY.at(
            site, sums.mean, null, **facts, grid=list(grid), whole=sums.count, standard_error=sums.standard_error
        )


def _objects(point: "Activations", moments: "TokenMoments", facts: dict[str, object]) -> Iterator[Measurement | Skip]:
    site, area = point.site.name, moments.pairs.auc()
    if "token_labels" not in point.shapes:
        yield skip(site, "object_auc: no token_labels")
    elif area is None:
        yield skip(site, "object_auc: no pairs of one label and of two in the same sequences")
    else:
        same, different = moments.pairs.counts()
        yield OBJECT_AUC.at(site, area, 0.5, **facts, same_pairs=same, different_pairs=different)
