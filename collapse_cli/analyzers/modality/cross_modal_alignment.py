"""Whether two modalities see the same structure."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations

__all__ = ["cross_modal_alignment"]

#: Below it three standard errors of the debiased CKA are more than .04, and ten neighbours a tenth of all rows.
MIN_ROWS = 100
NEIGHBOURS = 10
#: Rows at most whose neighbours are compared: a share of 4,096 is known to .008.
MOST_ROWS = 4096
LEFT, RIGHT, PAIRS = "moments(modality_a)", "moments(modality_b)", "cross_moments(modality_a,modality_b)"
SAMPLE = "sample(modality_a,modality_b)"
UNRELATED = "rows paired at random"
NO_SIGNAL = "definition: within 3 standard errors of rows paired at random"

CKA_DEBIASED = Metric(
    "cka_debiased",
    "1",
    "Linear CKA from unbiased estimates: how alike the two Gram matrices of the rows are, 1 for a rotated copy.",
    better="higher",
    null=f"0: {UNRELATED}",
)
CKA_DEBIASED_Z = Metric(
    "cka_debiased_z",
    "standard errors",
    "The debiased CKA over its standard error for rows paired at random.",
    better="higher",
    warn=Limit("below", 3.0, NO_SIGNAL),
    null=f"0: {UNRELATED}",
    message="The modalities are unrelated: debiased CKA {cka:.3g} over {rows} rows, {value:.3g} standard errors.",
)
MUTUAL_KNN = Metric(
    "mutual_knn",
    "1",
    "The share of the 10 nearest rows in one modality that are among the 10 nearest in the other.",
    better="higher",
    null=f"k/(n−1): {UNRELATED}",
)
MUTUAL_KNN_Z = Metric(
    "mutual_knn_z",
    "standard errors",
    "How many standard errors the mutual nearest neighbours lie above chance.",
    better="higher",
    warn=Limit("below", 3.0, NO_SIGNAL),
    null=f"0: {UNRELATED}",
    message="Neighbours in one modality are none in the other: {share:.3g} of them, chance has {chance:.3g}.",
)
CCA_MEAN_R2 = Metric(
    "cca_mean_r2",
    "1",
    "Mean squared canonical correlation: how much of one modality is a linear function of the other.",
    better="higher",
    null=f"larger rank over N−1: {UNRELATED}",
)
SHARED_RANK = Metric(
    "shared_rank",
    "directions",
    "The number of canonical correlations above the largest that unrelated rows would give.",
    better="higher",
    null=f"0: {UNRELATED}",
)
RECALL_AT_1 = Metric(
    "recall_at_1",
    "1",
    "How often the row of modality b nearest to a row of modality a is its partner.",
    better="higher",
    null=f"1/n: {UNRELATED}",
)
RECALL_AT_1_Z = Metric(
    "recall_at_1_z",
    "standard errors",
    "How many binomial standard errors the recall lies above chance.",
    better="higher",
    warn=Limit("below", 3.0, NO_SIGNAL),
    null=f"0: {UNRELATED}",
    message="Partners do not find each other: recall at 1 is {recall:.3g} among {sampled} rows, chance has {chance:.3g}"
    ".",
)


def healthy() -> Example:
    """Partners differ by noise, and modality b is a little turned."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(256, 12, generator=generator)
    return Example(
        {
            "projection/modality_a": shared + 0.1 * torch.randn(256, 12, generator=generator),
            "projection/modality_b": shared + 0.1 * torch.randn(256, 12, generator=generator),
        },
        metadata={},
    )


