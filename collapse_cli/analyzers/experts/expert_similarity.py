"""How alike the experts of a mixture are, whatever the order of their hidden units."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Role, Skip, block_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.assignment import Alignment
    from collapse_cli.kernels.views import Block

#: Mean matched cosine from which on an expert is called a copy: 5 % of noise on every weight leaves 0.9988.
_CLONE = 0.99

EXPERT_COSINE = Metric(
    "expert_cosine",
    "1",
    "Mean cosine of the raw weights over all pairs of experts, units in stored order.",
    null="independent experts: 0",
)
ALIGNED_COSINE = Metric(
    "aligned_cosine",
    "1",
    "Mean over pairs of experts of the cosine of their hidden units, matched one to one in the best way.",
    better="lower",
    null="the best assignment of as many random unit vectors",
)
CLONE_SHARE = Metric(
    "clone_share",
    "share",
    "Share of the experts that have a partner at a matched cosine of 0.99 or more.",
    better="lower",
    null="independent experts: 0",
    warn=Limit("above", 0.0, "zoo: 0 in sound mixtures, whose experts match at 0.2 as chance has it; 0.99 is a copy"),
    error=Limit(
        "above",
        0.5,
        "zoo: 1 in mixtures grown by copying, of one expert or of half as many, 0 in sound ones; from 0.5 on the "
        "layer has at most 3/4 of its experts",
        inclusive=True,
    ),
    message="{clones} of {queried} experts have a copy among the {experts} (matched cosine ≥ 0.99, first: {first}); "
    "random experts have none.",
)
EFFECTIVE_EXPERTS = Metric(
    "effective_experts",
    "experts",
    "The exponential of the entropy of the eigenvalues of the matrix of matched cosines, over the number of experts.",
    better="higher",
    null="independent experts, whose units match at the cosine of chance",
    warn=Limit(
        "below",
        0.25,
        "zoo: 0.14 in mixtures grown from one expert, 0.51 from half as many, 0.98 in sound ones; a likeness that "
        "experts keep after an upcycling is no fault",
        of="null",
    ),
    message="{experts} experts count as {value:.3g} different ones; independent experts count as {null:.3g}.",
)
EXPERT_NORM_CV = Metric(
    "expert_norm_cv",
    "1",
    "Standard deviation over mean of the Frobenius norms of the experts.",
    better="lower",
    null="Gaussian experts of equal scale: 1/√(2·entries)",
    warn=Limit("above", 1.0, "zoo: beyond every healthy model (up to 0.1); half of the experts at zero norm give 1"),
    message="The norms of the experts spread by {value:.3g} of their mean ({smallest:.3g} to {largest:.3g}): "
    "some hardly act.",
)

_EXPERTS, _HIDDEN, _WIDTH = 8, 24, 16


def _mixture(experts: "list[dict[str, Tensor]]") -> Example:
    path = "model.layers.0.block_sparse_moe.experts"
    tensors = {f"{path}.{i}.{name}.weight": t for i, expert in enumerate(experts) for name, t in expert.items()}
    return Example(tensors, {"model_type": "mixtral", "num_local_experts": _EXPERTS, "hidden_size": _WIDTH})


def _expert(generator: Any) -> "dict[str, Tensor]":
    import torch

    shapes = {"w1": (_HIDDEN, _WIDTH), "w2": (_WIDTH, _HIDDEN), "w3": (_HIDDEN, _WIDTH)}
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def healthy() -> Example:
    """Eight independent Gaussian experts."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return _mixture([_expert(generator) for _ in range(_EXPERTS)])


def collapsed() -> Example:
    """Eight copies of one expert, the hidden units of each in another order."""
    import torch

    generator = torch.Generator().manual_seed(0)
    one = _expert(generator)
    orders = [torch.randperm(_HIDDEN, generator=generator) for _ in range(_EXPERTS)]
    return _mixture([{"w1": one["w1"][o], "w2": one["w2"][:, o], "w3": one["w3"][o]} for o in orders])


