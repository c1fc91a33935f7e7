"""How alike two models, or two preprocessings, represent the same samples."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Measurement, Metric, Reference, Skip, activation_pair_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

__all__ = ["representation_similarity"]

#: Fewer rows cannot tell a copy from chance: the null of a Procrustes fit of 8 features is then .34.
MIN_ROWS = 50
#: Wider sides need minutes for one decomposition.
MAX_WIDTH = 4096

INDEPENDENT = "independent representations"
CKA = Metric("cka", "1", "Debiased linear CKA: 1 up to rotation, shift and scale, negative by chance.", null="0")
PROCRUSTES = Metric(
    "procrustes",
    "1",
    "How much of one representation a rotation, shift and scale of the other explains.",
    null=f"√m·E√x/√(N−1), 8/(3π)·√(D/(N−1)) at equal widths: {INDEPENDENT} with isotropic features",
)
MUTUAL_NEIGHBOURS = Metric(
    "mutual_neighbours",
    "1",
    "The share of the 10 nearest rows that is common to both.",
    null=f"k/(N−1): {INDEPENDENT}",
)
RELATIVE_COSINE = Metric(
    "relative_cosine",
    "1",
    "The mean cosine between the profiles of similarities of a row with up to 50 anchor rows, each side centred.",
    null=f"0: {INDEPENDENT}",
)
LINEAR_R2 = Metric(
    "linear_r2", "1", "R² on unseen rows of the ridge map from the first to the second.", null=f"0: {INDEPENDENT}"
)
CLASS_SUBSPACE_OVERLAP = Metric(
    "class_subspace_overlap",
    "1",
    "The share of the 8 leading directions of a class that lies in those of the same class in the other dump.",
    null="8/D: random subspaces",
)
CONCATENATION_GAIN = Metric(
    "concatenation_gain",
    "1",
    "How many times more directions both representations side by side have than the first alone.",
    null=f"two entropy ranks of the Marchenko–Pastur law, about 2: {INDEPENDENT} of isotropic features",
)


def healthy() -> Example:
    """The same representation rotated, scaled, shifted, with a little noise."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 16, generator=generator) * torch.linspace(2.0, 0.5, 16)
    turn = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q
    y = 3.0 * x @ turn + 5.0 + 0.05 * torch.randn(400, 16, generator=generator)
    labels = torch.arange(400) % 4
    return Example({"features": x, "labels": labels}, metadata={}, others=({"features": y, "labels": labels},))


