"""Whether two ways of preparing the same inputs give the same features."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Activations

__all__ = ["preprocessing_audit"]

MIN_ROWS = 100
NEIGHBOURS = 10
#: Rows at most whose neighbours are compared: a share of 4,096 is known to .008.
MOST_ROWS = 4096
LEFT, RIGHT, PAIRS = "moments(view_a)", "moments(view_b)", "cross_moments(view_a,view_b)"
SAMPLE = "sample(view_a,view_b)"

PAIRED_COSINE = Metric(
    "paired_cosine",
    "1",
    "Mean cosine of the features of one sample under the two recipes.",
    better="higher",
    null="mean cosine of the features of different samples under the two recipes",
)
CENTROID_SHIFT = Metric(
    "centroid_shift",
    "1",
    "The distance between the two means over the standard deviation of the rows about them.",
    better="lower",
    null="√(2/N): two samples of one cloud",
)
PAIRED_CKA_DEBIASED = Metric(
    "paired_cka_debiased",
    "1",
    "Linear CKA of the two recipes from unbiased estimates, 1 where they differ by a rotation and a scale only.",
    better="higher",
    null="0: rows paired at random",
)
KNN_OVERLAP = Metric(
    "knn_overlap",
    "1",
    "The share of the 10 nearest rows under one recipe that are among the 10 nearest under the other.",
    better="higher",
    null="k/(n−1): rows paired at random",
)
RANK_RATIO = Metric(
    "rank_ratio",
    "1",
    "RankMe of the features under recipe a over that under recipe b.",
    null="1: one recipe",
)
ACCURACY_SHIFT = Metric(
    "accuracy_shift",
    "1",
    "The leave-one-out accuracy of ten nearest neighbours under recipe a less that under recipe b.",
    null="0: one recipe",
)


def _example(*, is_normalised: bool) -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(240) % 3
    centres = 2.0 * torch.randn(3, 16, generator=generator)
    right = centres[labels] + torch.randn(240, 16, generator=generator)
    # inputs on another scale drive every feature into one common direction
    left = right.clone() if is_normalised else 0.05 * right + 8.0
    metadata = {"preprocessing": "view_a: resize 224; view_b: resize 224, mean and std of the checkpoint"}
    return Example({"encoder/view_a": left, "encoder/view_b": right, "encoder/labels": labels}, metadata=metadata)


def healthy() -> Example:
    """Two recipes that give the same pixels."""
    return _example(is_normalised=True)


def collapsed() -> Example:
    """Recipe a left the normalisation out: all rows in one direction."""
    return _example(is_normalised=False)


@activation_analyzer(
    name="preprocessing-audit",
    family="nuisance",
    title="Preprocessing audit",
    metrics=(PAIRED_COSINE, CENTROID_SHIFT, PAIRED_CKA_DEBIASED, KNN_OVERLAP, RANK_RATIO, ACCURACY_SHIFT),
    accepts=on.points("view_a", "view_b", says="hook points with the same rows under two recipes of preprocessing"),
    remedy="Extract the features again with the checkpoint's own size, interpolation, mean and standard deviation, and "
    "write the recipe into the dump's metadata.",
    references=(
        Reference(
            "Corley et al. Revisiting pre-trained remote sensing model benchmarks: resizing and normalization "
            "matters. 2023",
            "https://arxiv.org/abs/2305.13456",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=(LEFT, RIGHT, PAIRS, SAMPLE),
    uses=("labels",),
    unmoved_by=("samples_permuted", "features_rotated", "scaled"),
)
def preprocessing_audit(point: "Activations") -> Iterator[Measurement | Skip]:
    """Did preprocessing, not the model, change (or fake the collapse of) the features?

    ## Why it matters
    A wrong mean, a missing division by 255 or another resize changes features more than most training does, and looks
    like a collapsed or useless encoder. On satellite images the right size and normalisation alone have been worth up
    to thirty points of accuracy.

    ## How to read it
    `view_a` and `view_b` hold the same rows under two recipes, and the metadata `preprocessing` names both
    (`view_a: …; view_b: …`). With equal pixels `paired_cosine`, `paired_cka_debiased`, `knn_overlap` and `rank_ratio`
    are 1 and `centroid_shift` and `accuracy_shift` are 0. A cosine far below 1 at a CKA near 1 is a shift that a
    retrained readout takes; a falling overlap is lost information. A `rank_ratio` far below 1 says that recipe a drives
    the features into few directions: blame the recipe before the model. `accuracy_shift` needs labels.

    ## Limits
    Nothing is judged: how far features may move depends on what differs. Random crops look like preprocessing, so both
    recipes must be deterministic. Free text rarely matches letter by letter; the metadata is taken as an assertion that
    the views are recipes and not augmentations. Two dumps with one recipe each are compared by `diff` instead.
    """
    name, rows = point.site.name, point.finite_rows
    reason = _no_audit(point)
    if reason:
        yield skip(name, reason)
        return
    left, right, pairs = point.read(LEFT), point.read(RIGHT), point.read(PAIRS)
    # what rounding of the mean leaves of constant rows is 1e-32 of their squared length
    if any(float(side.centred_scatter.trace()) <= 1e-24 * side.squared_norm_sum for side in (left, right)):
        yield skip(name, "all rows of a view are equal")
        return
    facts: dict[str, Any] = {
        "rows": rows,
        "features": left.mean.numel(),
        "dtype": point.dtypes.get("view_a", point.dtypes.get("views", "")),
        "preprocessing": point.metadata["preprocessing"][:200],
    }
    if left.mean.numel() != right.mean.numel():
        yield skip(name, "paired_cosine, centroid_shift: the views are of different width")
    else:
        yield from _positions(point, facts)
    cka = kernels.similarity.debiased_kernel_alignment(left, right, pairs)
    if cka is None:
        yield skip(name, "paired_cka_debiased: no variance in a view")
    else:
        yield PAIRED_CKA_DEBIASED.at(name, cka, 0.0, **facts)
    ranks = [kernels.uncentred_rank.rankme_of(side) for side in (left, right)]
    yield RANK_RATIO.at(name, ranks[0] / ranks[1], 1.0, **facts, rankme_a=ranks[0], rankme_b=ranks[1])
    yield from _neighbours(point, facts)


def _no_audit(point: "Activations") -> str:
    """Why the two views are not the same rows under two recipes; empty if they are."""
    recipes = point.metadata.get("preprocessing", "").strip()
    if point.metadata.get("paired", "").strip().lower() in ("false", "no", "0"):
        return "rows are not paired"
    if not recipes:
        return "no preprocessing metadata"
    names_both = "view_a" in recipes and "view_b" in recipes
    if not names_both and len(re.split(r"[;|\n]|\bvs\.?\s", recipes)) != 2:
        return "views are augmentations: preprocessing names one recipe, two would be `view_a: …; view_b: …`"
    return f"{point.finite_rows} rows < {MIN_ROWS}" if point.finite_rows < MIN_ROWS else ""


def _positions(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, left, right, pairs = point.site.name, point.read(LEFT), point.read(RIGHT), point.read(PAIRS)
    count = facts["rows"]
    others = left.unit_count * right.unit_count - pairs.cosine_count
    cosine = pairs.cosine_sum / max(pairs.cosine_count, 1)
    null = (float(left.unit_sum @ right.unit_sum) - pairs.cosine_sum) / max(others, 1)
    squared = pairs.squared_cosine_sum / max(pairs.cosine_count, 1)
    deviation = max(squared - cosine * cosine, 0.0) ** 0.5
    yield PAIRED_COSINE.at(name, cosine, null, **facts, standard_deviation=deviation)
    spread = (float(left.centred_scatter.trace()) + float(right.centred_scatter.trace())) / (2.0 * (count - 1))
    shift = float((left.mean - right.mean).norm())
    yield CENTROID_SHIFT.at(name, shift / spread**0.5, (2.0 / count) ** 0.5, **facts)


def _neighbours(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, sample, nearest = point.site.name, point.read(SAMPLE), kernels.nearest_rows
    views = [nearest.uniform_rows(sample, role, MOST_ROWS) for role in ("view_a", "view_b")]
    lists = [nearest.nearest_rows(view, count=NEIGHBOURS) for view in views]
    count = views[0].shape[0]
    facts = facts | {"sampled": count, "exact": count == facts["rows"]}
    yield KNN_OVERLAP.at(name, nearest.shared_neighbours(lists[0], lists[1]), NEIGHBOURS / (count - 1), **facts)
    labels = _labels(point)
    if labels is None:
        yield skip(name, "accuracy_shift: no labels of two classes for all rows")
        return
    accuracies = [kernels.prefixes.Judge(found, labels).quality(found) for found in lists]
    error = sum(share * (1.0 - share) / count for share in accuracies) ** 0.5
    yield ACCURACY_SHIFT.at(
        name,
        accuracies[0] - accuracies[1],
        0.0,
        **facts,
        accuracy_a=accuracies[0],
        accuracy_b=accuracies[1],
        standard_error=error,
    )


def _labels(point: "Activations") -> "Tensor | None":
    if "labels" not in point.shapes:
        return None
    labels = kernels.nearest_rows.uniform_rows(point.read(SAMPLE), "labels", MOST_ROWS).flatten().long()
    unlabelled = kernels.batches.UNLABELLED
    is_missing = bool(((labels == unlabelled[0]) | (labels == unlabelled[1])).any())
    return None if is_missing or bool((labels == labels[:1]).all()) else labels