@block_analyzer(
    name="expert-similarity",
    family="experts",
    title="Similarity of experts",
    metrics=(EXPERT_COSINE, ALIGNED_COSINE, CLONE_SHARE, EFFECTIVE_EXPERTS, EXPERT_NORM_CV),
    accepts=on.block(
        "expert",
        Role.EXPERT_IN,
        Role.EXPERT_OUT,
        says="mixtures of at least two experts of one shape, shared ones apart",
    ),
    remedy="Give upcycled experts noise or drop part of them anew, raise the learning rate of the experts, add an "
    "orthogonality or contrastive loss, or route at random with a fixed router while they separate; if they are meant "
    "to be alike, merge them.",
    references=(
        Reference(
            "Li et al. Merge, Then Compress: Demystify Efficient SMoE with Hints from Its Routing Policy. 2023",
            "https://arxiv.org/abs/2310.01334",
        ),
        Reference(
            "Chen et al. Sparse MoE as the New Dropout: Scaling Dense and Self-Slimmable Transformers. 2023",
            "https://arxiv.org/abs/2303.01610",
        ),
        Reference(
            "Chi et al. On the Representation Collapse of Sparse Mixture of Experts. 2022",
            "https://arxiv.org/abs/2204.09179",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled",),
)
def expert_similarity(block: "Block") -> Iterator[Measurement | Skip]:
    """Are the experts of this mixture different functions, or copies of each other?

    ## Why it matters
    A mixture pays for its experts in memory and communication. If they compute the same function, routing changes
    nothing and the layer has the capacity of one of them. Mixtures grown from a dense model start as copies, and a
    small learning rate or a router that sends the same tokens everywhere leaves them so.

    ## How to read it
    The hidden units of an expert can stand in any order, so that copies may have raw weights that look unrelated:
    `expert_cosine` near 0 says nothing, near 1 it says copies. `aligned_cosine` matches the units one to one first;
    compare it with its null, because the best matching of random units is well above 0 (0.22 at 64 units, 0.1 at 512).
    It is not judged: experts grown from one model and then trained keep a likeness that is no fault. `clone_share`
    counts copies, `effective_experts` the different ones. The evidence says how many pairs were matched (`assigned`)
    and for how many only the cheaper upper bound was taken (`bounded`, averaged over `units` hidden units each), which
    can only overstate the likeness.

    ## Limits
    Different weights can be the same function: units scaled up at the input and down at the output look different
    here. Whether the router uses the experts differently needs recorded activations. A mixture that was upcycled and
    not yet trained consists of copies: ask for the step before blaming the training. The work is bounded: in mixtures
    so large that not every pair can be compared, a seeded sample of experts (`queried`) is compared with all, and
    `effective_experts` is skipped. Shared experts, which see every token, are left out.
    """
    site = block.site.name
    if "skip" in block.facts:
        yield skip(site, str(block.facts["skip"]))
        return
    experts = block.get(kernels.assignment.experts_of)
    if isinstance(experts, str):
        yield skip(site, experts)
        return
    yield from _norms(block)
    aligned, count = block.get(kernels.assignment.alignment), len(experts)
    pairs = aligned.pairs
    work: dict[str, Any] = {
        "experts": count,
        "queried": len(aligned.queried),
        "assigned": aligned.assigned,
        "bounded": aligned.bounded,
        "units": aligned.units,
    }
    yield ALIGNED_COSINE.at(site, float(pairs.mean()), aligned.chance, largest=float(pairs.max()), **work)
    yield _clones(site, aligned, work)
    if len(aligned.queried) < count:
        yield skip(site, f"effective_experts: {pairs.numel()} of {count * (count - 1) // 2} pairs compared")
        return
    null = _distinct_null(count, aligned.chance)
    yield EFFECTIVE_EXPERTS.at(site, kernels.assignment.distinct_count(aligned.cosines), null, **work)


def _clones(site: str, aligned: "Alignment", work: dict[str, Any]) -> Measurement:
    rows = aligned.cosines[list(aligned.queried)].clone()
    rows[range(len(aligned.queried)), list(aligned.queried)] = 0.0
    is_clone = (rows.amax(1) >= _CLONE).tolist()
    clones = [expert for expert, found in zip(aligned.queried, is_clone, strict=True) if found]
    first = [clones[0], int(rows[is_clone.index(True)].argmax())] if clones else []
    return CLONE_SHARE.at(
        site, len(clones) / len(is_clone), 0.0, clones=len(clones), indices=clones[:16], first=first, **work
    )


def _distinct_null(count: int, chance: float) -> float:
    """Exponential of the entropy of the eigenvalues 1 + (E−1)a, once, and 1 − a, E − 1 times, over E."""
    top, rest = (1.0 + (count - 1) * chance) / count, (1.0 - chance) / count
    entropy = -top * math.log(top) - ((count - 1) * rest * math.log(rest) if rest > 0.0 else 0.0)
    return math.exp(entropy)


def _norms(block: "Block") -> Iterator[Measurement | Skip]:
    site, norms = block.site.name, block.get(kernels.assignment.norms)
    alive = int((norms > 0.0).sum())
    if alive < 2:
        yield skip(site, f"expert_cosine: {alive} experts that are not zero")
    else:
        yield EXPERT_COSINE.at(site, block.get(kernels.assignment.mean_cosine), 0.0, experts=len(norms), nonzero=alive)
    if alive == 0:
        yield skip(site, "expert_norm_cv: all experts are zero")
        return
    entries = sum(weights[0].matrix.numel() for weights in block.weights.values() if weights)
    extremes = {"smallest": float(norms.min()), "largest": float(norms.max())}
    spread = float(norms.std(correction=0) / norms.mean())
    yield EXPERT_NORM_CV.at(site, spread, (2.0 * entries) ** -0.5, experts=len(norms), **extremes)
