"""Router confidence: whether a router decides, whether it listens to the token, and whether its logits run away."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.logit_columns import LogitColumns
    from collapse_cli.kernels.logit_rows import LogitRows
    from collapse_cli.kernels.views import Activations

#: Tokens per expert below which the mean probabilities say little.
MIN_TOKENS = 10

TOKEN_ENTROPY = Metric(
    "token_entropy",
    "1",
    "Mean entropy of a token's probabilities over the logarithm of the number of experts.",
    null="equal logits: 1",
)
ROUTER_MARGINAL_ENTROPY = Metric(
    "router_marginal_entropy",
    "1",
    "Entropy of the mean probabilities over the logarithm of the number of experts.",
    better="higher",
    warn=Limit("below", 0.5, "zoo: .99 and more with a balancing loss, .4 and less in collapsed routers"),
    error=Limit(
        "below",
        0.1,
        "zoo: .001 to .4 in collapsed routers, .5 and more in mild cases; of 8 experts one then has 97 %",
    ),
    null="equal logits: 1",
    message="Over {tokens} tokens the router gives expert {favourite} {favourite_share:.6g} of the probability, of "
    "{experts} experts: marginal entropy {value:.3g}.",
)
ROUTER_INFORMATION = Metric(
    "router_information",
    "nats",
    "What the choice of expert says about the token: entropy of the mean less mean entropy.",
    better="higher",
    warn=Limit("below", 1e-6, "closed form: the probabilities are the same for every token, up to rounding in float32"),
    null="the same logits for every token: 0",
    message="The probabilities of the {experts} experts do not depend on the token: {value:.3g} nats over {tokens} "
    "tokens.",
)
ROUTER_Z_RMS = Metric(
    "router_z_rms",
    "nats",
    "Root mean square of the log-sum-exp of a token's logits.",
    better="lower",
    null="zero logits: log E",
)
ROUTER_MAX_LOGIT = Metric("router_max_logit", "1", "The largest modulus of a logit.", better="lower")
EXPERT_LOGIT_SIMILARITY = Metric(
    "expert_logit_similarity",
    "correlation",
    "The largest correlation over the tokens between the logits of two experts.",
    better="lower",
    null="independent logits: the correlation that one pair is expected to exceed",
)


def healthy() -> Example:
    """Each token asks for one of four experts, all equally often."""
    import torch

    return Example({"router_logits": 20.0 * torch.eye(4)[torch.arange(400) % 4]}, metadata={})


def collapsed() -> Example:
    """Every token asks for the second of four experts."""
    import torch

    return Example({"router_logits": 20.0 * torch.eye(4)[torch.ones(400, dtype=torch.int64)]}, metadata={})


@activation_analyzer(
    name="router-confidence",
    family="routing",
    title="Router confidence",
    metrics=(
        TOKEN_ENTROPY,
        ROUTER_MARGINAL_ENTROPY,
        ROUTER_INFORMATION,
        ROUTER_Z_RMS,
        ROUTER_MAX_LOGIT,
        EXPERT_LOGIT_SIMILARITY,
    ),
    accepts=on.points("router_logits", says="hook points with router_logits"),
    remedy="Add a router z-loss (1e-3 is common) and compute the router in float32; set its temperature, or use a "
    "cosine router with a learned one; balance the experts where the marginal entropy is low.",
    references=(
        Reference(
            "Li et al. Merge, Then Compress: Demystify Efficient SMoE with Hints from Its Routing Policy. 2023",
            "https://arxiv.org/abs/2310.01334",
        ),
        Reference(
            "Zoph et al. ST-MoE: Designing Stable and Transferable Sparse Expert Models. 2022",
            "https://arxiv.org/abs/2202.08906",
        ),
        Reference(
            "Chi et al. On the Representation Collapse of Sparse Mixture of Experts. 2022",
            "https://arxiv.org/abs/2204.09179",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=("logit_rows(router_logits)", "logit_columns(router_logits)"),
    unmoved_by=("samples_permuted", "shifted"),
    unmoved_metrics=("token_entropy", "router_marginal_entropy", "router_information", "expert_logit_similarity"),
)
def router_confidence(point: "Activations") -> Iterator[Measurement | Skip]:
    """Is the router decided, undecided, or decided the same way for every token; do its logits run away?

    ## Why it matters
    A router is useful when it is sure of each token and unsure which token comes next. One that gives the same
    probabilities to every token makes the mixture a slow dense layer, whether it prefers one expert or none. Logits
    that grow without bound round to few values in half precision and make training unstable.

    ## How to read it
    Only the pair of entropies tells. Low `token_entropy` with high `router_marginal_entropy` is a good router; both
    high is one that does not choose; both low is one that always chooses the same. `router_information` is their
    difference in nats: 0 when the token does not matter, log E at best. Read `router_z_rms` against log E, that of
    zero logits, and `router_max_logit` against the precision of the router. `expert_logit_similarity` near 1 is a pair
    of experts that every token ranks alike; the evidence names the pair. Its evidence `scaled_cosine` is (cos+1)/2 of
    the same columns about zero, where ½ means orthogonal.

    ## Limits
    Entropies are those of the softmax; for a router with sigmoid gates they are those of the normalised exponentials,
    and not its gates. Whatever is added to all logits of a token changes no probability, but raises every correlation.
    A cosine about zero is high for any bias that experts share. Logits are seen before balancing bias, noise and
    capacity: see `expert-load` for what was chosen. A router that starts from zero weights gives 0 nats until it is
    trained.
    """
    site, rows = point.site.name, point.read("logit_rows(router_logits)")
    experts = point.shapes["router_logits"][-1]
    if experts < 2:
        yield skip(site, f"{experts} experts < 2")
        return
    if rows.count < MIN_TOKENS * experts:
        yield skip(site, f"{rows.count} tokens < {MIN_TOKENS} for each of {experts} experts")
        return
    facts = {
        "tokens": rows.count,
        "experts": experts,
        "masked_logits": rows.masked,
        "tokens_without_choice": rows.short_rows,
        "dtype": point.dtypes["router_logits"],
    }
    yield from _entropies(site, rows, facts)
    magnitude = max(abs(rows.smallest_logit), abs(rows.largest_logit))
    yield ROUTER_Z_RMS.at(site, math.sqrt(rows.log_z_square), math.log(experts), log_z_mean=rows.log_z_mean, **facts)
    yield ROUTER_MAX_LOGIT.at(
        site, magnitude, largest_logit=rows.largest_logit, smallest_logit=rows.smallest_logit, **facts
    )
    yield from _similarity(site, point.read("logit_columns(router_logits)"), facts)


def _entropies(site: str, rows: "LogitRows", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    import torch

    experts = facts["experts"]
    mean = rows.classes.mass / rows.count
    marginal, most = float(torch.special.entr(mean).sum()), math.log(experts)
    spread = rows.spread.quantile(0.5)
    yield TOKEN_ENTROPY.at(
        site,
        _share(rows.entropy_mean, most),
        1.0,
        median_logit_deviation=spread,
        gaussian_entropy=max(1.0 - spread**2 / (2.0 * most), 0.0),
        **facts,
    )
    favourite = int(mean.argmax())
    facts = {**facts, "favourite": favourite, "favourite_share": float(mean[favourite])}
    yield ROUTER_MARGINAL_ENTROPY.at(site, _share(marginal, most), 1.0, **facts)
    yield ROUTER_INFORMATION.at(site, min(max(marginal - rows.entropy_mean, 0.0), most), 0.0, most=most, **facts)


def _share(entropy: float, most: float) -> float:
    return min(max(entropy / most, 0.0), 1.0)


def _similarity(site: str, columns: "LogitColumns", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    experts = facts["experts"]
    closest = columns.closest(MIN_TOKENS * experts)
    if closest is None:
        yield skip(site, "expert_logit_similarity: no two experts have logits that vary over enough tokens")
        return
    yield EXPERT_LOGIT_SIMILARITY.at(
        site,
        closest.correlation,
        kernels.logit_columns.largest_correlation_null(experts, closest.rows),
        pair=list(closest.columns),
        cosine=closest.cosine,
        scaled_cosine=(closest.cosine + 1.0) / 2.0,
        pairs=closest.pairs,
        pair_tokens=closest.rows,
        **facts,
    )
