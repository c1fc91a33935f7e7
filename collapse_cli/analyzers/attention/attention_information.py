"""Attention information: whether where a head looks follows the query."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.accumulators import AttentionMarginals
    from collapse_cli.kernels.views import Activations

#: Sequences below which nothing is said.
LEAST_SEQUENCES = 8
AS_SHARP = "independent rows as sharp as these (1 − entropy); of a causal map, the uniform one"

NMI = Metric(
    "nmi",
    "1",
    "The mutual information of query and key, I/√(log T·H(k)), mean over sequences and heads.",
    better="higher",
    null=AS_SHARP,
)
NMI_MIN_HEAD = Metric("nmi_min_head", "1", "The same of the head where it is least.", better="higher", null=AS_SHARP)
QUERY_SHARE = Metric(
    "query_share",
    "1",
    "The share of a head's sharpness that follows the query, I/(I + KL(p(k)‖uniform)); the rest is the same for all.",
    better="higher",
    error=Limit(
        "below",
        1e-6,
        "closed form: rows equal up to rounding in every head; independent rows of any sharpness read .93 or more",
    ),
    null="independent rows",
    message="All queries look at the same place: {value:.3g} of the sharpness of its heads follows the query.",
)
POPULARITY = Metric(
    "popularity",
    "1",
    "KL(p(k)‖uniform)/log T: how unevenly the mean row weighs the keys.",
    null="independent rows",
)


def healthy() -> Example:
    """Gaussian logits of standard deviation 2 over 32 tokens."""
    import torch

    logits = 2.0 * torch.randn(8, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    return Example({"encoder.layer.0/attention": logits.softmax(3)}, metadata={})


def collapsed() -> Example:
    """Every query of a head has the same row, sharp but not its own."""
    import torch

    row = (2.0 * torch.randn(8, 4, 1, 32, generator=torch.Generator().manual_seed(0))).softmax(3)
    return Example({"encoder.layer.0/attention": row.expand(8, 4, 32, 32).contiguous()}, metadata={})


@activation_analyzer(
    name="attention-information",
    family="attention",
    title="Attention information",
    metrics=(NMI, NMI_MIN_HEAD, QUERY_SHARE, POPULARITY),
    accepts=on.points("attention", says="hook points with attention weights of a sequence onto itself"),
    remedy="Distil the deep layers from a masked-image model, or from two teachers (hybrid distillation); give "
    "intermediate layers targets of their own; use fewer heads where many look at one place.",
    references=(
        Reference(
            "Shi et al. Hybrid Distillation: Connecting Masked Autoencoders with Contrastive Learners. 2023",
            "https://arxiv.org/abs/2306.15876",
        ),
        Reference(
            "Park et al. What Do Self-Supervised Vision Transformers Learn? 2023", "https://arxiv.org/abs/2305.00729"
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=("attention_marginals",),
    unmoved_by=("samples_permuted",),
)
def attention_information(point: "Activations") -> Iterator[Measurement | Skip]:
    """Do all queries of a head look at the same place (attention collapse), whatever its sharpness?

    ## Why it matters
    Attention moves information only if different queries look at different keys. In deep layers of contrastive vision
    transformers, and in models that are about to lose their tokens to one another, every query reads the same keys:
    the layer adds the same vector to all tokens and makes them more alike. Entropy does not show it, because such a
    head may be sharp.

    ## How to read it
    `nmi` is 0 when all rows are equal and 1 when each query has a key of its own. Compare it with the null: rows of the
    same sharpness that know nothing of one another. `query_share` takes the sharpness out: of a map onto itself
    1 − entropy = (I + KL)/log T, and it is the part I/(I + KL) that follows the query. Gaussian logits of any size
    give .93 to .99, a head whose queries agree gives 0. `popularity` is the other part. A map onto one key has `nmi` 0
    by definition (`one_key` in the evidence counts them).

    ## Limits
    This attention collapse is the opposite of entropy collapse: the two share a name. Contrastive vision transformers
    stand low and work well: a low value is a fact about locality and variety, and only rows that are equal to rounding
    are called collapsed. A causal map has information from what each query may see alone, hence another null, and no
    `query_share` or `popularity`. Attention to another sequence is skipped. No 10⁻⁸ is added before the logarithm as
    reference code does, which differs from here by 10⁻⁵ at most on maps of a few hundred tokens.
    """
    name, marginals = point.site.name, point.read("attention_marginals")
    marginals.tally.check()
    queries, keys = point.shapes["attention"][2:]
    if queries != keys:
        yield skip(name, f"{queries} queries on {keys} keys: attention to another sequence")
        return
    counts = marginals.sequences
    is_enough = counts >= LEAST_SEQUENCES
    if not bool(is_enough.any()):
        most = int(counts.max()) if counts.numel() else 0
        yield skip(name, f"{most} sequences with 8 queries or more < {LEAST_SEQUENCES}")
        return
    by_head = marginals.nmi[is_enough] / counts[is_enough]
    chance = marginals.uniform if marginals.visibility.is_causal else marginals.independent
    nulls = (chance[is_enough] / counts[is_enough]).clamp(0.0, 1.0)
    least = int(by_head.argmin())
    yield NMI.at(name, float(by_head.mean()), float(nulls.mean()), **_evidence(point, marginals, by_head))
    yield NMI_MIN_HEAD.at(
        name, float(by_head[least]), float(nulls[least]), head=int(is_enough.nonzero().flatten()[least])
    )
    if marginals.visibility.is_causal:
        yield skip(name, "query_share, popularity: causal, what a query may see makes information by itself")
        return
    yield from _split(name, marginals, is_enough)


def _split(name: str, marginals: "AttentionMarginals", is_enough: Any) -> Iterator[Measurement | Skip]:
    counts, split = marginals.sequences, marginals.split
    is_split = is_enough & (split >= LEAST_SEQUENCES)
    if bool(is_split.any()):
        shares = marginals.query_share[is_split] / split[is_split]
        listed = [float(f"{value:.4g}") for value in shares.tolist()[:128]]
        yield QUERY_SHARE.at(name, float(shares.mean()), 1.0, by_head=listed, heads=shares.numel())
    else:
        yield skip(name, "query_share: every map is uniform")
    popular = marginals.popularity[is_enough] / counts[is_enough]
    yield POPULARITY.at(name, float(popular.mean()), 0.0, by_head=[round(v, 6) for v in popular.tolist()[:128]])


def _evidence(point: "Activations", marginals: "AttentionMarginals", by_head: Any) -> dict[str, Any]:
    samples, heads, tokens, _keys = point.shapes["attention"]
    said: dict[str, Any] = {"sequences": samples, "heads": heads, "tokens": tokens}
    said |= {"dtype": point.dtypes["attention"], "causal": marginals.visibility.is_causal}
    one_key = int(marginals.one_key.sum())
    if one_key:
        said["one_key"] = one_key
    return {**said, **marginals.tally.evidence(), "by_head": [round(value, 6) for value in by_head.tolist()[:128]]}
