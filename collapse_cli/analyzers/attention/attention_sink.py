"""Attention sink: how much attention is parked on the first token."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.accumulators import AttentionMarginals
    from collapse_cli.kernels.views import Activations

#: Sequences below which nothing is said, and tokens below which a prefix is none.
LEAST_SEQUENCES, LEAST_TOKENS = 8, 16
UNIFORM = "the causal map that spreads every row evenly"

SINK_STRENGTH = Metric(
    "sink_strength",
    "1",
    "The mean weight of the first token in the rows of a prefix of 64 tokens, mean over sequences and heads.",
    null=UNIFORM,
)
SINK_SHARE = Metric(
    "sink_share", "1", "The share of maps in which the mean weight of the first token is above .3.", null=UNIFORM
)
OTHER_SINK = Metric(
    "other_sink",
    "1",
    "The largest mean weight of a later token of the first half, among the rows that see it, mean over heads.",
    null=UNIFORM,
)


def _causal(first_logit: float) -> Example:
    """Gaussian logits, the first token's raised."""
    import torch

    logits = torch.randn(8, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    logits[..., 0] += first_logit
    hidden = torch.ones(64, 64, dtype=torch.bool).triu(1)
    maps = logits.masked_fill(hidden, -torch.inf).softmax(3)
    return Example({"decoder.layers.0/attention": maps}, metadata={"causal": "true"})


def healthy() -> Example:
    """Heads that treat the first token like any other."""
    return _causal(0.0)


def collapsed() -> Example:
    """Heads that keep nearly everything on the first token."""
    return _causal(9.0)


@activation_analyzer(
    name="attention-sink",
    family="attention",
    title="Attention sink",
    metrics=(SINK_STRENGTH, SINK_SHARE, OTHER_SINK),
    accepts=on.points("attention", says="hook points with causal attention weights"),
    remedy="None is needed for quality. For quantisation and streaming: keep the first tokens in the cache, or train "
    "with a learnable sink, sigmoid attention or gates on the values.",
    references=(
        Reference(
            "Gu et al. When Attention Sink Emerges in Language Models: An Empirical View. 2025",
            "https://arxiv.org/abs/2410.10781",
        ),
        Reference(
            "Xiao et al. Efficient Streaming Language Models with Attention Sinks. 2024",
            "https://arxiv.org/abs/2309.17453",
        ),
        Reference("Sun et al. Massive Activations in Large Language Models. 2024", "https://arxiv.org/abs/2402.17762"),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=("attention_marginals",),
    unmoved_by=("samples_permuted",),
)
def attention_sink(point: "Activations") -> Iterator[Measurement | Skip]:
    """How much attention is parked on the first token?

    ## Why it matters
    A head that has nothing to say at a token must still spend a weight of one, and language models spend it on the
    first token. Such a sink explains low entropy, information near zero and massive activations of that token; it
    breaks streaming when the first tokens leave the cache, and it costs the range of a quantised format.

    ## How to read it
    `sink_strength` is the mean weight of token 1 in the rows of the first 64 tokens; a uniform causal map gives .0741.
    `sink_share` is the share of maps above .3, the threshold of Gu et al. `other_sink` looks for a sink elsewhere, a
    delimiter or a token after a template, in the first half of the prefix. The leading block of a causal map is the
    attention of the prefix by itself, hence values compare at any length; with fewer than 64 tokens the prefix is the
    whole, which `prefix` in the evidence states. `by_head` lists the strengths.

    ## Limits
    Healthy language models have sinks: nothing here is judged. Only causal maps, from metadata `causal`. With padding
    on the left the prefix begins at the first real token of the mask; without a mask the sink is looked for in the
    padding. In the last rows of a prefix few rows see a token, so that a map that looks at itself would pass for a
    sink there: only the first half is searched. A sink on a token that moves from text to text shows in the average
    of no position.
    """
    name, marginals = point.site.name, point.read("attention_marginals")
    marginals.tally.check()
    queries, keys = point.shapes["attention"][2:]
    if not marginals.visibility.is_causal:
        yield skip(name, "not causal, or metadata causal does not say so")
        return
    if queries != keys or queries < LEAST_TOKENS:
        yield skip(name, f"{queries} queries on {keys} keys: takes maps of {LEAST_TOKENS} tokens or more onto itself")
        return
    side = min(queries, kernels.attention_maps.PREFIX)
    counts = marginals.prefixes
    is_enough = counts >= LEAST_SEQUENCES
    if not bool(is_enough.any()):
        most = int(counts.max()) if counts.numel() else 0
        yield skip(name, f"{most} sequences whose first {side} tokens are real < {LEAST_SEQUENCES}")
        return
    mass = marginals.prefix_mass[is_enough] / counts[is_enough][:, None]
    even = kernels.attention_marginals.uniform_prefix(side, marginals.visibility.window)
    threshold = kernels.attention_marginals.SINK
    strengths = mass[:, 0]
    evidence = _evidence(point, marginals, side)
    listed = [round(value, 6) for value in strengths.tolist()[:128]]
    yield SINK_STRENGTH.at(name, float(strengths.mean()), float(even[0]), by_head=listed, **evidence)
    share = float(marginals.sinks[is_enough].sum()) / float(counts[is_enough].sum())
    yield SINK_SHARE.at(name, share, float(even[0] > threshold), threshold=threshold, heads=strengths.numel())
    others = mass.mean(0)[1 : side // 2]
    yield OTHER_SINK.at(
        name, float(others.max()), float(even[1 : side // 2].max()), token=int(others.argmax()) + 2, prefix=side
    )


def _evidence(point: "Activations", marginals: "AttentionMarginals", side: int) -> dict[str, Any]:
    samples, heads, tokens, _keys = point.shapes["attention"]
    said = {"sequences": int(marginals.prefixes.max()), "of": samples, "heads": heads, "tokens": tokens}
    return {**said, "prefix": side, "dtype": point.dtypes["attention"], **marginals.tally.evidence()}
