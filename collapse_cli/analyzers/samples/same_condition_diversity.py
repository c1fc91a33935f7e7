"""Same-condition diversity: whether outputs for one condition still vary, and depend on it at all."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Activations

#: Conditions with four outputs or more below which shares over conditions say little.
FEW_GROUPS = 20
#: Share of the total variance below which a condition has one output.
FROZEN = 1e-6
#: Pairs of samples and reference rows below which distances are not compared.
FEW_PAIRS = 20
#: Entropy of single predictions below which the gain divides by next to nothing.
CERTAIN = 1e-6

WITHIN_SHARE = Metric(
    "within_share",
    "1",
    "The variance of outputs of one condition over that of all outputs, both unbiased.",
    warn=Limit("below", 0.01, "zoo: healthy 0.4 and more, regression on one answer 1e-3 to 3e-3"),
    error=Limit("below", FROZEN, "definition: one output per condition"),
    null="1: the condition is ignored",
    message="Outputs of one condition have {value:.3g} of the variance of all, over {groups} conditions.",
)
WITHIN_RATIO = Metric(
    "within_ratio",
    "1",
    "The variance of outputs of one condition over that of the reference rows of the same condition.",
    better="higher",
    warn=Limit("below", 0.5, "zoo: trained under a proper score 1 to 1.3, with most of the spread lost 0.08 to 0.4"),
    error=Limit("below", 0.05, "zoo: regression on one answer keeps 1e-3 to 5e-3 of what the condition leaves open"),
    null="1: as much as the condition leaves open",
    message="Outputs of one condition have {value:.3g} of the variance of {groups} conditions' real answers.",
)
FROZEN_CONDITIONS = Metric(
    "frozen_conditions",
    "1",
    "The share of conditions whose outputs vary by less than a millionth of the total variance.",
    better="lower",
    warn=Limit("above", 0.5, "zoo: beyond every healthy model, which has none; most conditions have one output"),
    null="0",
    message="{value:.1%} of {groups} conditions give one output each.",
)
VIEW_INFORMATION = Metric(
    "view_information",
    "nats",
    "How much a view tells about the predicted class, over the views of one asset: H(mean p) − mean H(p).",
    better="higher",
    null="0: every view gives the same prediction",
)
PAIR_DISTANCE_RATIO = Metric(
    "pair_distance_ratio",
    "1",
    "The mean distance of two samples over that of two reference rows, from the same latents.",
    better="higher",
    warn=Limit("below", 0.1, "zoo: beyond every healthy model, 0.9 to 1.1; a tenth of the distances of the reference"),
    null="1: nothing was lost",
    message="Two samples are {value:.3g} times as far apart as two reference rows from the same {pairs} latents.",
)
DIRECTION_SPREAD = Metric(
    "direction_spread",
    "1",
    "How differently the samples moved from the reference rows of the same latents: 1 − ‖mean unit direction‖².",
    better="higher",
    null="1 − 1/M: random directions",
)
ANSWER_ENTROPY = Metric(
    "answer_entropy",
    "1",
    "The entropy of the answers to one question over that of answers which are all different, averaged.",
    null="1: all answers differ",
)


def _outputs(noise: float) -> Example:
    """Thirty conditions with eight outputs each, a source from the same latents, views and answers beside them."""
    import torch

    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(30).repeat_interleave(8)
    middles = torch.randn(30, 16, generator=generator)
    return Example(
        {
            "samples": middles[groups] + noise * torch.randn(240, 16, generator=generator),
            "reference": torch.randn(240, 16, generator=generator),
            "groups": groups,
            "logits": 3.0 * torch.randn(240, 10, generator=generator),
            "labels": torch.randint(0, 5, (240,), generator=generator),
        },
        metadata={"paired": "true"},
    )


def healthy() -> Example:
    """Half of the variance lies within conditions."""
    return _outputs(1.0)


def collapsed() -> Example:
    """One output per condition."""
    return _outputs(0.0)


@activation_analyzer(
    name="same-condition-diversity",
    family="samples",
    title="Same-condition diversity",
    metrics=(
        WITHIN_SHARE,
        WITHIN_RATIO,
        FROZEN_CONDITIONS,
        VIEW_INFORMATION,
        PAIR_DISTANCE_RATIO,
        DIRECTION_SPREAD,
        ANSWER_ENTROPY,
    ),
    accepts=on.points(
        any_of=(("samples", "groups"), ("logits", "groups"), ("samples", "reference"), ("labels", "groups")),
        says="hook points with samples, logits or labels in groups, or samples paired with a reference",
    ),
    remedy="Entropic score distillation (the unconditional score weighed in as in classifier-free guidance), semantic "
    "variations of the target text, lower guidance, a higher temperature.",
    references=(
        Reference(
            "Wang et al. Taming Mode Collapse in Score Distillation for Text-to-3D Generation. 2024",
            "https://arxiv.org/abs/2401.00909",
        ),
        Reference(
            "Jeon et al. Improving Diversity in Zero-Shot GAN Adaptation with Semantic Variations. 2023",
            "https://arxiv.org/abs/2308.10554",
        ),
        Reference(
            "Chen et al. Rethinking Fine-Tuning when Scaling Test-Time Compute: Limiting Confidence Improves "
            "Mathematical Reasoning. 2025",
            "https://arxiv.org/abs/2502.07154",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("samples_permuted",),
    needs=(
        "class_moments(samples,groups)",
        "sample(samples)",
        "sample(reference)",
        "sample(logits)",
        "counts(labels,groups)",
    ),
    uses=("groups",),
)
def same_condition_diversity(point: "Activations") -> Iterator[Measurement | Skip]:
    """Given one prompt, asset or latent, do outputs still vary, and do they depend on it at all?

    ## Why it matters
    A conditional generator can lose its variety inside every condition while the whole set still looks diverse,
    because conditions differ. Text-to-3D shows one face from all sides, an adapted generator draws one picture for all
    latents, a model tuned on one answer gives that answer every time.

    ## How to read it
    Both ends of `within_share` are ill: 0 is one output per condition, 1 a condition that is ignored; half and half
    reads 0.5. What a condition leaves open only real answers tell: with metadata `paired` and groups, `within_ratio` is
    the variance within conditions over that of the reference rows. `frozen_conditions` says how many conditions have
    one output. `view_information` is 0 when all views of an asset are taken for the same class with the same certainty,
    and log 4 when they spread over four. With metadata `paired`, `pair_distance_ratio` compares samples with the
    reference from the same latents, and `direction_spread` is 0 when all of them moved the same way. `answer_entropy`
    is 0 when all answers to a question agree.

    ## Limits
    Deterministic decoding gives one output per condition and is no collapse: sample before you judge. Groups of fewer
    than four outputs are left out; variances and answers take 20 groups, view information one. Groups are conditions
    here: where they are sites or speakers the answers mean little. Predictions are read on the rows kept of each group,
    at most 32 of large ones, distances on 4,096 pairs. The relative gain of views (evidence) divides by the entropy of
    single predictions and is left out where that is next to 0.
    """
    name, facts = point.site.name, _facts(point)
    if "groups" in point.shapes:
        if point.has("class_moments(samples,groups)"):
            yield from _variances(point, facts)
        else:
            yield skip(name, "within_share, frozen_conditions: no samples")
        yield from _views(point, facts)
        yield from _answers(point, facts)
    else:
        missing = "within_share, frozen_conditions, view_information, answer_entropy"
        yield skip(name, f"{missing}: no groups")
    yield from _pairs(point, facts)


def _facts(point: "Activations") -> dict[str, Any]:
    if "samples" in point.shapes:
        facts: dict[str, Any] = point.get(kernels.generated_sets.facts)
        return facts
    return {"rows": point.rows, "finite_rows": point.finite_rows}


def _variances(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, found = point.site.name, kernels.conditional_spread.within_groups(point.read("class_moments(samples,groups)"))
    if found.groups < FEW_GROUPS:
        few = f"{found.groups} groups of {kernels.conditional_spread.GROUP_SIZE} samples or more"
        yield skip(name, f"within_share, frozen_conditions: {few}, fewer than {FEW_GROUPS}")
        return
    facts = facts | {"groups": found.groups, "grouped_rows": found.rows, "total_variance": found.total_variance}
    yield WITHIN_SHARE.at(name, found.share, 1.0, **facts, within_squares=found.within, total_squares=found.total)
    frozen = int((found.variances <= FROZEN * found.total_variance).sum())
    yield FROZEN_CONDITIONS.at(name, frozen / found.groups, 0.0, **facts, frozen=frozen)


def _views(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, kernel = point.site.name, kernels.conditional_spread
    if not point.has("sample(logits)"):
        yield skip(name, "view_information: no logits")
        return
    sample, found = point.read("sample(logits)"), None
    if sample.count:
        found = kernel.view_information(sample.rows("logits"), sample.rows("groups").reshape(-1).long())
    if found is None:
        yield skip(name, f"view_information: no group of {kernel.GROUP_SIZE} views")
        return
    facts = facts | {"groups": found.groups, "views": found.rows, "quality": found.quality, "variety": found.variety}
    if found.quality > CERTAIN:
        facts |= {"gain": (found.variety - found.quality) / found.quality}
    yield VIEW_INFORMATION.at(name, found.value, 0.0, **facts)


def _answers(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, kernel = point.site.name, kernels.conditional_spread
    if not point.has("counts(labels,groups)"):
        yield skip(name, "answer_entropy: no labels (answers)")
        return
    counts = point.read("counts(labels,groups)")
    if counts.has_too_many_groups or counts.beyond:
        yield skip(name, f"answer_entropy: groups × labels exceed {counts.table_limit:,}; number the answers from 0")
        return
    found = kernel.answer_entropy(counts.by_group)
    if found is None or found[1] < FEW_GROUPS:
        groups = 0 if found is None else found[1]
        yield skip(
            name, f"answer_entropy: {groups} groups of {kernel.GROUP_SIZE} answers or more, fewer than {FEW_GROUPS}"
        )
        return
    yield ANSWER_ENTROPY.at(name, found[0], 1.0, **facts, groups=found[1])


def _pairs(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    """Samples beside the reference from the same latents."""
    name, metrics = point.site.name, "within_ratio, pair_distance_ratio, direction_spread"
    if not (point.has("sample(samples)") and point.has("sample(reference)")):
        yield skip(name, f"{metrics}: no samples with a reference")
        return
    if point.metadata.get("paired", "").strip().lower() in ("", "false", "no", "0"):
        yield skip(name, f"{metrics}: metadata does not say that samples and reference are paired")
        return
    kernels.generated_sets.same_width(point)
    sizes = point.shapes["samples"][0], point.shapes["reference"][0]
    if sizes[0] != sizes[1]:
        yield skip(name, f"{metrics}: {sizes[0]:,} samples and {sizes[1]:,} reference rows cannot be pairs")
        return
    made, real = kernels.conditional_spread.paired_rows(point)
    if made.shape[0] < FEW_PAIRS:
        yield skip(name, f"{metrics}: {made.shape[0]:,} pairs, fewer than {FEW_PAIRS}")
        return
    facts = facts | {"pairs": made.shape[0]}
    yield _within_ratio(point, made, real, facts)
    distance = kernels.set_distances.mean_pair_distance
    apart, source = distance(made), distance(real)
    if source > 0.0:
        yield PAIR_DISTANCE_RATIO.at(name, apart / source, 1.0, **facts, sample_distance=apart, source_distance=source)
    else:
        yield skip(name, "pair_distance_ratio: the reference is constant")
    spread = kernels.conditional_spread.direction_spread(made, real)
    if spread is None:
        yield skip(name, "direction_spread: samples equal their reference rows")
        return
    yield DIRECTION_SPREAD.at(name, spread, 1.0 - 1.0 / made.shape[0], **facts)


def _within_ratio(point: "Activations", made: "Tensor", real: "Tensor", facts: dict[str, Any]) -> Measurement | Skip:
    """Spread within conditions beside that of the reference rows of the same conditions."""
    name, kernel = point.site.name, kernels.conditional_spread
    if "groups" not in point.shapes:
        return skip(name, "within_ratio: no groups")
    both = [kernel.within_sums(rows, kernel.paired_groups(point)) for rows in (made, real)]
    if both[0].groups < FEW_GROUPS:
        few = f"{both[0].groups} groups of {kernel.GROUP_SIZE} pairs or more"
        return skip(name, f"within_ratio: {few}, fewer than {FEW_GROUPS}")
    if both[1].within <= FROZEN * both[1].total:
        return skip(name, "within_ratio: the reference has one row per condition")
    values = {"groups": both[0].groups, "within_squares": both[0].within, "reference_squares": both[1].within}
    return WITHIN_RATIO.at(name, both[0].within / both[1].within, 1.0, **facts, **values)
