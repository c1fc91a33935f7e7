"""How far two modalities stand apart in their common space."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

__all__ = ["modality_gap"]

#: Fewer pairs leave the mean directions so uncertain, √(2/N) ≥ .045, that a small gap is not seen.
MIN_ROWS = 1000
#: Rows at most that are compared pair by pair: three matrices of this side.
MOST_ROWS = 4096
LEFT, RIGHT, PAIRS = "moments(modality_a)", "moments(modality_b)", "cross_moments(modality_a,modality_b)"
SAMPLE = "sample(modality_a,modality_b)"
INDEPENDENT = "two modalities without a relation, each in directions without a preference"

CENTROID_GAP = Metric(
    "centroid_gap",
    "1",
    "The distance between the mean directions of the two modalities, 0 to 2.",
    null="√(2/N): two samples of one cloud of unit rows",
)
RMG = Metric(
    "rmg",
    "1",
    "Relative modality gap: the mean distance of a pair over itself plus the mean distance within the modalities.",
    better="lower",
    warn=Limit(
        "above",
        0.8,
        "zoo: beyond every healthy model; 0.14 where a partner is found, 0.59 for trained CLIP, "
        "0.85 to 0.92 where half of the partners are lost",
    ),
    error=Limit(
        "above", 0.95, "zoo: 0.976 to 0.987 where nine of ten partners are lost, at most 0.92 where half of them are"
    ),
    null="½: partners as far apart as two rows of one modality",
    message="Of a relative modality gap of at most 1 it has {value:.3g} (chance {null:.3g}): each modality keeps to "
    "a cone of its own, mean cosine {cosine_a:.3g} and {cosine_b:.3g} within and {cosine_pairs:.3g} between partners.",
)
SEPARABILITY = Metric(
    "separability",
    "1",
    "The accuracy with which a linear classifier tells the modalities apart on rows it has not seen.",
    better="lower",
    null="½: the modalities fill one region",
)
GAP_VARIANCE_SHARE = Metric(
    "gap_variance_share",
    "1",
    "The share of the variance of all unit rows that lies between the two mean directions.",
    better="lower",
    null="1/(2N): two samples of one cloud",
)
CROSS_UNIFORMITY = Metric(
    "cross_uniformity",
    "1",
    "ln mean exp(−2d²) over the distances d between rows of different modalities that are not partners.",
    better="lower",
    warn=Limit(
        "above",
        -0.1,
        "zoo: beyond every healthy model, −3.2 or less; unit rows of both modalities within 0.22, a cosine of 0.975",
    ),
    null="−4 + ln ₀F₁(; D/2; 4): independent uniform directions",
    message="Rows of different modalities that do not belong together are as good as equal: cross-uniformity "
    "{value:.3g}, {null:.3g} for directions spread evenly in {features} dimensions.",
)
RELATIVE_ALIGNMENT = Metric(
    "relative_alignment",
    "1",
    "Mean squared distance of a row to its partner less that to the nearest other row of the other modality.",
    better="lower",
)


def healthy() -> Example:
    """Partners share a direction and differ by noise; both modalities fill the space."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(1024, 16, generator=generator)
    return Example(
        {
            "projection/modality_a": shared + 0.2 * torch.randn(1024, 16, generator=generator),
            "projection/modality_b": shared + 0.2 * torch.randn(1024, 16, generator=generator),
        },
        metadata={},
    )


def collapsed() -> Example:
    """Each modality in a narrow cone, and the two cones opposite to each other."""
    import torch

    generator = torch.Generator().manual_seed(0)
    pole = torch.nn.functional.one_hot(torch.tensor(0), 16)
    return Example(
        {
            "projection/modality_a": pole + 0.01 * torch.randn(1024, 16, generator=generator),
            "projection/modality_b": -pole + 0.01 * torch.randn(1024, 16, generator=generator),
        },
        metadata={},
    )


