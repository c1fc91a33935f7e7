"""Codebook usage: how much of its codebook a quantiser uses."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.code_usage import CodeUsage
    from collapse_cli.kernels.views import Activations

UNIFORM = "tokens that take every code equally often: "
#: Codes met fewer times than this by the whole dump are listed as rare.
_RARE = 3

USED_SHARE = Metric(
    "used_share",
    "1",
    "Share of the codes that some token uses.",
    better="higher",
    null=UNIFORM + "1 − (1 − 1/K)^N",
)
USED_OF_CEILING = Metric(
    "used_of_ceiling",
    "1",
    "Share of the codes in use over the share that as many uniform tokens would meet.",
    better="higher",
    warn=Limit(
        "below",
        0.25,
        "zoo: with restarts 1, with restarts of an eighth of the codes 0.12 to 0.16; tokens as skewed as "
        "words still meet a third of what they can",
    ),
    error=Limit(
        "below",
        0.1,
        "zoo: without restarts 0.01 to 0.07. Zhu et al. 2024, table of usage: collapsed codebooks of 65,536 codes use "
        "1.4 % and 4.5 %, working ones 95 %",
    ),
    null=UNIFORM + "1",
    message="{used} of {codes} codes are used by {tokens} tokens, {value:.3g} of what uniform tokens would meet.",
)
PERPLEXITY = Metric(
    "perplexity",
    "codes",
    "The exponential of the entropy of the usage: how many equally frequent codes have the same entropy.",
    better="higher",
    error=Limit("below", 1.0 + 1e-6, "closed form: one code"),
    null=UNIFORM + "the exponential of the expected entropy of binomial counts",
    message="All {tokens} tokens have one code of {codes}: code {top_code}.",
)
PERPLEXITY_SHARE = Metric(
    "perplexity_share",
    "1",
    "The perplexity over that of as many uniform tokens.",
    better="higher",
    null=UNIFORM + "1",
)
TOP_CODE_SHARE = Metric(
    "top_code_share",
    "1",
    "Share of the tokens that have the most frequent code.",
    better="lower",
    warn=Limit(
        "above",
        0.95,
        "zoo: beyond every healthy model, 0.05; backgrounds and silence take much of real streams, not all",
    ),
    null=UNIFORM + "1/K",
    message="{value:.4g} of {tokens} tokens have code {top_code}, of {codes}.",
)
USED_CODE_RANK = Metric(
    "used_code_rank",
    "directions",
    "Entropy rank of the covariance of the codes, each weighted by its usage.",
    better="higher",
    null="every code used alike",
)


def healthy() -> Example:
    """Four codes, each used by a quarter of the tokens."""
    import torch

    return _example(torch.arange(400) % 4)


def collapsed() -> Example:
    """Four codes, of which every token has the third."""
    import torch

    return _example(torch.full((400,), 2))


def _example(codes: Any) -> Example:
    import torch

    codebook = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    arrays = {"codes": codes, "codebook": codebook, "groups": torch.arange(400) // 200}
    return Example(arrays, metadata={})


@activation_analyzer(
    name="codebook-usage",
    family="codes",
    title="Codebook usage",
    metrics=(USED_SHARE, USED_OF_CEILING, PERPLEXITY, PERPLEXITY_SHARE, TOP_CODE_SHARE, USED_CODE_RANK),
    accepts=on.points("codes", says="hook points with codes, and a codebook or the metadata codebook_size"),
    remedy="Put one linear layer over the codebook (SimVQ), reset dead codes from encoder outputs of the batch, look "
    "codes up in few dimensions with unit norm, start from k-means, or quantise without a codebook (FSQ, LFQ).",
    references=(
        Reference(
            "Zhu et al. Addressing Representation Collapse in Vector Quantized Models with One Linear Layer. 2024",
            "https://arxiv.org/abs/2411.02038",
        ),
        Reference(
            "Bachmann et al. 4M-21: An Any-to-Any Vision Model for Tens of Tasks and Modalities. 2024",
            "https://arxiv.org/abs/2406.09406",
        ),
        Reference(
            "Lu et al. Ovis: Structural Embedding Alignment for Multimodal Large Language Model. 2024",
            "https://arxiv.org/abs/2405.20797",
        ),
        Reference(
            "Kubricht et al. Grounded Language Acquisition From Object and Action Imagery. 2023",
            "https://arxiv.org/abs/2309.06335",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=("counts(codes)", "counts(codes,groups)"),
    uses=("codebook", "groups"),
    unmoved_by=("scaled", "shifted"),
)
def codebook_usage(point: "Activations") -> Iterator[Measurement | Skip]:
    """How much of the codebook is used, against what this many tokens could show?

    ## Why it matters
    Only codes that are chosen get a gradient. Those that are not stay where they are while the encoder moves away, so
    that a quantiser ends with a handful of codes of the thousands it pays for, and everything behind it works with a
    far smaller vocabulary than its size says.

    ## How to read it
    `used_share` alone misleads: 10,000 tokens meet at most 14 % of 65,536 codes. `used_of_ceiling` divides by what
    uniform tokens would meet, `perplexity_share` does the same with the effective number of codes. Real streams are
    skewed like words, so a ratio of 0.6 to 0.9 can be health; near 0 is not. `top_code_share` near 1 is one code for
    nearly everything. `used_code_rank` says in how many directions the used codes spread, against all codes alike.
    The evidence counts dead and rare codes and names the group with the least perplexity.

    ## Limits
    The size of the codebook must be known: from `codebook`, or from the metadata `codebook_size`; the largest code seen
    would be a guess. Fewer tokens than codes are counted and not judged. Codes of one image or utterance are alike, so
    a dump of few samples shows less than its number of tokens suggests. Levels of a residual quantiser are sites of
    their own; later levels are used more evenly. A moving cluster size in a checkpoint is not usage. A codebook that
    passes through a layer (SimVQ) must be dumped as the model uses it.
    """
    site = point.site.name
    size = kernels.code_usage.stated_size(point.shapes, point.metadata)
    usage = kernels.code_usage.code_usage(point)
    if usage is None or size is None:
        known = "no codebook and no metadata codebook_size" if size is None else f"{size[0]:,} codes > 4,194,304"
        yield skip(site, f"the codes cannot be counted: {known}")
        return
    if usage.codes < 2 or usage.tokens == 0:
        yield skip(site, f"{usage.tokens} tokens of {usage.codes} codes: nothing to compare")
        return
    facts = _facts(point, usage)
    ceiling = kernels.code_usage.usage_ceiling(usage.tokens, usage.codes)
    yield USED_SHARE.at(site, facts["used"] / usage.codes, ceiling, rare=_rare(usage), **facts)
    if usage.tokens < usage.codes:
        yield skip(
            site,
            "used_of_ceiling, perplexity, perplexity_share, top_code_share, used_code_rank: "
            f"{usage.tokens} tokens < {usage.codes} codes",
        )
        return
    yield USED_OF_CEILING.at(site, facts["used"] / usage.codes / ceiling, 1.0, ceiling=ceiling, **facts)
    yield from _perplexities(site, usage, facts)
    yield TOP_CODE_SHARE.at(site, int(usage.counts.max()) / usage.tokens, 1.0 / usage.codes, **facts)
    yield from _rank(site, point.arrays.get("codebook"), usage, facts)


def _facts(point: "Activations", usage: "CodeUsage") -> dict[str, Any]:
    used = int((usage.counts > 0).sum())
    return {
        "tokens": usage.tokens,
        "rows": point.finite_rows,
        "codes": usage.codes,
        "size_from": usage.source,
        "used": used,
        "dead": usage.codes - used,
        "top_code": int(usage.counts.argmax()),
    }


def _rare(usage: "CodeUsage") -> int:
    """Codes with a share of the tokens below 3/N, dead ones among them."""
    return int((usage.counts < _RARE).sum())


def _perplexities(site: str, usage: "CodeUsage", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    value = kernels.code_usage.perplexity(usage.counts)
    null = kernels.code_usage.perplexity_null(usage.tokens, usage.codes)
    groups: dict[str, Any] = {"too_many_groups": True} if usage.has_too_many_groups else {}
    if usage.groups.numel():
        found = kernels.code_usage.group_perplexities(usage.by_group)
        least = int(found.argmin())
        groups = {
            "group_perplexities": found[:128].tolist(),
            "groups": usage.groups.numel(),
            "least_group": int(usage.groups[least]),
            "least_group_perplexity": float(found[least]),
            "least_group_tokens": int(usage.by_group[least].sum()),
        }
    yield PERPLEXITY.at(site, value, null, **facts, **groups)
    yield PERPLEXITY_SHARE.at(site, value / null, 1.0, perplexity=value, uniform_perplexity=null, **facts)


def _rank(
    site: str, codebook: "Tensor | None", usage: "CodeUsage", facts: dict[str, Any]
) -> Iterator[Measurement | Skip]:
    if codebook is None or not bool(kernels.batches.finite_rows(codebook).all()):
        yield skip(site, "used_code_rank: " + ("no codebook" if codebook is None else "the codebook is not finite"))
        return
    if facts["used"] < 2:
        yield skip(site, "used_code_rank: one code is used")
        return
    ranks = kernels.code_usage.used_code_rank(codebook, usage.counts)
    if ranks is None or ranks[0] == 0.0:
        yield skip(site, "used_code_rank: " + ("too large a codebook" if ranks is None else "the used codes are equal"))
        return
    yield USED_CODE_RANK.at(site, *ranks, dimension=codebook.shape[1], **facts)
