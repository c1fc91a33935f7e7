"""Expert load: how evenly the tokens of a mixture are spread over its experts."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.expert_load import ExpertLoad
    from collapse_cli.kernels.views import Activations

#: Choices per expert below which the counts are too skewed for the nulls, of the whole and of a group.
MIN_LOAD = 20
#: Beyond this share of the experts for every token, the loads cannot differ by much.
MAX_CHOSEN = 0.8
#: Where chance leaves an expert without tokens more often than this, an absence says nothing.
_RARE = 0.01

RANDOM = "every token takes k experts at random: "

LOAD_CV = Metric(
    "load_cv",
    "1",
    "Standard deviation over mean of the choices per expert.",
    better="lower",
    null=RANDOM + "√((E−k)/(Nk))",
)
MAX_VIOLATION = Metric(
    "max_violation",
    "1",
    "The load of the busiest expert over the mean load, minus 1.",
    better="lower",
    null=RANDOM + "the largest of E normal deviates (Blom 1958)",
)
EFFECTIVE_EXPERTS = Metric(
    "effective_experts",
    "choices",
    "The exponential of the entropy of the loads over k: by how many such choices the experts are used.",
    better="higher",
    warn=Limit(
        "below",
        0.7,
        "zoo: .94 of chance and more with a balancing loss, .35 to .57 where a third of the experts can be deleted",
        of="null",
    ),
    error=Limit(
        "below",
        1.1,
        "zoo: 1 to 1.07 where all but the experts of one choice can be deleted, 1.4 and more in mild cases; 1 is that "
        "every token goes to the same k experts",
    ),
    null=RANDOM + "(E/k)·exp(−(E−k)/(2Nk))",
    message="{tokens} tokens with {chosen} of {experts} experts each use {value:.4g} choices of experts; chance gives "
    "{null:.3g}. The busiest experts: {busiest}.",
)
UNUSED_SHARE = Metric(
    "unused_share", "1", "Share of the experts that no token chose.", better="lower", null=RANDOM + "(1−k/E)^N"
)
STARVED_EXPERTS = Metric(
    "starved_experts",
    "experts",
    "Number of experts that no token chose, where chance would leave none.",
    better="lower",
    warn=Limit("above", 0.0, "closed form: an absence beyond chance; such an expert gets no gradient from these data"),
    null=RANDOM + "none",
    message="{value:.0f} of {experts} experts get none of {tokens} tokens (first: {starved}); the mean load is "
    "{mean_load:.4g}.",
)
DROP_RATE = Metric(
    "drop_rate",
    "1",
    "Share of the choices beyond the capacity ⌈c·N·k/E⌉ of their expert.",
    better="lower",
    null=RANDOM + "the mean excess of a normal count",
)
GROUP_LOAD_DISTANCE = Metric(
    "group_load_distance",
    "1",
    "The largest total variation distance between the load in a group and the load of all.",
    null=RANDOM + "the same shares in every group",
)


def healthy() -> Example:
    """Random logits, two groups, two of eight experts."""
    import torch

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(480, 8, generator=generator)
    return _example(logits, logits.topk(2).indices)


def collapsed() -> Example:
    """Every token asks for experts 3 and 5."""
    import torch

    logits = torch.zeros(480, 8)
    logits[:, 3], logits[:, 5] = 9.0, 8.0
    return _example(logits, torch.tensor([[3, 5]]).repeat(480, 1))


def _example(logits: Any, chosen: Any) -> Example:
    import torch

    arrays = {"router_logits": logits, "expert_index": chosen, "groups": torch.arange(480) % 2}
    return Example(arrays, metadata={"top_k": "2"})


@activation_analyzer(
    name="expert-load",
    family="routing",
    title="Expert load",
    metrics=(
        LOAD_CV,
        MAX_VIOLATION,
        EFFECTIVE_EXPERTS,
        UNUSED_SHARE,
        STARVED_EXPERTS,
        DROP_RATE,
        GROUP_LOAD_DISTANCE,
    ),
    accepts=on.points(
        any_of=(("expert_index",), ("router_logits",)),
        says="hook points with expert_index, or router_logits and the metadata top_k",
    ),
    remedy="Add an auxiliary load loss or balance by a bias per expert (loss-free), add a router z-loss, balance over "
    "more tokens per step, and log how many tokens the capacity drops.",
    references=(
        Reference(
            "Shen et al. SE-MoE: A Scalable and Efficient Mixture-of-Experts Distributed Training and Inference "
            "System. 2022",
            "https://arxiv.org/abs/2205.10034",
        ),
        Reference(
            "Chen et al. Sparse MoE as the New Dropout: Scaling Dense and Self-Slimmable Transformers. 2023",
            "https://arxiv.org/abs/2303.01610",
        ),
        Reference(
            "Li et al. Merge, Then Compress: Demystify Efficient SMoE with Hints from Its Routing Policy. 2023",
            "https://arxiv.org/abs/2310.01334",
        ),
        Reference(
            "Fedus et al. Switch Transformers: Scaling to Trillion Parameter Models with Simple and Efficient "
            "Sparsity. 2022",
            "https://arxiv.org/abs/2101.03961",
        ),
        Reference(
            "Wang et al. Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts. 2024",
            "https://arxiv.org/abs/2408.15664",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=(
        "counts(expert_index)",
        "counts(router_logits)",
        "counts(expert_index,groups)",
        "counts(router_logits,groups)",
        "logit_rows(router_logits)",
    ),
    uses=("groups",),
    unmoved_by=("samples_permuted", "scaled", "shifted"),
)
def expert_load(point: "Activations") -> Iterator[Measurement | Skip]:
    """Do a few experts take the tokens while others starve?

    ## Why it matters
    An expert that is chosen often learns faster and is chosen more often still. Left alone, the router sends every
    token to the same few experts; the others are paid for in memory and never trained, and where an expert has a
    capacity, the tokens beyond it are dropped.

    ## How to read it
    `effective_experts` is the number of distinct choices that the loads amount to: of E experts of which a token takes
    k, E/k when all carry the same, and 1 when every token takes the same k. `load_cv` and `max_violation` are 0 for
    equal loads; a value near its null is what random routing gives with so few tokens. `starved_experts` counts experts
    without a single token where chance leaves none; `unused_share` is the same as a share. `drop_rate` is what a
    capacity of c times the mean load (metadata `capacity_factor`, 1.25) would drop if all rows were one batch.
    `group_load_distance` says whether some group uses other experts than the rest: specialisation, neither good nor
    bad. The evidence has the loads, the smallest load over the mean (`min_violation`) and the auxiliary loss `l_aux`, 1
    for a balanced router.

    ## Limits
    Data from one domain leave experts idle for good reasons; judge a router on the mixture it was trained for. The
    largest of the logits is not always what was chosen: a balancing bias, noise and capacity come in between, so dump
    `expert_index` where you can. With `expert_index` alone the number of experts is taken to be one more than the
    largest index, and idle experts beyond it are not seen. Loads must be summed over all processes before the maximum
    is taken. Other tools define the violation as a modulus, in which a dead expert alone gives 1, or divide by E−1 in
    the standard deviation. A frozen random router is a design, see `router-weights`.
    """
    site, load = point.site.name, kernels.expert_load.expert_load(point)
    if load.is_known and load.chosen > MAX_CHOSEN * load.experts:
        yield skip(site, f"{load.chosen} of {load.experts} experts for every token: the loads cannot differ by much")
        return
    if load.choices < MIN_LOAD * load.experts or load.choices == 0:
        yield skip(site, f"{load.choices} choices < {MIN_LOAD} for each of {load.experts} experts")
        return
    facts = _facts(point, load)
    if load.chosen > MAX_CHOSEN * load.experts:
        yield EFFECTIVE_EXPERTS.at(site, _effective(load), _effective_null(load), **facts)
        yield skip(
            site,
            "load_cv, max_violation, unused_share, starved_experts, drop_rate, group_load_distance: expert_index names "
            f"{load.experts} experts for {load.chosen} choices, and no router_logits say how many there are",
        )
        return
    yield from _balance(point, load, facts)
    yield from _groups(site, load)


def _facts(point: "Activations", load: "ExpertLoad") -> dict[str, Any]:
    facts: dict[str, Any] = {
        "tokens": load.tokens,
        "chosen": load.chosen,
        "experts": load.experts,
        "experts_known": load.is_known,
        "source": load.source,
        "mean_load": load.choices / load.experts,
        "busiest": load.counts.argsort(descending=True, stable=True)[:4].tolist(),
    }
    if load.source == "router_logits":
        facts["top_k_stated"] = "top_k" in point.metadata
    return facts


def _loads(load: "ExpertLoad") -> dict[str, Any]:
    """The choices of every expert, of the busiest 128 where there are more."""
    return {"loads": (load.counts if load.experts <= 128 else load.counts.sort(descending=True).values[:128]).tolist()}


def _effective(load: "ExpertLoad") -> float:
    import torch

    return math.exp(float(torch.special.entr(load.shares).sum())) / load.chosen


def _effective_null(load: "ExpertLoad") -> float:
    return load.experts / load.chosen * math.exp(-0.5 * kernels.expert_load.load_cv_null(load) ** 2)


def _balance(point: "Activations", load: "ExpertLoad", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    site, kernel = point.site.name, kernels.expert_load
    relative = load.counts.double() / facts["mean_load"]
    auxiliary = kernel.auxiliary_loss(point)
    losses = {} if auxiliary is None else {"l_aux": auxiliary}
    yield LOAD_CV.at(
        site, float(relative.std(correction=0)), kernel.load_cv_null(load), **facts, **losses, **_loads(load)
    )
    smallest = float(relative.min()) - 1.0
    yield MAX_VIOLATION.at(
        site, float(relative.max()) - 1.0, kernel.violation_null(load), min_violation=smallest, **facts
    )
    yield EFFECTIVE_EXPERTS.at(site, _effective(load), _effective_null(load), **facts)
    starved = (load.counts == 0).nonzero().flatten().tolist()
    chance = (1.0 - load.chosen / load.experts) ** load.tokens
    yield UNUSED_SHARE.at(site, len(starved) / load.experts, chance, starved=starved[:16], **facts)
    if load.experts * chance < _RARE:
        yield STARVED_EXPERTS.at(site, len(starved), 0.0, starved=starved[:16], **facts)
    else:
        yield skip(site, f"starved_experts: chance alone leaves {load.experts * chance:.2g} experts without tokens")
    factor = kernel.stated_capacity(point.metadata)
    yield DROP_RATE.at(
        site,
        kernel.dropped_share(load, factor),
        kernel.dropped_share_null(load, factor),
        capacity=kernel.capacity(load, factor),
        capacity_factor=float(factor),
        capacity_factor_stated="capacity_factor" in point.metadata,
        **facts,
    )


def _groups(site: str, load: "ExpertLoad") -> Iterator[Measurement | Skip]:
    sizes = load.by_group.sum(1)
    is_large = sizes >= MIN_LOAD * load.experts
    enough = int(is_large.sum())
    if load.has_too_many_groups or enough < 2:
        found = "too many groups" if load.has_too_many_groups else f"{enough} groups"
        yield skip(site, f"group_load_distance: {found} with {MIN_LOAD} choices for each of {load.experts} experts")
        return
    distances, chances = kernels.expert_load.group_distances(load)
    place = int(distances.where(is_large, -1.0).argmax())
    yield GROUP_LOAD_DISTANCE.at(
        site,
        float(distances[place]),
        float(chances[place]),
        group=int(load.groups[place]),
        groups=enough,
        groups_too_small=sizes.numel() - enough,
        group_choices=int(sizes[place]),
        distances=distances[is_large][:128].tolist(),
    )