@activation_analyzer(
    name="modality-gap",
    family="modality",
    title="Modality gap",
    metrics=(CENTROID_GAP, RMG, SEPARABILITY, GAP_VARIANCE_SHARE, CROSS_UNIFORMITY, RELATIVE_ALIGNMENT),
    accepts=on.points("modality_a", "modality_b", says="hook points with two modalities of equal width"),
    remedy="Add uniformity terms within and across the modalities, raise the temperature at which training begins, mix "
    "the modalities in negatives, or subtract each modality's mean after training. Not every gap hurts: decide by the "
    "downstream score.",
    references=(
        Reference(
            "Liang et al. Mind the Gap: Understanding the Modality Gap in Multi-modal Contrastive Representation "
            "Learning. 2022",
            "https://arxiv.org/abs/2203.02053",
        ),
        Reference(
            "Fahim, Murphy & Fyshe. It's Not a Modality Gap: Characterizing and Addressing the Contrastive Gap. 2024",
            "https://arxiv.org/abs/2405.18570",
        ),
        Reference(
            "Schrodi et al. Two Effects, One Trigger: On the Modality Gap, Object Bias, and Information Imbalance in "
            "Contrastive Vision-Language Models. 2024",
            "https://arxiv.org/abs/2404.07983",
        ),
        Reference(
            "Oh et al. Geodesic Multi-Modal Mixup for Robust Fine-Tuning. 2022", "https://arxiv.org/abs/2203.03897"
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=(LEFT, RIGHT, PAIRS, SAMPLE),
    unmoved_by=("samples_permuted", "features_rotated", "scaled"),
    # which rows are held out depends on their index
    unmoved_metrics=("centroid_gap", "rmg", "gap_variance_share", "cross_uniformity", "relative_alignment"),
)
def modality_gap(point: "Activations") -> Iterator[Measurement | Skip]:
    """Do two modalities live in separate cones, and is it a gap of means, of spread, or of uniformity?

    ## Why it matters
    A retrieval or zero-shot score compares rows of different modalities. If each modality keeps to its own cone, most
    of the cosine says which modality a row comes from, mixed galleries rank by modality first, and the space between
    the cones is never used. Contrastive training at a low temperature keeps the gap that initialisation made.

    ## How to read it
    `centroid_gap` is the distance of the mean directions: 0.82 for CLIP on COCO, about √(2/N) without a gap. `rmg`
    relates it to the spread: ½ if partners are as far apart as any two rows of one modality, below it if partners
    attract, near 1 if each modality is a point. `separability` at ½ means that the gap is closed, at 1 that a plane
    lies between the modalities (true of CLIP). `gap_variance_share` says how much of the variance is the gap;
    `cross_uniformity` near 0 that everything lies in one place, near its null that unrelated rows are spread evenly.
    `relative_alignment` below 0 means that the partner is usually the nearest row of the other modality. The evidence
    holds the mean cosines and the uniformity within each modality.

    ## Limits
    All rows are scaled to length one first. Equal mean directions with different covariances still separate, though
    `centroid_gap` is then 0. Two encoders of one modality show a gap too: compare with such a control before blaming
    the modality. Both modalities on one point leave `rmg` at 0/0, which is skipped and shows in `cross_uniformity`.
    A large gap is harmful only for some uses; the limits therefore ask for cones that are nearly points.
    """
    name, rows, left, right = point.site.name, point.finite_rows, point.read(LEFT), point.read(RIGHT)
    if rows < MIN_ROWS:
        yield skip(name, f"{rows:,} rows < {MIN_ROWS:,}")
        return
    width, other = left.mean.numel(), right.mean.numel()
    if width != other:
        yield skip(name, f"widths {width} and {other}: the modalities share no space, see cross-modal-alignment")
        return
    if left.unit_count < 2 or right.unit_count < 2:
        yield skip(name, "all rows of a modality are zero")
        return
    facts = _facts(point, left, right)
    gap = kernels.modalities.centroid_gap(left, right)
    yield CENTROID_GAP.at(name, gap.distance, (2.0 / rows) ** 0.5, **facts)
    if gap.variance_share is None:
        yield skip(name, "gap_variance_share, rmg: all rows of both modalities have one direction, 0/0")
    else:
        spreads = {"spread_a": gap.left_spread, "spread_b": gap.right_spread}
        yield GAP_VARIANCE_SHARE.at(name, gap.variance_share, 0.5 / rows, **facts, **spreads)
        yield from _relative_gap(point, facts)
    yield from _between_rows(point, facts)


def _facts(point: "Activations", left: Any, right: Any) -> dict[str, Any]:
    cosine = kernels.isotropy.mean_cosine
    return {
        "rows": point.finite_rows,
        "features": left.mean.numel(),
        "dtype": point.dtypes.get("modality_a", ""),
        "cosine_a": cosine(left.unit_sum, left.unit_count),
        "cosine_b": cosine(right.unit_sum, right.unit_count),
        "zero_rows": 2 * point.finite_rows - left.unit_count - right.unit_count,
    }


def _is_paired(point: "Activations") -> bool:
    return point.metadata.get("paired", "").strip().lower() not in ("false", "no", "0")


def _relative_gap(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    left, right, pairs = point.read(LEFT), point.read(RIGHT), point.read(PAIRS)
    value = kernels.modalities.relative_modality_gap(left, right, pairs)
    if not _is_paired(point):
        yield skip(point.site.name, "rmg, relative_alignment: rows not paired")
    elif value is None:
        yield skip(point.site.name, "rmg: partners and modalities have no spread, 0/0")
    else:
        cosine = pairs.cosine_sum / pairs.cosine_count
        yield RMG.at(point.site.name, value, 0.5, **facts, cosine_pairs=cosine)


def _between_rows(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, sample, nearest, modalities = point.site.name, point.read(SAMPLE), kernels.nearest_rows, kernels.modalities
    left, right = (
        kernels.hypersphere.unit_rows(nearest.uniform_rows(sample, role, MOST_ROWS))
        for role in ("modality_a", "modality_b")
    )
    facts = facts | {"sampled": left.shape[0], "exact": left.shape[0] == point.finite_rows}
    across = modalities.cross_distances(left, right)
    potentials = [kernels.hypersphere.pair_potential(rows) for rows in (left, right)]
    yield CROSS_UNIFORMITY.at(
        name,
        across.potential,
        kernels.hypersphere.uniformity_ideal(left.shape[1]),
        **facts,
        **{f"uniformity_{side}": within.value for side, within in zip("ab", potentials, strict=True) if within},
    )
    if _is_paired(point):
        share = across.nearest_share
        yield RELATIVE_ALIGNMENT.at(name, across.relative_alignment, **facts, partner_is_nearest=share)
    indices = sample.indices[sample.is_uniform]
    indices = indices[nearest.thinned(indices.numel(), MOST_ROWS)]
    accuracy = modalities.ridge_separability(left, right, indices, seed=point.seed)
    if accuracy is None:
        yield skip(name, "separability: too few rows to hold a half out")
        return
    yield SEPARABILITY.at(name, accuracy, 0.5, **facts, standard_error=(8.0 * left.shape[0]) ** -0.5)
