"""Weight drift: what moved between two checkpoints, how far, and what did not move at all."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Role, Skip, on, pair_analyzer, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.comparisons import Comparison, Model
    from collapse_cli.kernels.weight_change import Change

#: √(π/2 − 1): coefficient of variation of ∣z∣ of a Gaussian.
GAUSSIAN_UNIFORMITY = math.sqrt(math.pi / 2.0 - 1.0)
#: Fewer moved weights of one role than this have no typical change.
_LEAST_SITES = 5
#: Least spread of ln(relative change) within one role: weights that move within 30 % of each other move alike.
_LEAST_SPREAD = 0.25
#: More zeros than this make a mask of them.
_SPARSE = 0.01

RELATIVE_CHANGE = Metric(
    "relative_change",
    "1",
    "The norm of the change over the norm of the weight before.",
    null="recasting to the coarser of the two stored precisions, and nothing else",
)
CHANGED_SHARE = Metric("changed_share", "1", "The share of the entries that are not the same to the bit.")
UNCHANGED_ROW_SHARE = Metric(
    "unchanged_row_share",
    "1",
    "The share of the rows (codes, tokens, experts, units) that are the same to the bit.",
    null="no row of a weight that trains stays as it was",
)
STUCK_CODE_SHARE = Metric(
    "stuck_code_share",
    "1",
    "The share of the codes of a codebook that are the same to the bit while others moved.",
    better="lower",
    warn=Limit(
        "above",
        0.9,
        "zoo: beyond every sound run, none of whose codes is stuck; here nine of ten never received an update",
    ),
    null="no code of a codebook that trains stays as it was",
    message="{stuck} of {rows} codes are the same to the bit as before, although the others moved.",
)
DIRECTION_COSINE = Metric(
    "direction_cosine",
    "1",
    "The cosine between the weight before and after.",
    null="1/√(number of entries), the size of the cosine of two unrelated weights",
)
NORM_RATIO = Metric("norm_ratio", "1", "The norm after over the norm before.", null="the norm did not change")
STRAGGLER_SCORE = Metric(
    "straggler_score",
    "1",
    "How far ln(relative change) lies from the median of the weights of its role, in robust standard deviations.",
    warn=Limit(
        "above",
        20.0,
        "zoo: beyond every sound run, 5 at most; 150 times the median change of its role where these agree",
    ),
    null="the median of the weights of its role",
    message="Moved {factor:.3g} times as far as the median of the {sites} weights of role {role} that moved.",
)
UPDATE_UNIFORMITY = Metric(
    "update_uniformity",
    "1",
    "The coefficient of variation of the sizes of the changes, over the entries that changed.",
    null="a Gaussian change; one step of equal signs gives 0",
)
TINY_CHURN = Metric(
    "tiny_churn",
    "1",
    "One minus the Jaccard index of the two sets of the smallest tenth of the entries.",
    null="two random sets of these sizes",
)
MASK_JACCARD = Metric(
    "mask_jaccard",
    "1",
    "The Jaccard index of the two sets of entries that are not zero, where either weight has zeros.",
    null="two random masks of these densities",
)


def _layers(scale: float, *, seed: int) -> dict[str, object]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return {
        f"encoder.layer.{layer}.attention.self.query.weight": scale * torch.randn(16, 16, generator=generator)
        for layer in range(6)
    }


def healthy() -> Example:
    """Six layers that all moved by about a tenth."""
    before, step = _layers(1.0, seed=0), _layers(0.1, seed=1)
    after = {name: before[name] + step[name] for name in before}  # type: ignore[operator]
    return Example(before, config={"model_type": "bert"}, others=(after,))


def collapsed() -> Example:
    """A codebook of which 986 of 1000 codes never moved; a pruned weight; one layer that ran away."""
    import torch

    before, step = _layers(1.0, seed=0), _layers(0.01, seed=1)
    after = {name: before[name] + step[name] for name in before}  # type: ignore[operator]
    runaway = "encoder.layer.3.attention.self.query.weight"
    after[runaway] = before[runaway] + 1000.0 * step[runaway]  # type: ignore[operator]
    generator = torch.Generator().manual_seed(2)
    codes = torch.randn(1000, 8, generator=generator)
    moved = codes.clone()
    moved[:14] += 0.5
    pruned = torch.randn(32, 32, generator=generator)
    pruned[pruned.abs() < 0.5] = 0.0
    return Example(
        {**before, "quantize.codebook": codes, "mlp.fc1.weight": pruned},
        config={"model_type": "bert"},
        others=({**after, "quantize.codebook": moved, "mlp.fc1.weight": 1.5 * pruned},),
    )


@pair_analyzer(
    name="weight-drift",
    family="drift",
    title="Weight drift",
    metrics=(
        RELATIVE_CHANGE,
        CHANGED_SHARE,
        UNCHANGED_ROW_SHARE,
        STUCK_CODE_SHARE,
        DIRECTION_COSINE,
        NORM_RATIO,
        STRAGGLER_SCORE,
        UPDATE_UNIFORMITY,
        TINY_CHURN,
        MASK_JACCARD,
    ),
    accepts=on.floating(),
    sums_up=True,
    remedy="If it should have moved: check requires_grad, that the optimiser holds the parameter in a group, and that "
    "the learning rate is more than one rounding step (keep fp32 master weights); restart codes that never move. A "
    "layer that ran ahead: lower its rate, or leave it out when checkpoints are interpolated.",
    references=(
        Reference(
            "Zheng et al. Preventing Zero-Shot Transfer Degradation in Continual Learning of Vision-Language Models. "
            "2023",
            "https://arxiv.org/abs/2303.06628",
        ),
        Reference(
            "Chen et al. Symbolic Discovery of Optimization Algorithms. 2023", "https://arxiv.org/abs/2302.06675"
        ),
        Reference(
            "Zhu et al. Addressing Representation Collapse in Vector Quantized Models with One Linear Layer. 2024",
            "https://arxiv.org/abs/2411.02038",
        ),
        Reference(
            "Liu et al. Monolith: Real Time Recommendation System With Collisionless Embedding Table. 2022",
            "https://arxiv.org/abs/2209.07663",
        ),
        Reference(
            "Hu et al. SaRA: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse Low-Rank Adaptation. "
            "2024",
            "https://arxiv.org/abs/2409.06633",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "transposed", "rows_permuted"),
    unmoved_metrics=(
        "relative_change",
        "changed_share",
        "direction_cosine",
        "norm_ratio",
        "straggler_score",
        "update_uniformity",
    ),
)
def weight_drift(view: "Comparison | Model") -> Iterator[Measurement | Skip]:
    """What moved, how far, and what did not move at all?

    ## Why it matters
    Training that leaves a tensor as it was, or moves one layer a hundred times as far as its like, does not show in
    the loss. A parameter that is missing from the optimiser, a learning rate below the rounding step of a bf16 weight,
    codes that no input selects: all of them are entries that are the same to the bit after a thousand steps.

    ## How to read it
    `relative_change` says how far; at or below its null recasting the file could have made all of it ("within rounding"
    in the evidence). `changed_share` and `unchanged_row_share` say what did not move at all; both are exact.
    `direction_cosine` near 1 with a `norm_ratio` away from 1 is scaling, as weight decay makes it. `straggler_score`
    sets each weight against those of its own role. `update_uniformity` is 0 after one step of equal size everywhere (a
    sign step), 0.76 for a Gaussian change, and large when a few entries moved and most hardly did. `tiny_churn` and
    `mask_jaccard` tell whether the smallest entries, or the pruned ones, are still the same ones: a Jaccard index is
    the share of the entries of either set that are in both. Site `#model` holds the change of all tensors together.

    ## Limits
    A frozen tower, a fixed head or an untouched base under adapters is a design, so an unchanged weight is reported
    and not judged; only a codebook that trains in part is. Steps of equal size add up to unequal ones, hence
    `update_uniformity` tells the optimiser only over one or few steps. The distance does not decide whether two
    models can be interpolated. Averaged (EMA) and raw weights must not be paired with each other. Fewer than five
    weights of one role have no straggler.
    """
    kernel = kernels.weight_change
    if not isinstance(view, kernels.comparisons.Comparison):
        yield from _of_the_model(view)
        return
    name = view.site.name
    if view.before.tensor.numel() == 0:
        yield skip(name, "empty tensor")
        return
    change = view.get(kernel.change)
    yield from _of_one(name, change)
    if change.rows > 1:
        same, rows = change.unchanged_rows, change.rows
        yield UNCHANGED_ROW_SHARE.at(name, same / rows, 0.0, unchanged=same, rows=rows)
        if view.site.role is Role.CODEBOOK and change.changed:
            yield STUCK_CODE_SHARE.at(name, same / rows, 0.0, stuck=same, rows=rows)
    shares = change.tiny_before / change.entries, change.tiny_after / change.entries
    jaccard = change.tiny_in_both / (change.tiny_before + change.tiny_after - change.tiny_in_both)
    null = 1.0 - kernel.jaccard_null(*shares)
    yield TINY_CHURN.at(name, 1.0 - jaccard, null, share_before=shares[0], share_after=shares[1])
    yield from _mask(name, change)


def _of_one(name: str, change: "Change") -> Iterator[Measurement | Skip]:
    """What is said of one tensor as of all together."""
    facts = {"entries": change.entries, "changed": change.changed}
    moved = "within rounding" if change.is_within_rounding else "moved"
    reading = moved if change.changed else "unchanged"
    yield CHANGED_SHARE.at(name, change.changed / change.entries, entries=change.entries, changed=change.changed)
    if change.relative is None:
        yield skip(name, "relative_change, norm_ratio: all zero before")
    else:
        yield RELATIVE_CHANGE.at(name, change.relative, change.rounding, reading=reading, **facts)
        if change.squared_before > 0.0:
            yield NORM_RATIO.at(name, math.sqrt(change.squared_after / change.squared_before), 1.0)
    if change.cosine is not None:
        yield DIRECTION_COSINE.at(name, change.cosine, 1.0 / math.sqrt(change.entries), entries=change.entries)
    if change.uniformity is not None:
        yield UPDATE_UNIFORMITY.at(name, change.uniformity, GAUSSIAN_UNIFORMITY, changed=change.changed)


def _mask(name: str, change: "Change") -> Iterator[Measurement]:
    zeros = change.zeros_before, change.zeros_after
    if max(zeros) <= _SPARSE * change.entries:
        return
    densities = tuple(1.0 - count / change.entries for count in zeros)
    union = change.entries - change.zeros_in_both
    if union == 0:
        return
    both = change.entries - sum(zeros) + change.zeros_in_both
    null = kernels.weight_change.jaccard_null(*densities)
    yield MASK_JACCARD.at(name, both / union, null, density_before=densities[0], density_after=densities[1])


def _of_the_model(model: "Model") -> Iterator[Measurement | Skip]:
    kernel = kernels.weight_change
    parts = [(part, change) for part, change in model.parts_with(kernel.change) if change.entries]
    if not parts:
        return
    yield from _of_one(model.site.name, kernel.total([change for _, change in parts]))
    moved: dict[str, list[tuple[str, float]]] = {}
    for part, change in parts:
        if change.relative and not change.is_within_rounding:
            moved.setdefault(part.site.role.value, []).append((part.site.name, change.relative))
    for role, sites in moved.items():
        if len(sites) < _LEAST_SITES:
            continue
        logs = [math.log(relative) for _, relative in sites]
        middle = sorted(relative for _, relative in sites)[len(sites) // 2]
        for (name, relative), score in zip(sites, kernel.robust_scores(logs, _LEAST_SPREAD), strict=True):
            yield STRAGGLER_SCORE.at(name, score, 0.0, role=role, sites=len(sites), factor=relative / middle)
    if not any(len(sites) >= _LEAST_SITES for sites in moved.values()):
        yield skip(model.site.name, f"straggler_score: no role has {_LEAST_SITES} weights that moved")
