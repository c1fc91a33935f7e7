"""Sample diversity: whether a generator still produces different things."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Activations

#: Samples below which nothing is measured, and rows of the reference from which it is the null.
FEW_ROWS = 100
#: The best samples whose distances are averaged, as a share and at most: the top 100 of molecule benchmarks.
BEST_SHARE, MOST_BEST = 10, 100
#: Rows whose objectives are compared in all pairs.
OBJECTIVE_ROWS = 10_000
BY_REFERENCE = "the reference, at the same number of rows"

VENDI = Metric(
    "vendi",
    "samples",
    "The effective number of different directions among the samples: exp of the entropy of their cosine kernel.",
    better="higher",
    error=Limit("below", 1.0 + 1e-6, "definition: all samples are one point"),
    null="the reference at the same number of rows; without one, as many uniform directions",
    message="The samples amount to {value:.6g} different ones of {rows:,}; {null:.3g} are expected.",
)
VENDI_RATIO = Metric(
    "vendi_ratio",
    "1",
    "The Vendi score over that of the reference at the same size, or of uniform directions without one.",
    better="higher",
    null="1",
)
NEAREST_LOG_DISTANCE = Metric(
    "nearest_log_distance",
    "nats",
    "The logarithm of the mean squared distance per feature from a sample to its nearest other sample.",
    better="higher",
    null=BY_REFERENCE,
)
MEAN_SQUARED_DISTANCE = Metric(
    "mean_squared_distance",
    "1",
    "The mean squared distance of two different samples.",
    better="higher",
    warn=Limit(
        "below",
        0.2,
        "zoo: less than half the spread of real data; healthy 0.9 to 1.2, half the modes 0.4",
        "null",
    ),
    error=Limit("below", 0.1, "zoo: a third of that spread; collapsed on one or two modes 0.03 to 0.08", "null"),
    null=BY_REFERENCE,
    message="Two samples are {value:.3g} apart in the mean square, two real ones {null:.3g}.",
)
DUPLICATE_SHARE = Metric(
    "duplicate_share",
    "1",
    "The share of samples that equal an earlier one bit for bit.",
    better="lower",
    warn=Limit("above", 0.5, "zoo: beyond every healthy model, which has none; most outputs are repetitions"),
    null="0: real numbers do not repeat",
    message="{value:.1%} of {rows:,} samples repeat an earlier one exactly.",
)
TOP_K_DISTANCE = Metric(
    "top_k_distance",
    "1",
    "The mean distance of two of the best samples, by the mean of their objectives.",
    better="higher",
)
HYPERVOLUME = Metric(
    "hypervolume",
    "1",
    "The volume of objectives that the samples dominate above a reference point.",
    better="higher",
)


def healthy() -> Example:
    """Samples and real data from one Gaussian, with two objectives."""
    import torch

    generator = torch.Generator().manual_seed(0)
    arrays = {name: torch.randn(300, 16, generator=generator) for name in ("samples", "reference")}
    return Example(arrays | {"targets": torch.rand(300, 2, generator=generator)}, metadata={"embedding": "synthetic"})


def collapsed() -> Example:
    """One sample, again and again."""
    import torch

    generator = torch.Generator().manual_seed(0)
    reference = torch.randn(300, 16, generator=generator)
    return Example({"samples": reference[:1].repeat(300, 1), "reference": reference}, metadata={})


@activation_analyzer(
    name="sample-diversity",
    family="samples",
    title="Sample diversity",
    metrics=(
        VENDI,
        VENDI_RATIO,
        NEAREST_LOG_DISTANCE,
        MEAN_SQUARED_DISTANCE,
        DUPLICATE_SHARE,
        TOP_K_DISTANCE,
        HYPERVOLUME,
    ),
    accepts=on.points("samples", says="hook points with samples"),
    remedy="An entropy term on the outputs, minibatch discrimination, lower guidance or truncation, a loss on the "
    "distribution in place of a loss per sample in distillation, a reward for diversity.",
    references=(
        Reference(
            "Friedman & Dieng. The Vendi Score: A Diversity Evaluation Metric for Machine Learning. 2023",
            "https://arxiv.org/abs/2210.02410",
        ),
        Reference(
            "Liu et al. Combating Mode Collapse in GANs via Manifold Entropy Estimation. 2023",
            "https://arxiv.org/abs/2208.12055",
        ),
        Reference(
            "Li et al. Few-shot Hybrid Domain Adaptation of Image Generators. 2024", "https://arxiv.org/abs/2310.19378"
        ),
        Reference("Jain et al. Multi-Objective GFlowNets. 2023", "https://arxiv.org/abs/2210.12765"),
        Reference(
            "Jeon et al. Improving Diversity in Zero-Shot GAN Adaptation with Semantic Variations. 2023",
            "https://arxiv.org/abs/2308.10554",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("features_rotated", "samples_permuted"),
    # the objectives are no features: they must not be rotated
    unmoved_metrics=("vendi", "vendi_ratio", "nearest_log_distance", "mean_squared_distance", "duplicate_share"),
    needs=("sample(samples)", "sample(reference)"),
    uses=("targets",),
)
def sample_diversity(point: "Activations") -> Iterator[Measurement | Skip]:
    """Has the generator stopped producing different things?

    ## Why it matters
    A generator that has found a few outputs its critic accepts can keep a perfect loss and realistic samples while it
    has lost all others. Nothing but the samples beside one another shows it.

    ## How to read it
    `vendi` counts different directions: 1 for one point, as many as there are orthogonal points. Compare it with the
    real data (`vendi_ratio`): features of a network lie in a cone, which caps the score for everybody.
    `nearest_log_distance` falls when samples crowd together locally although they still span everything; scaling all
    samples by ½ moves it by −1.39. `mean_squared_distance` sees the spread as a whole, `duplicate_share` exact
    repetitions. With objectives in `targets` (more is better), `top_k_distance` says whether the best samples are one
    family, and `hypervolume` how much of the trade-off they cover.

    ## Limits
    The embedding decides what counts as different, so only numbers of one embedding compare. Without a reference the
    null of `vendi` is an ideal no network reaches, and the spread is not judged. It takes 100 samples, and a reference
    of 100 rows to be compared with; both are cut to equal size, at most 50,000 rows by a fixed seed, the score to 4,096
    rows where rows and features are both more. Duplicates reorder the estimates of entropy: the distance is the
    logarithm of the mean, and the entropy of nearest neighbours (in the evidence) the mean of logarithms.
    """
    name, sets = point.site.name, kernels.generated_sets
    if point.finite_rows < FEW_ROWS:
        yield skip(name, f"{point.finite_rows:,} samples: fewer than {FEW_ROWS}")
        return
    if "reference" in point.shapes:
        sets.same_width(point)
    rows, reference = sets.kept(point, "samples"), sets.kept(point, "reference")
    facts: dict[str, Any] = point.get(sets.facts) | {"rows": rows.shape[0]}
    repeated = rows.shape[0] - int(sets.first_of_each(rows).numel())
    yield DUPLICATE_SHARE.at(name, repeated / rows.shape[0], 0.0, **facts, repeated=repeated)
    yield from _objectives(point, rows, facts)
    real = reference if reference.shape[0] >= FEW_ROWS else None
    if real is not None:
        size = min(rows.shape[0], real.shape[0])
        rows, real = sets.at_most(rows, size), sets.at_most(real, size)
    facts |= {"rows": rows.shape[0], "against": "uniform directions" if real is None else "reference"}
    yield from _vendi(name, rows, real, facts)
    spread = kernels.set_distances.mean_squared_pair_distance
    yield MEAN_SQUARED_DISTANCE.at(name, spread(rows), None if real is None else spread(real), **facts)
    distances = kernels.set_distances.nearest(rows).distances[:, 0]
    value = _log_mean_square(distances, rows.shape[1])
    if value is None:
        yield skip(name, f"nearest_log_distance: each of {rows.shape[0]:,} samples has an exact copy")
        return
    entropy = kernels.vendi.nearest_entropy(distances, rows.shape[1])
    chance = None
    if real is not None:
        chance = _log_mean_square(kernels.set_distances.nearest(real).distances[:, 0], rows.shape[1])
    copies = {} if entropy is None else {"kozachenko_leonenko": entropy}
    yield NEAREST_LOG_DISTANCE.at(name, value, chance, **facts, **copies)


def _vendi(name: str, rows: "Tensor", real: "Tensor | None", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    """The score and its ratio to that of the real rows, or of uniform directions."""
    vendi = kernels.vendi
    if min(rows.shape) > vendi.GRAM_SIDE:
        rows = kernels.generated_sets.at_most(rows, vendi.GRAM_SIDE)
        real = None if real is None else kernels.generated_sets.at_most(real, vendi.GRAM_SIDE)
    scores = vendi.vendi_scores(rows)
    if scores is None:
        yield skip(name, "vendi, vendi_ratio: all samples are zero and have no direction")
        return
    real_scores = None if real is None else vendi.vendi_scores(real)
    null = vendi.vendi_null(*rows.shape) if real_scores is None else real_scores[0]
    facts = facts | {"rows": rows.shape[0], "vendi_of_order_2": scores[1]}
    yield VENDI.at(name, scores[0], null, **facts)
    yield VENDI_RATIO.at(name, scores[0] / null, 1.0, **facts, expected=null)


def _log_mean_square(distances: "Tensor", width: int) -> float | None:
    """Logarithm of the mean of d²/D; None where all distances are 0."""
    largest = float(distances.max())
    if largest == 0.0:
        return None
    # about the largest, so that no square underflows
    return 2.0 * math.log(largest) + math.log(float((distances / largest).square().mean()) / width)


def _objectives(point: "Activations", rows: "Tensor", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    """Distances of the best samples and the volume that all dominate, where there are objectives."""
    name = point.site.name
    if "targets" not in point.shapes:
        yield skip(name, "top_k_distance, hypervolume: no targets (objectives)")
        return
    targets = kernels.nearest_rows.uniform_rows(point.read("sample(samples)"), "targets").double()
    targets = targets.reshape(targets.shape[0], -1)
    if targets.shape[1] == 0:
        yield skip(name, "top_k_distance, hypervolume: targets of no objective")
        return
    best = min(MOST_BEST, targets.shape[0] // BEST_SHARE)
    chosen = rows[targets.mean(1).topk(best).indices.to(rows.device)]
    facts = facts | {"best": best, "objectives": targets.shape[1]}
    yield TOP_K_DISTANCE.at(name, kernels.set_distances.mean_pair_distance(chosen), **facts)
    compared = kernels.generated_sets.at_most(targets, OBJECTIVE_ROWS)
    origin = compared.amin(0).clamp_max(0.0)
    volume = kernels.pareto.hypervolume(compared, origin)
    if not math.isfinite(volume.value):
        yield skip(name, "hypervolume: the volume overflows")
        return
    yield HYPERVOLUME.at(
        name, volume.value, **facts, front=volume.front, origin=origin[:128].tolist(), exact_volume=volume.is_exact
    )
