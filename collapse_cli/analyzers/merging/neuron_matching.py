"""Whether two networks hold the same units in another order."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Measurement, Metric, Reference, Skip, on, pair_analyzer, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.comparisons import Comparison, Model
    from collapse_cli.kernels.views import Activations

__all__ = ["neuron_matching"]

#: Fewer rows, and the correlations that assignment picks out by chance are as large as real ones.
MIN_ROWS = 500
#: Units up to which an assignment is sought.
MAX_UNITS = 4096
#: A matched unit shares a quarter of its variance with its partner.
MATCHED = 0.5

SHUFFLED = "the same with the rows of one side shuffled"
REORDERED = "the same with the second weight put in random order first"
MATCHED_CORRELATION = Metric(
    "matched_correlation",
    "1",
    "The mean absolute correlation between the units of two networks after the best one-to-one assignment.",
    null=SHUFFLED,
)
BEST_CORRELATION = Metric(
    "best_correlation",
    "1",
    "The mean absolute correlation of each unit with the unit of the other network that is most like it.",
    null=SHUFFLED,
)
MATCHED_SHARE = Metric(
    "matched_share", "1", "The share of units whose partner has an absolute correlation above 0.5.", null=SHUFFLED
)
DISTANCE_REDUCTION = Metric(
    "distance_reduction",
    "1",
    "How much of the squared distance between two weights goes away when the units of one are reordered.",
    null=REORDERED,
)
SINGULAR_ALIGNMENT = Metric(
    "singular_alignment",
    "1",
    "How well the large singular vectors of two weights agree, left and right together, once units are reordered.",
    null=REORDERED,
)
MERGE_RESIDUAL = Metric(
    "merge_residual",
    "1",
    "What the best single layer misses of the averaged outputs of two aligned ones.",
    better="lower",
)


def healthy() -> Example:
    """The same units in another order, with a tenth of noise."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 24, generator=generator)
    order = torch.randperm(24, generator=generator)
    y = x[:, order] + 0.1 * torch.randn(600, 24, generator=generator)
    return Example({"features": x}, metadata={}, others=({"features": y},))


def collapsed() -> Example:
    """Two networks without a common unit."""
    import torch

    x, y = torch.randn(2, 600, 24, generator=torch.Generator().manual_seed(0))
    return Example({"features": x}, metadata={}, others=({"features": y},))


def weights() -> Example:
    """A weight and the same with its outputs in another order."""
    import torch

    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(24, 16, generator=generator)
    order = torch.randperm(24, generator=generator)
    return Example({"fc1.weight": weight}, others=({"fc1.weight": weight[order]},))