def collapsed() -> Example:
    """Two modalities without a relation."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return Example(
        {
            "projection/modality_a": torch.randn(256, 12, generator=generator),
            "projection/modality_b": torch.randn(256, 12, generator=generator),
        },
        metadata={},
    )


@activation_analyzer(
    name="cross-modal-alignment",
    family="modality",
    title="Cross-modal alignment",
    metrics=(
        CKA_DEBIASED,
        CKA_DEBIASED_Z,
        MUTUAL_KNN,
        MUTUAL_KNN_Z,
        CCA_MEAN_R2,
        SHARED_RANK,
        RECALL_AT_1,
        RECALL_AT_1_Z,
    ),
    accepts=on.points("modality_a", "modality_b", says="hook points with two modalities"),
    remedy="Check first that row i of both arrays is the same sample. Then project both on the directions they share "
    "(canonical correlations above chance) before matching, train the projection on more pairs, or match by local CKA.",
    references=(
        Reference(
            "Huh et al. The Platonic Representation Hypothesis. 2024",
            "https://arxiv.org/abs/2405.07987",
        ),
        Reference(
            "Kornblith et al. Similarity of Neural Network Representations Revisited. 2019",
            "https://arxiv.org/abs/1905.00414",
        ),
        Reference(
            "Székely & Rizzo. The distance correlation t-test of independence in high dimension. Journal of "
            "Multivariate Analysis 2013",
            "https://doi.org/10.1016/j.jmva.2013.02.012",
        ),
        Reference(
            "Fu et al. Transductive Multi-view Zero-Shot Learning. 2015",
            "https://arxiv.org/abs/1501.04560",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=(LEFT, RIGHT, PAIRS, SAMPLE),
    unmoved_by=("samples_permuted", "features_rotated", "scaled"),
)
def cross_modal_alignment(point: "Activations") -> Iterator[Measurement | Skip]:
    """Do two modalities share structure beyond position, and in how many dimensions?

    ## Why it matters
    Retrieval, captioning and zero-shot labels work only as far as both modalities order the samples alike. Two clouds
    can lie in the same place and know nothing of each other, or lie far apart and agree in everything.

    ## How to read it
    `cka_debiased` is 1 for a rotated copy and 0 on average for unrelated rows, whatever the widths; a small negative
    value is chance. `mutual_knn` looks at neighbours only and finds local agreement that CKA misses. `cca_mean_r2` and
    `shared_rank` say how much, and in how many directions, one modality is a linear function of the other. These four
    do not ask for a common space; `recall_at_1` does. The companions `_z` say how far a value is from rows paired at
    random; below 3 nothing is known of the pairing.

    ## Limits
    Rows that are not paired make every number meaningless: set the metadata `paired` to `false` then. The biased CKA of
    other programs reads √(D₁D₂/((N+D₁)(N+D₂))) on noise, which is not alignment. Canonical correlations ask for more
    than twice as many rows as features of both sides, and are skipped otherwise. Hubs depress the recall (see
    hubness), and two encoders that were never trained together have no recall however alike they are.
    """
    name, rows = point.site.name, point.finite_rows
    if rows < MIN_ROWS:
        yield skip(name, f"{rows} rows < {MIN_ROWS}")
        return
    if point.metadata.get("paired", "").strip().lower() in ("false", "no", "0"):
        yield skip(name, "rows not paired")
        return
    left, right = point.read(LEFT), point.read(RIGHT)
    # what rounding of the mean leaves of constant rows is 1e-32 of their squared length
    if any(float(side.centred_scatter.trace()) <= 1e-24 * side.squared_norm_sum for side in (left, right)):
        yield skip(name, "all rows of a modality are equal")
        return
    facts: dict[str, Any] = {
        "rows": rows,
        "features_a": left.mean.numel(),
        "features_b": right.mean.numel(),
        "dtype": point.dtypes.get("modality_a", ""),
    }
    yield from _kernel_alignment(point, facts)
    yield from _correlations(point, facts)
    yield from _neighbours(point, facts)


def _kernel_alignment(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, moments = point.site.name, (point.read(LEFT), point.read(RIGHT), point.read(PAIRS))
    value = kernels.similarity.debiased_kernel_alignment(*moments)
    if value is None:
        yield skip(name, "cka_debiased: no variance in a modality")
        return
    biased = kernels.similarity.centred_kernel_alignment(*moments)
    yield CKA_DEBIASED.at(name, value, 0.0, **facts, biased=biased)
    # N(N−3)/2 degrees of freedom (Székely & Rizzo 2013, for the same inner product of U-centred matrices)
    count = facts["rows"]
    error = (2.0 / (count * (count - 3))) ** 0.5
    yield CKA_DEBIASED_Z.at(name, value / error, 0.0, **facts, cka=value, standard_error=error)


def _correlations(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name = point.site.name
    if 2 * (facts["features_a"] + facts["features_b"]) >= facts["rows"]:
        yield skip(name, "cca_mean_r2, shared_rank: not twice as many rows as features of both modalities")
        return
    found = kernels.canonical_correlation.canonical_correlations(point.read(LEFT), point.read(RIGHT), point.read(PAIRS))
    if found is None:
        yield skip(name, "cca_mean_r2, shared_rank: no variance in a modality")
        return
    facts = facts | {"rank_a": found.left_rank, "rank_b": found.right_rank, "correlations": found.values[:32].tolist()}
    yield CCA_MEAN_R2.at(name, found.mean_square, found.mean_square_null, **facts)
    yield SHARED_RANK.at(name, found.shared_rank, 0.0, **facts, largest_by_chance=found.largest_null)


def _neighbours(point: "Activations", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, sample = point.site.name, point.read(SAMPLE)
    rows, nearest = kernels.nearest_rows.uniform_rows, kernels.nearest_rows.nearest_rows
    left, right = rows(sample, "modality_a", MOST_ROWS), rows(sample, "modality_b", MOST_ROWS)
    count = left.shape[0]
    facts = facts | {"sampled": count, "exact": count == facts["rows"]}
    lists = nearest(left, count=NEIGHBOURS), nearest(right, count=NEIGHBOURS)
    share, chance = kernels.nearest_rows.shared_neighbours(*lists), NEIGHBOURS / (count - 1)
    yield MUTUAL_KNN.at(name, share, chance, **facts)
    # neighbours are mostly mutual, so that each pair is counted up to twice
    error = (2.0 * chance * (1.0 - chance) / (count * NEIGHBOURS)) ** 0.5
    yield MUTUAL_KNN_Z.at(name, (share - chance) / error, 0.0, **facts, share=share, chance=chance)
    if left.shape[1] != right.shape[1]:
        yield skip(name, "recall_at_1: the modalities are of different width and share no space")
        return
    partners = nearest(left, right, count=1)[:, 0]
    recall, chance = float((partners == _places(partners)).double().mean()), 1.0 / count
    yield RECALL_AT_1.at(name, recall, chance, **facts)
    error = (chance * (1.0 - chance) / count) ** 0.5
    yield RECALL_AT_1_Z.at(name, (recall - chance) / error, 0.0, **facts, recall=recall, chance=chance)


def _places(partners: Any) -> Any:
    """0, 1, 2, … as many as there are partners."""
    return partners.new_ones(partners.shape).cumsum(0) - 1