def collapsed() -> Example:
    """Two representations that have nothing to do with one another."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 400, 16, generator=generator)
    labels = torch.arange(400) % 4
    return Example({"features": x, "labels": labels}, metadata={}, others=({"features": y, "labels": labels},))


@activation_pair_analyzer(
    name="representation-similarity",
    family="similarity",
    title="Representation similarity",
    metrics=(
        CKA,
        PROCRUSTES,
        MUTUAL_NEIGHBOURS,
        RELATIVE_COSINE,
        LINEAR_R2,
        CLASS_SUBSPACE_OVERLAP,
        CONCATENATION_GAIN,
    ),
    accepts=on.points("features", "after.features", says="hook points with features in two dumps of the same rows"),
    remedy="Nothing needs repair. Distil where CKA is low, drop a member of an ensemble that adds no rank, stitch two "
    "encoders by anchors, and extract again with the right preprocessing before believing a difference.",
    references=(
        Reference(
            "Kornblith et al. Similarity of Neural Network Representations Revisited. 2019",
            "https://arxiv.org/abs/1905.00414",
        ),
        Reference(
            "Moschella et al. Relative representations enable zero-shot latent space communication. 2022",
            "https://arxiv.org/abs/2209.15430",
        ),
        Reference(
            "Li et al. Convergent Learning: Do different neural networks learn the same representations? 2015",
            "https://arxiv.org/abs/1511.07543",
        ),
        Reference(
            "Song et al. Feature Selection via Dependence Maximization. 2012",
            "https://jmlr.org/papers/v13/song12a.html",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=(
        "moments",
        "moments(after.features)",
        "cross_moments(features,after.features)",
        "sample(features,after.features)",
    ),
    uses=("labels", "after.labels"),
    unmoved_by=("features_rotated", "shifted", "scaled"),
    unmoved_metrics=("cka", "procrustes", "relative_cosine", "linear_r2"),
)
def representation_similarity(point: "Activations") -> Iterator[Measurement | Skip]:
    """Do two models, layers or preprocessings represent the same samples alike?

    ## Why it matters
    Two trainings of one network give different numbers and often the same representation. Whether they do decides what
    can be stitched, distilled, merged or left out of an ensemble, and whether a change of preprocessing was harmless.

    ## How to read it
    `cka`, `procrustes` and `relative_cosine` are 1 for a rotated, scaled and shifted copy. CKA and Procrustes look at
    the directions of large variance, `mutual_neighbours` at the rows nearest to each, `linear_r2` at what a linear map
    recovers on rows that it has not seen; the other direction of the map is in the evidence.
    `class_subspace_overlap` compares coordinates and is not 1 after a rotation. `concatenation_gain` is 1 if the second
    adds no direction and near 2 if it adds as many as the first has. Read each beside its null.

    ## Limits
    Informational: nothing is judged. CKA over-weights early, simple factors of large variance; decodability belongs
    beside it. Biased CKA, which other programs print, is D/(N+D) on noise; it is in the evidence. A common offset
    lifts uncentred cosines of unrelated rows to almost 1, hence the centring. Nulls of Procrustes and of the gain are
    those of isotropic features; a few dominant directions raise the one and lower the other. Hook points are compared
    by name; a map of every layer against every other is not drawn. The linear map asks for twice as many rows as
    features in each half, the class subspaces for 80 rows of a class and equal widths. Rows must be the same samples.
    """
    name = point.site.name
    if reason := kernels.paired_rows.fault(point, MIN_ROWS):
        yield skip(name, reason)
        return
    facts = kernels.feature_spectrum.facts(point)
    facts |= {"width_after": point.read("moments(after.features)").mean.numel()}
    yield from _kernels(point, facts)
    yield from _decompositions(point, facts)
    yield from _rows(point, facts)
    yield from _classes(point, facts)


def _kernels(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, moments = point.site.name, kernels.paired_rows.moments_of(point)
    value = point.get(kernels.paired_rows.debiased_alignment)
    if value is None:
        yield skip(name, "cka: no variance in one of the dumps")
        return
    yield CKA.at(name, value, 0.0, **facts, biased=kernels.similarity.centred_kernel_alignment(*moments))


def _decompositions(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, rows, widths = (
        point.site.name,
        facts.get("finite_rows", facts["rows"]),
        (facts["width"], facts["width_after"]),
    )
    if max(widths) > MAX_WIDTH:
        yield skip(name, f"procrustes, concatenation_gain: width {max(widths):,} > {MAX_WIDTH:,}")
        return
    similarity = kernels.procrustes.procrustes_similarity(*kernels.paired_rows.moments_of(point))
    if similarity is not None:
        null = kernels.procrustes.procrustes_similarity_null(rows, *widths)
        yield PROCRUSTES.at(name, similarity, null, **facts)
    gain, both, one = kernels.paired_rows.concatenated_rank_gain(point)
    null = kernels.paired_rows.concatenated_rank_gain_null(rows, *widths)
    yield CONCATENATION_GAIN.at(name, gain, null, **facts, rank=one, rank_of_both=both)


def _rows(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name = point.site.name
    shared = point.get(kernels.paired_rows.mutual_neighbours)
    if shared is not None:
        facts = facts | {"sampled": shared.rows, "exact": shared.is_exact}
        yield MUTUAL_NEIGHBOURS.at(name, shared.share, shared.null, **facts, neighbours=kernels.paired_rows.NEIGHBOURS)
    anchored = kernels.paired_rows.anchored_cosine(point)
    if anchored is not None:
        yield RELATIVE_COSINE.at(name, anchored[0], 0.0, **facts, anchors=anchored[1])
    found = kernels.paired_rows.held_out_r2(point) if max(facts["width"], facts["width_after"]) <= MAX_WIDTH else None
    if found is None:
        yield skip(name, "linear_r2: fewer than 2 sample rows per feature in each half")
        return
    yield LINEAR_R2.at(name, found[0], 0.0, **facts, backwards=found[1], fitted_rows=found[2])


def _classes(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name = point.site.name
    if "labels" not in point.shapes:
        yield skip(name, "class_subspace_overlap: no labels")
        return
    found = kernels.paired_rows.class_subspace_overlap(point)
    if found is None:
        yield skip(name, "class_subspace_overlap: no class of 80 sample rows and 8 directions, or widths that differ")
        return
    yield CLASS_SUBSPACE_OVERLAP.at(name, found[0], 8.0 / facts["width"], **facts, classes=found[1])