@pair_analyzer(
    name="neuron-matching",
    family="merging",
    title="Neuron matching",
    metrics=(
        MATCHED_CORRELATION,
        BEST_CORRELATION,
        MATCHED_SHARE,
        DISTANCE_REDUCTION,
        SINGULAR_ALIGNMENT,
        MERGE_RESIDUAL,
    ),
    accepts=on.matrices(8),
    companions=on.points("features", "after.features", says="hook points with features in two dumps of the same rows"),
    also=("activation_pair",),
    sums_up=True,
    needs=(
        "moments",
        "moments(after.features)",
        "cross_moments(features,after.features)",
        "sample(features,after.features)",
    ),
    uses=("labels", "after.labels"),
    remedy="Align before merging: permute the units of one network, merge the width that matches and keep the rest "
    "apart, and recompute batch statistics after the merge.",
    references=(
        Reference(
            "Li et al. Convergent Learning: Do different neural networks learn the same representations? 2015",
            "https://arxiv.org/abs/1511.07543",
        ),
        Reference(
            "Ito, Yamada & Kumagai. Analysis of Linear Mode Connectivity via Permutation-Based Weight Matching. 2024",
            "https://arxiv.org/abs/2402.04051",
        ),
        Reference(
            "Nasery et al. PLeaS: Merging Models with Permutations and Least Squares. 2024",
            "https://arxiv.org/abs/2407.02447",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed, "weights": weights},
    unmoved_by=("scaled",),
)
def neuron_matching(view: "Comparison | Activations | Model") -> Iterator[Measurement | Skip]:
    """Do two networks hold the same neurons, the same space, or neither?

    ## Why it matters
    Averaging two networks that hold the same units in different places destroys both. If the units match one to one,
    a permutation makes them mergeable; if only the space is the same, it does not, and they are better kept apart.

    ## How to read it
    From two dumps: `matched_correlation` near 1 is the same units in another order; near its null, which assignment
    alone reaches, it is not. `best_correlation` clearly above it says that several units share one partner. High CKA
    with a low match is the same space in another basis (see representation-similarity). From two checkpoints:
    `singular_alignment` is near 1 where reordering brings the large singular directions together, and decides more
    than `distance_reduction`, which is small even where merging works. Reordering overfits: unrelated weights of 64×48
    reach .28, hence the null. The evidence says what the alignment is without reordering, and how many units moved.

    ## Limits
    Informational: nothing is judged. Assignment inflates, so read the shuffled null. Constant units are dropped.
    Each weight is looked at alone: either its outputs or its inputs are reordered, whichever fits better, and the
    other side is taken as it is. That finds the permutation of a first layer or of a readout; in between, both sides
    are permuted at once, which only coordinate descent over all layers resolves. Sides beyond 1,024 are not reordered,
    beyond 4,096 units the correlations are not assigned. `merge_residual` needs inputs and outputs of one layer in
    both networks, which neither two weights nor one hook point have.
    """
    if isinstance(view, kernels.comparisons.Model):
        yield skip(view.site.name, "merge_residual: two weights do not show what goes in and comes out of a layer")
    elif isinstance(view, kernels.comparisons.Comparison):
        yield from _weights(view)
    else:
        yield from _units(view)


def _weights(view: "Comparison") -> Iterator[Measurement | Skip]:
    name = view.site.name
    found = kernels.unit_matching.weight_matching(view)
    if isinstance(found, str):
        yield skip(name, f"distance_reduction, singular_alignment: {found}")
        return
    facts: dict[str, Any] = {
        "rows": view.site.shape[0],
        "columns": view.before.matrix.shape[1],
        "axis": found.axis if found.moved else "neither",
        "moved": found.moved,
        "dtype": view.after.site.dtype,
    }
    yield DISTANCE_REDUCTION.at(name, found.reduction, found.reduction_null, **facts)
    facts |= {"in_place": found.in_place, "vectors": found.vectors}
    yield SINGULAR_ALIGNMENT.at(name, found.alignment, found.alignment_null, **facts)


def _units(point: "Activations") -> Iterator[Measurement | Skip]:
    name = point.site.name
    if reason := kernels.paired_rows.fault(point, MIN_ROWS):
        yield skip(name, reason)
        return
    table = kernels.unit_matching.correlations(*kernels.paired_rows.moments_of(point))
    if min(table.shape) < 2:
        yield skip(name, "fewer than 2 units that vary")
        return
    sample = point.read("sample(features,after.features)")
    chance = kernels.unit_matching.shuffled_correlations(sample, point.finite_rows, point.generator())
    found, null = kernels.unit_matching.matched_units(table), kernels.unit_matching.matched_units(chance)
    facts = kernels.feature_spectrum.facts(point)
    facts |= {"width_after": point.read("moments(after.features)").mean.numel(), "units": list(table.shape)}
    facts |= {"constant_units": [facts["width"] - table.shape[0], facts["width_after"] - table.shape[1]]}
    yield BEST_CORRELATION.at(name, float(found.largest.mean()), float(null.largest.mean()), **facts)
    if found.assigned is None or null.assigned is None:
        yield skip(
            name, f"matched_correlation, matched_share: {max(table.shape):,} units, best_correlation bounds them"
        )
        return
    facts |= {"matched": found.assigned.numel()}
    yield MATCHED_CORRELATION.at(name, float(found.assigned.mean()), float(null.assigned.mean()), **facts)
    shares = [float((side > MATCHED).double().mean()) for side in (found.assigned, null.assigned)]
    yield MATCHED_SHARE.at(name, shares[0], shares[1], **facts)
