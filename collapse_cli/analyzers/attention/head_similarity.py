"""Head similarity: whether the heads of a layer compute one map."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.accumulators import HeadGram
    from collapse_cli.kernels.views import Activations

#: Sequences below which nothing is said.
LEAST_SEQUENCES = 8
INDEPENDENT = "heads that know nothing of one another"

HEAD_CORRELATION = Metric(
    "head_correlation",
    "1",
    "The mean over pairs of heads of the cosine of their maps, each less the uniform one.",
    better="lower",
    null=INDEPENDENT,
)
MAX_HEAD_CORRELATION = Metric(
    "max_head_correlation",
    "1",
    "The same of the pair that is most alike.",
    better="lower",
    warn=Limit("above", 1.0 - 1e-6, "closed form: two maps equal up to rounding; up to .3 in sound layers of the zoo"),
    null=INDEPENDENT,
    message="Heads {first_head} and {second_head} compute one map: correlation {value:.9g}.",
)
HEAD_COSINE = Metric("head_cosine", "1", "The same of the maps as they are, which uniform and causal heads share.")
EFFECTIVE_HEADS = Metric(
    "effective_heads",
    "heads",
    "The exponential of the entropy of the eigenvalues of the heads' correlations: how many different maps there are.",
    better="higher",
    error=Limit("below", 1.001, "closed form: one map gives 1"),
    null=INDEPENDENT,
    message="Its {compared} heads compute one map: {value:.4g} different ones where independent heads give {null:.3g}.",
)


def healthy() -> Example:
    """Four heads that look at tokens 0, 1, 2 and 3 further on, around a ring of 16."""
    import torch

    heads = torch.stack([torch.eye(16).roll(shift, 1) for shift in range(4)])
    return Example({"encoder.layer.0/attention": heads.expand(8, 4, 16, 16).contiguous()}, metadata={})


def collapsed() -> Example:
    """Four heads with the same map."""
    import torch

    logits = 2.0 * torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return Example({"encoder.layer.0/attention": logits.softmax(3).expand(8, 4, 16, 16).contiguous()}, metadata={})


@activation_analyzer(
    name="head-similarity",
    family="attention",
    title="Head similarity",
    metrics=(HEAD_CORRELATION, MAX_HEAD_CORRELATION, HEAD_COSINE, EFFECTIVE_HEADS),
    accepts=on.points("attention", says="hook points with attention weights of two heads or more"),
    remedy="Prune or merge the heads that repeat one another; in training add a term for the variety of heads, or "
    "give each its own subspace of the features.",
    references=(
        Reference(
            "Shi et al. Hybrid Distillation: Connecting Masked Autoencoders with Contrastive Learners. 2023",
            "https://arxiv.org/abs/2306.15876",
        ),
        Reference(
            "Saini et al. ULSAM: Ultra-Lightweight Subspace Attention Module for Compact Convolutional Neural "
            "Networks. 2020",
            "https://arxiv.org/abs/2006.15102",
        ),
        Reference(
            "Zou et al. A Multi-Level Framework for Accelerating Training Transformer Models. 2024",
            "https://arxiv.org/abs/2404.07999",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=("head_gram",),
    unmoved_by=("samples_permuted",),
)
def head_similarity(point: "Activations") -> Iterator[Measurement | Skip]:
    """Do the heads of a layer compute one map?

    ## Why it matters
    Several heads are there to look at several things at once. Where all compute the same map the layer has the
    attention of one head at the price of many; it happens when heads start alike and nothing drives them apart, when a
    layer is copied or merged, and when all heads fall on one sink.

    ## How to read it
    `head_correlation` is near 0 for heads that know nothing of one another and 1 for equal ones. `effective_heads`
    counts different maps, from 1 to the number of heads. Both are of what a map has beyond the uniform one, since all
    uniform heads and all causal heads resemble each other as they are: `head_cosine` shows that resemblance, e^{−s²}
    for independent heads with Gaussian logits of standard deviation s. Heads that are uniform have no direction; they
    are left out and counted in the evidence. `soft_iou` there is Σmin/Σmax of pairs, over a few rows of every map.

    ## Limits
    Some repetition is normal in trained models, and pruning it is harmless: only one map in all heads is called a
    collapse, and of a pair only equality up to rounding is a warning. Equal maps of heads that share keys (grouped
    queries) are a finding about maps, not about keys. Heads that look at the same place may still read different values
    there.
    """
    name, gram = point.site.name, point.read("head_gram")
    gram.tally.check()
    heads = point.shapes["attention"][1]
    if heads < 2:
        yield skip(name, f"{heads} head: nothing to compare")
        return
    if gram.sequences < LEAST_SEQUENCES:
        yield skip(
            name, f"{gram.sequences} sequences with 8 rows or more that are valid in every head < {LEAST_SEQUENCES}"
        )
        return
    off = 1.0 - _identity(heads)
    yield HEAD_COSINE.at(name, float((gram.cosines * off).sum()) / gram.sequences / (heads * (heads - 1)), heads=heads)
    kept = (gram.pairs.diagonal() > 0).nonzero().flatten()
    pairs = gram.pairs[kept][:, kept]
    if kept.numel() < 2 or bool((pairs == 0).any()):
        left = "head_correlation, max_head_correlation, effective_heads"
        yield skip(name, f"{left}: fewer than two of {heads} heads are not uniform")
        return
    correlations = gram.correlations[kept][:, kept] / pairs
    number = kept.numel()
    between = correlations.masked_fill(_identity(number).bool(), -2.0)
    first, second = divmod(int(between.argmax()), number)
    evidence = _evidence(point, gram, number)
    mean = (float(correlations.sum()) - float(correlations.trace())) / (number * (number - 1))
    yield HEAD_CORRELATION.at(name, min(1.0, mean), 0.0, **evidence)
    yield MAX_HEAD_CORRELATION.at(
        name, min(1.0, float(between.max())), 0.0, first_head=int(kept[first]), second_head=int(kept[second])
    )
    yield EFFECTIVE_HEADS.at(name, kernels.head_maps.effective_heads(correlations), float(number), **evidence)


def _identity(side: int) -> Any:
    import torch

    return torch.eye(side, dtype=torch.float64)


def _evidence(point: "Activations", gram: "HeadGram", compared: int) -> dict[str, Any]:
    _samples, heads, queries, keys = point.shapes["attention"]
    said: dict[str, Any] = {"sequences": gram.sequences, "heads": heads, "compared": compared}
    if compared < heads:
        said["uniform_heads"] = heads - compared
    said |= {"queries": queries, "keys": keys, "dtype": point.dtypes["attention"]}
    if gram.probed:
        pairs = heads * (heads - 1)
        overlap = gram.overlaps / gram.probed
        said["soft_iou"] = (float(overlap.sum()) - float(overlap.trace())) / pairs
    return {**said, **gram.tally.evidence()}
