"""Merge interference: whether averaging several fine-tunes of one base cancels them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, on, pool_analyzer, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.comparisons import Comparison, Model
    from collapse_cli.kernels.task_vectors import Signs

#: Fewer entries in the largest fifth of two tasks are too few to compare their signs.
_LEAST_CONTESTED = 64
#: Below it a member reads as a combination of the others: what rounding to half precision leaves of an average.
_COMBINATION = 0.01

SIGN_AGREEMENT = Metric(
    "sign_agreement",
    "1",
    "The mean over entries of |moved up − moved down| over the number of tasks that moved it.",
    better="higher",
    warn=Limit("below", 0.7, "zoo: sound merges agree as chance does or more, half lost ones read .4 to .8", of="null"),
    error=Limit("below", 0.35, "zoo: merges that lost both tasks read .1 to .3, half lost ones .4 to .8", of="null"),
    null="random signs",
    message="The tasks pull {entries} entries in opposite directions: agreement {value:.3g}, random signs {null:.3g}.",
)
CONTESTED_SHARE = Metric(
    "contested_share",
    "1",
    "Of the entries in the largest fifth of two tasks or more, the share whose signs differ.",
    better="lower",
    warn=Limit("above", 1.3, "zoo: sound merges read .3 at most, half lost ones 1.2 to 1.6", of="null"),
    error=Limit("above", 1.7, "zoo: merges that lost both tasks read 1.7 to 1.9, half lost ones 1.2 to 1.6", of="null"),
    null="random signs",
    message="{value:.0%} of {shared} entries that matter to several tasks are contested; by chance {null:.0%}.",
)
TASK_COSINE = Metric(
    "task_cosine",
    "1",
    "The largest cosine between the task vectors of two descendants.",
    null="unrelated tasks: 0, of size 1/√(number of entries)",
)
CROSS_TALK = Metric(
    "cross_talk",
    "1",
    "The largest norm of τᵢᵀτⱼ over the product of the norms: how far two tasks write to the same outputs.",
    better="lower",
    null="two random updates, 1/√(number of outputs)",
)
NORM_RETENTION = Metric(
    "norm_retention",
    "1",
    "The norm of the mean task vector over the mean of their norms: what averaging leaves.",
    better="higher",
    warn=Limit("below", 0.9, "zoo: sound merges read 1 and more, half lost ones .68 to .86", of="null"),
    error=Limit("below", 0.5, "zoo: merges that lost both tasks read .14 to .37; two tasks at −.75", of="null"),
    null="orthogonal task vectors of these norms",
    message="Averaging leaves {value:.3g} of the change that the {tasks} tasks made; orthogonal ones keep {null:.3g}.",
)
TOP20_ENERGY = Metric(
    "top20_energy",
    "1",
    "The share of the energy of a task vector in the largest fifth of its entries, mean over the tasks.",
    null="Gaussian task vectors",
)
TOP20_JACCARD = Metric(
    "top20_jaccard",
    "1",
    "The Jaccard index of these sets of two tasks, mean over the pairs.",
    null="random sets of these sizes",
)
SHARED_ENERGY = Metric(
    "shared_energy",
    "1",
    "The share of the energy of a task in the leading tenth of the output space of the others, mean over the tasks.",
    null="a random space of that size",
)
MEAN_RESIDUAL = Metric(
    "mean_residual",
    "1",
    "What least squares leaves of the descendant that the others explain best.",
    null="tasks that have nothing in common",
)


def _tasks(*signs: float) -> Example:
    """A base and two descendants whose task vectors are the same, orthogonal or opposite."""
    import torch

    generator = torch.Generator().manual_seed(0)
    names = "model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"
    base = {name: torch.randn(48, 48, generator=generator) for name in names}
    steps = {name: 0.1 * torch.randn(48, 48, generator=generator) for name in names}
    others = tuple({name: base[name] + sign * steps[name] for name in names} for sign in signs)
    return Example(base, config={"model_type": "llama"}, others=others)


def healthy() -> Example:
    """Two fine-tunes that moved alike."""
    return _tasks(1.0, 1.25)


def collapsed() -> Example:
    """Two fine-tunes that moved in opposite directions."""
    return _tasks(1.0, -1.0)


@pool_analyzer(
    name="merge-interference",
    family="merging",
    title="Interference of merges",
    metrics=(
        SIGN_AGREEMENT,
        CONTESTED_SHARE,
        TASK_COSINE,
        CROSS_TALK,
        NORM_RETENTION,
        TOP20_ENERGY,
        TOP20_JACCARD,
        SHARED_ENERGY,
        MEAN_RESIDUAL,
    ),
    accepts=on.matrices(2, min_entries=256),
    sums_up=True,
    remedy="Trim and elect signs (TIES) or weigh by Fisher information instead of averaging, keep shared directions "
    "apart by orthogonal adapters, leave out the member that cancels the others, align permutations first where there "
    "is no common base, and average only models of one basin.",
    references=(
        Reference(
            "Yadav et al. TIES-Merging: Resolving Interference When Merging Models. 2023",
            "https://arxiv.org/abs/2306.01708",
        ),
        Reference(
            "Wortsman et al. Model soups: averaging weights of multiple fine-tuned models improves accuracy without "
            "increasing inference time. 2022",
            "https://arxiv.org/abs/2203.05482",
        ),
        Reference(
            "Po et al. Orthogonal Adaptation for Modular Customization of Diffusion Models. 2023",
            "https://arxiv.org/abs/2312.02432",
        ),
        Reference(
            "Matena & Raffel. Merging Models with Fisher-Weighted Averaging. 2021", "https://arxiv.org/abs/2111.09832"
        ),
        Reference(
            "Wei et al. Modeling Multi-Task Model Merging as Adaptive Projective Gradient Descent. 2025",
            "https://arxiv.org/abs/2501.01230",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "rows_permuted", "transposed"),
    unmoved_metrics=(
        "sign_agreement",
        "contested_share",
        "task_cosine",
        "norm_retention",
        "top20_energy",
        "top20_jaccard",
    ),
)
def merge_interference(view: "Comparison | Model") -> Iterator[Measurement | Skip]:
    """Will averaging these fine-tunes cancel them?

    ## Why it matters
    Fine-tunes of one base are merged by adding up what each changed. Where two tasks pull the same entry to opposite
    sides the average keeps neither, and the merged model falls back towards the base on both tasks. None of the
    members shows it; only their differences to the base do.

    ## How to read it
    Compare every number with its null, what unrelated tasks give. `sign_agreement` counts all entries,
    `contested_share` only those that matter to at least two tasks. `norm_retention` is what an average keeps of the
    norm. `task_cosine` is the most alike pair (the least alike is in the evidence); `cross_talk` near 1 says that two
    tasks write the same few outputs, `shared_energy` that a task lies in the space of the others. `mean_residual` near
    0 says that one member is a combination of the others, with the weights in the evidence. Site `#model` takes all
    matrices as one.

    ## Limits
    Descendants of different bases, or with different tokenisers, have no meaningful difference to this base. Tasks
    that are told to be orthogonal may have been deleted rather than separated. If the base is itself the average of
    the members, their changes cancel by construction. A change that is all rounding looks like an unrelated task.
    Vectors and matrices of fewer than 256 entries are not looked at: by chance alone they agree or disagree.
    """
    kernel = kernels.task_vectors
    if not isinstance(view, kernels.comparisons.Comparison):
        parts = view.parts_with(kernel.signs)
        if parts:
            gram: Tensor = sum(part.get(kernel.task_gram) for part, _ in parts)  # type: ignore[assignment]
            yield from _of_all(view.site.name, gram, [signs for _, signs in parts], view.labels[1:])
        return
    name, gram = view.site.name, view.get(kernel.task_gram)
    moved = gram.diagonal().nonzero().flatten().tolist()
    if not view.has_base:
        yield skip(name, "no base: mean_residual alone")
        yield from _combination(name, gram, view.labels)
        return
    if len(moved) < 2:
        yield skip(name, f"{len(moved)} of {len(view.descendants)} descendants moved, two are needed")
        return
    yield from _of_all(name, gram, [view.get(kernel.signs)], view.labels[1:])
    yield from _largest(view, moved)
    yield from _spaces(view, gram, moved)


def _of_all(name: str, gram: "Tensor", signs: "list[Signs]", labels: tuple[str, ...]) -> Iterator[Measurement | Skip]:
    """What is said of one matrix as of all together."""
    moved = gram.diagonal().nonzero().flatten().tolist()
    if len(moved) < 2:
        yield skip(name, f"{len(moved)} of {len(labels)} descendants moved, two are needed")
        return
    counts = [sum(column) for column in zip(*(found.entries for found in signs), strict=True)]
    entries = sum(counts[1:])
    null = sum(count * kernels.task_vectors.sign_null(tasks) for tasks, count in enumerate(counts)) / entries
    agreement = sum(found.agreement for found in signs) / entries
    yield SIGN_AGREEMENT.at(name, agreement, null, entries=entries, entries_by_tasks=counts)
    norms = gram.diagonal().sqrt()
    cosines = {
        (one, other): float(gram[one, other] / norms[one] / norms[other])
        for one in moved
        for other in moved
        if one < other
    }
    alike, unlike = max(cosines, key=cosines.__getitem__), min(cosines, key=cosines.__getitem__)
    yield TASK_COSINE.at(
        name,
        min(max(cosines[alike], -1.0), 1.0),
        0.0,
        least=cosines[unlike],
        pair=[labels[place] for place in alike],
        least_pair=[labels[place] for place in unlike],
        by_chance=float(sum(counts)) ** -0.5,
    )
    total = float(norms.sum())
    kept = float(gram.sum().clamp_min(0.0).sqrt()) / total
    null = float(gram.diagonal().sum().sqrt()) / total
    yield NORM_RETENTION.at(name, min(kept, 1.0), null, tasks=len(moved), norms=norms.tolist())
    yield from _combination(name, gram, labels)


def _combination(name: str, gram: "Tensor", labels: tuple[str, ...]) -> Iterator[Measurement | Skip]:
    moved = gram.diagonal().nonzero().flatten().tolist()
    if len(moved) < 2:
        yield skip(name, "mean_residual: fewer than two members are not zero")
        return
    found = kernels.task_vectors.best_combination(gram[moved][:, moved])
    others = [labels[place] for place in moved if place != moved[found.member]]
    yield MEAN_RESIDUAL.at(
        name,
        min(found.residual, 1.0),
        1.0,
        member=labels[moved[found.member]],
        weights=dict(zip(others, found.weights, strict=True)),
        reading="a combination of the others" if found.residual < _COMBINATION else "more than the others explain",
    )


def _largest(view: "Comparison", moved: list[int]) -> Iterator[Measurement | Skip]:
    kernel, name, entries = kernels.task_vectors, view.site.name, view.before.matrix.numel()
    top = kernel.top_entries(view)
    shared = sum(top.keepers[2:])
    if shared < _LEAST_CONTESTED:
        yield skip(name, f"contested_share: {shared} entries matter to two tasks, fewer than {_LEAST_CONTESTED}")
    else:
        chance = sum(count * kernel.disagreement_null(tasks) for tasks, count in enumerate(top.keepers) if tasks > 1)
        yield CONTESTED_SHARE.at(name, top.contested / shared, chance / shared, shared=shared, contested=top.contested)
    energies = [top.energies[place] for place in moved]
    yield TOP20_ENERGY.at(name, sum(energies) / len(energies), kernel.top_energy_null(), shares=energies)
    overlaps, nulls = [], []
    for place, one in enumerate(moved):
        for other in moved[:place]:
            both = int(top.common[one, other])
            overlaps.append(both / (top.sizes[one] + top.sizes[other] - both))
            nulls.append(kernels.weight_change.jaccard_null(top.sizes[one] / entries, top.sizes[other] / entries))
    yield TOP20_JACCARD.at(name, sum(overlaps) / len(overlaps), sum(nulls) / len(nulls), sizes=list(top.sizes))


def _spaces(view: "Comparison", gram: "Tensor", moved: list[int]) -> Iterator[Measurement | Skip]:
    kernel, name, rows = kernels.task_vectors, view.site.name, view.before.matrix.shape[0]
    if kernel.has_left_grams(view, len(moved)):
        shared, talk = kernel.shared_energy(view, moved)
        size = -(-rows // 10)
        yield SHARED_ENERGY.at(name, min(max(shared, 0.0), 1.0), size / rows, directions=size)
        yield CROSS_TALK.at(name, min(talk, 1.0), rows**-0.5, outputs=rows)
        return
    found = kernel.cross_talk(view, gram.diagonal().sqrt().tolist(), moved)
    if found is None:
        yield skip(name, f"shared_energy, cross_talk: both sides above {kernel.MAX_SIDE}")
        return
    yield skip(name, f"shared_energy: Gram matrices of {rows} outputs for {len(moved)} tasks are too large")
    yield CROSS_TALK.at(name, min(found, 1.0), rows**-0.5, outputs=rows)
