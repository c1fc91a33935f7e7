"""Class subspaces: how wide each class is, how far classes are apart, and how much their subspaces overlap."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.neural_collapse import Classes
    from collapse_cli.kernels.views import Activations

ORTHOGONAL = "directions at random, 90 degrees"

INTRA_ANGLE = Metric(
    "intra_angle",
    "degrees",
    "The mean angle of two rows of one class, averaged over classes.",
    null=ORTHOGONAL,
)
INTER_ANGLE = Metric(
    "inter_angle",
    "degrees",
    "The mean angle of a row of one class and a row of another, averaged over classes.",
    null=ORTHOGONAL,
)
CLASS_SEPARATION = Metric(
    "class_separation",
    "1",
    "One minus the mean cosine distance within classes over that of all rows, classes weighted alike.",
    null="random labels: (1/ν − 1/N)/(1 − 1/N)",
)
SUBSPACE_OVERLAP = Metric(
    "subspace_overlap",
    "1",
    "The mean share of the leading directions of one class that lies in those of another, at 95 % of the variance.",
    better="lower",
    null="subspaces at random: r/D",
)
CLASS_ERANK = Metric(
    "class_erank",
    "directions",
    "The median over classes of the entropy rank of the variances within a class.",
    null="isotropic Gaussian rows, as many as are sampled",
)
CLASS_SPREAD_RATIO = Metric(
    "class_spread_ratio",
    "1",
    "The largest variance of a class over the smallest.",
    better="lower",
    null="equal spread: the typical largest ratio of two of K sample variances",
)
SEPARATING_DIMS = Metric(
    "separating_dims",
    "dimensions",
    "The median over pairs of classes of the fewest single dimensions that tell them apart on held-out rows.",
    better="lower",
)
ICNN = Metric(
    "icnn",
    "1",
    "The mean of two scores of the five nearest rows: how many are of the class, and how near these are among them.",
    better="higher",
)


def healthy() -> Example:
    """Four classes, each filling its own four of sixteen dimensions about its own mean."""
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(160) % 4
    own = torch.arange(16) // 4 == labels[:, None]
    features = own * (1.0 + torch.randn(160, 16, generator=generator))
    return Example({"features": features, "labels": labels}, metadata={})


def collapsed() -> Example:
    """Four classes that all spread along the same direction, one of them a hundred times less than the others."""
    import torch

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(160) % 4
    spread = torch.where(labels == 0, 0.01, 1.0) * torch.randn(160, generator=generator)
    features = spread[:, None] * torch.ones(16) + torch.eye(4, 16)[labels]
    return Example({"features": features, "labels": labels}, metadata={})


@activation_analyzer(
    name="class-subspaces",
    family="class-geometry",
    title="Class subspaces",
    metrics=(
        INTRA_ANGLE,
        INTER_ANGLE,
        CLASS_SEPARATION,
        SUBSPACE_OVERLAP,
        CLASS_ERANK,
        CLASS_SPREAD_RATIO,
        SEPARATING_DIMS,
        ICNN,
    ),
    accepts=on.points("features", "labels", says="hook points with features and labels"),
    remedy="For transfer keep classes wide: class subspaces in the head, a lower temperature, no margin. Where "
    "subspaces overlap, train with an objective that spends volume on each class (rate reduction).",
    references=(
        Reference(
            "Wang, Li & Zhang. Get the Best of Both Worlds: Improving Accuracy and Transferability by Grassmann Class "
            "Representation. 2023",
            "https://arxiv.org/abs/2308.01547",
        ),
        Reference(
            "Kornblith et al. Why Do Better Loss Functions Lead to Less Transferable Features? 2020",
            "https://arxiv.org/abs/2010.16402",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=("class_moments", "sample"),
    unmoved_by=("scaled", "features_rotated"),
    unmoved_metrics=(
        "intra_angle",
        "inter_angle",
        "class_separation",
        "subspace_overlap",
        "class_erank",
        "class_spread_ratio",
        "icnn",
    ),
)
def class_subspaces(point: "Activations") -> Iterator[Measurement | Skip]:
    """How wide is each class, how separate, and do class subspaces overlap?

    ## Why it matters
    Two classes can have means far apart and still be confused, if they spread along the same directions; and classes
    shrunk to points lose what a later task would need. Width, separation and overlap of classes say which of the two a
    representation is closer to, which one number about class means does not.

    ## How to read it
    `intra_angle` small and `inter_angle` near 90 degrees or beyond is a classifier; transfer prefers wider classes.
    `class_separation` sums both up between 0 and 1; its null at random labels is not 0 for small classes.
    `subspace_overlap` is 0 for orthogonal class subspaces; compare it with its null, the share that random subspaces of
    that size have. `class_erank` is the number of directions a class uses, with the narrowest class in the evidence.
    `class_spread_ratio` far above its null is a detector of one class. `separating_dims` counts the coordinates that
    are needed to tell two classes apart; `icnn` asks it of the nearest rows.

    ## Limits
    No limit is set: retrieval wants narrow classes and transfer wants wide ones. Angles are about the origin, so a
    common offset makes all of them small. The subspaces come from at most 64 sampled rows of each of at most 32
    classes: a class of more than half as many directions as rows is not compared. `separating_dims` depends on the
    basis and looks at 24 pairs. `separating_dims` and `icnn` are experimental; the latter leaves out the scaling of
    single features and the rounding of the public code.
    """
    from statistics import median

    name = point.site.name
    found = kernels.neural_collapse.classes_of(point.read("class_moments"), rows=kernels.class_subspaces.CLASS_ROWS)
    rows = point.get(kernels.class_subspaces.class_rows)
    if found.count < 2 or len(rows) < 2:
        yield skip(name, f"fewer than 2 classes with {kernels.class_subspaces.CLASS_ROWS} rows")
        return
    facts = {
        "classes": found.count,
        "small_classes": found.left_out,
        "sampled_classes": len(rows),
        "sampled_rows": sum(part.shape[0] for part in rows),
        **kernels.feature_spectrum.facts(point),
    }
    within, between = kernels.class_subspaces.class_angles(rows)
    yield INTRA_ANGLE.at(name, within, 90.0, **facts)
    yield INTER_ANGLE.at(name, between, 90.0, **facts)
    yield from _separation(point, facts)
    yield from _spreads(point, found, facts)
    yield from _subspaces(point, facts)
    needed, unseparated = point.get(kernels.class_subspaces.separating_dimensions)
    yield SEPARATING_DIMS.at(name, median(needed), pairs=len(needed), unseparated=unseparated, **facts)
    score, spread, same = kernels.class_subspaces.nearest_neighbour_score(rows)
    chance = kernels.class_subspaces.root_share_null([part.shape[0] for part in rows])
    yield ICNN.at(name, score, distances=spread, neighbours=same, random_neighbours=chance, **facts)


def _separation(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, moments = point.site.name, point.read("class_moments")
    is_kept = moments.unit_counts >= kernels.class_subspaces.CLASS_ROWS
    counts = moments.unit_counts[is_kept]
    if counts.numel() < 2:
        yield skip(name, "class_separation: fewer than 2 classes with rows that are not zero")
        return
    value = kernels.class_geometry.class_separation(moments.unit_sums[is_kept], counts)
    if value is None:
        yield skip(name, "class_separation: all rows point one way")
        return
    rows, size = int(counts.sum()), kernels.neural_collapse.harmonic_size(counts)
    yield CLASS_SEPARATION.at(name, value, (1.0 / size - 1.0 / rows) / (1.0 - 1.0 / rows), **facts)


def _spreads(point: "Activations", found: "Classes", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, variances = point.site.name, found.variances
    low, high = float(variances.min()), float(variances.max())
    dimension = point.get(kernels.neural_collapse.within_dimension)
    if low <= found.rounding**2 or dimension == 0.0:
        yield skip(name, f"class_spread_ratio: zero spread in {int((variances <= found.rounding**2).sum())} classes")
        return
    degrees = dimension * (kernels.neural_collapse.harmonic_size(found.counts) - 1.0)
    null = kernels.class_subspaces.largest_variance_ratio_null(found.count, degrees)
    widest, narrowest = int(found.labels[variances.argmax()]), int(found.labels[variances.argmin()])
    yield CLASS_SPREAD_RATIO.at(name, high / low, null, widest=widest, narrowest=narrowest, **facts)


def _subspaces(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    from statistics import median

    name, found = point.site.name, point.get(kernels.class_subspaces.subspaces)
    if not found:
        yield skip(name, "subspace_overlap, class_erank: zero spread in every class")
        return
    ranks = [subspace.entropy_rank for subspace in found]
    chance = [kernels.random_matrix.effective_rank_lambda_null(subspace.rows - 1, facts["width"]) for subspace in found]
    yield CLASS_ERANK.at(name, median(ranks), median(chance), narrowest=min(ranks), spread_classes=len(ranks), **facts)
    overlap = kernels.class_subspaces.subspace_overlap(found)
    if overlap is None:
        rows, rank = found[0].rows, max(subspace.rank for subspace in found)
        yield skip(name, f"subspace_overlap: n_k < 2r, {rows} sampled rows and rank {rank}, or one class with spread")
        return
    yield SUBSPACE_OVERLAP.at(name, overlap.mean, overlap.null, largest=overlap.largest, pairs=overlap.pairs, **facts)
