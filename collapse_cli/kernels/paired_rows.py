"""The same rows in two dumps: shared neighbours, profiles against anchors, held-out maps, subspaces of the classes.

All are functions of a hook point of two dumps that has the needs `BEFORE`, `AFTER`, `PAIRS` and `SAMPLE`.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.accumulators import CrossMoments, Moments
from collapse_cli.kernels.batches import UNLABELLED, row_hash
from collapse_cli.kernels.nearest_rows import (
    label_matches,
    nearest_rows,
    shared_neighbours,
    uniform_rows,
    unit_rows,
)
from collapse_cli.kernels.probes import generalised_cross_validation
from collapse_cli.kernels.random_matrix import effective_rank_lambda_null
from collapse_cli.kernels.similarity import debiased_kernel_alignment
from collapse_cli.kernels.spectrum import entropy_rank
from collapse_cli.kernels.views import Activations

__all__ = [
    "NEIGHBOURS",
    "NeighbourClasses",
    "Shared",
    "anchored_cosine",
    "class_subspace_overlap",
    "concatenated_rank_gain",
    "concatenated_rank_gain_null",
    "debiased_alignment",
    "fault",
    "held_out_r2",
    "is_constant",
    "labels_differ",
    "moments_of",
    "mutual_neighbours",
    "neighbour_classes",
]

BEFORE, AFTER = "moments", "moments(after.features)"
PAIRS, SAMPLE = "cross_moments(features,after.features)", "sample(features,after.features)"
#: Neighbours that are compared, as in the mutual neighbours of Huh et al. 2024.
NEIGHBOURS = 10
#: Rows at most whose neighbours are compared: a share of 4,096 is known to .008.
_NEIGHBOUR_ROWS = 4096
#: Anchors of a relative representation, and of them at most every other row.
_ANCHORS = 50
#: Penalties tried, times the largest eigenvalue: half decades, from what does not regularise to what leaves the mean.
_PENALTIES = torch.logspace(-9.0, 2.0, 23, dtype=torch.float64)
#: Principal directions of a class that are compared, and rows for each of them.
SUBSPACE_RANK, ROWS_PER_DIRECTION = 8, 10
#: Classes at most whose subspaces are compared.
_CLASSES = 64
#: Σ‖x − x̄‖² over Σ‖x‖² below which the rows are equal but for the rounding of the mean.
_EQUAL_ROWS = 1e-24


def moments_of(point: Activations) -> tuple[Moments, Moments, CrossMoments]:
    """Moments of both sides and between them."""
    return point.read(BEFORE), point.read(AFTER), point.read(PAIRS)


def is_constant(moments: Moments) -> bool:
    """Whether all rows are equal up to rounding."""
    return float(moments.centred_scatter.trace()) <= _EQUAL_ROWS * moments.squared_norm_sum


def labels_differ(point: Activations) -> tuple[int, int]:
    """Of the uniform sample rows that are labelled in both dumps: how many have another label, and how many there are.

    0, 0 where a dump has no labels.
    """
    if not {"labels", "after.labels"} <= point.shapes.keys():
        return 0, 0
    sample = point.read(SAMPLE)
    ours, theirs = (uniform_rows(sample, role).flatten().long() for role in ("labels", "after.labels"))
    if ours.numel() != theirs.numel():
        return 0, 0
    known = _is_labelled(ours) & _is_labelled(theirs)
    return int((ours != theirs)[known].sum()), int(known.sum())


def _is_labelled(labels: Int[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
    return (labels != UNLABELLED[0]) & (labels != UNLABELLED[1])


def fault(point: Activations, fewest: int) -> str:
    """Why the two sides cannot be compared; empty if they can."""
    rows = point.finite_rows
    if rows < fewest:
        return f"{rows} rows < {fewest}"
    for side, name in ((point.read(BEFORE), "the first"), (point.read(AFTER), "the second")):
        if is_constant(side):
            return f"all rows of {name} dump are equal"
    differing, labelled = point.get(labels_differ)
    if differing:
        ours = uniform_rows(point.read(SAMPLE), "labels").flatten().long()
        shares = torch.bincount(torch.unique(ours[_is_labelled(ours)], return_inverse=True)[1]).double() / labelled
        chance = min(1.0, float(shares.square().sum()))
        error = math.sqrt(chance * (1.0 - chance) / labelled)
        if 1.0 - differing / labelled <= chance + 3.0 * error:
            return f"rows not paired: {differing:,} of {labelled:,} labels differ, as many as by chance"
    return ""


def debiased_alignment(point: Activations) -> float | None:
    """Debiased linear CKA between the two sides; None where one has no variance."""
    return debiased_kernel_alignment(*moments_of(point))


@final
@dataclass(frozen=True, slots=True)
class Shared:
    """Share of the nearest rows that both sides have in common, what unrelated sides give, rows, and if all were."""

    share: float
    null: float
    rows: int
    is_exact: bool


def mutual_neighbours(point: Activations) -> Shared | None:
    """Of the 10 nearest rows by cosine, the row itself left out, those that stay; None below 11 rows."""
    lists = point.get(_neighbour_lists)
    if lists is None:
        return None
    count = len(lists[0])
    return Shared(shared_neighbours(*lists), NEIGHBOURS / (count - 1), count, count == point.finite_rows)


def _neighbour_lists(point: Activations) -> tuple[Int[Tensor, "rows count"], Int[Tensor, "rows count"]] | None:
    sample = point.read(SAMPLE)
    before, after = (uniform_rows(sample, role, _NEIGHBOUR_ROWS) for role in ("features", "after.features"))
    if before.shape[0] <= NEIGHBOURS:
        return None
    return nearest_rows(before, count=NEIGHBOURS), nearest_rows(after, count=NEIGHBOURS)


@final
@dataclass(frozen=True, slots=True)
class NeighbourClasses:
    """Share of the nearest rows of the same class before and after, what chance gives, labelled rows, classes."""

    before: float
    after: float
    chance: float
    rows: int
    classes: int


def neighbour_classes(point: Activations) -> NeighbourClasses | None:
    """Over labelled rows with their 10 nearest by cosine; None below 11 rows or without labels in the first dump."""
    lists = point.get(_neighbour_lists)
    if lists is None or "labels" not in point.shapes:
        return None
    labels = uniform_rows(point.read(SAMPLE), "labels", _NEIGHBOUR_ROWS).flatten().long()
    known = _is_labelled(labels)
    counts = torch.unique(labels[known], return_counts=True)[1].double()
    rows = int(known.sum())
    if rows < 2:
        return None
    before, after = (float(label_matches(one, labels)[known].mean()) for one in lists)
    chance = float((counts * (counts - 1.0)).sum()) / rows / (len(labels) - 1)
    return NeighbourClasses(before, after, chance, rows, len(counts))


def anchored_cosine(point: Activations) -> tuple[float, int] | None:
    """Mean cosine of the profiles cos(x, a₁…a_m) of a row in both dumps, and m; each side centred, anchors left out.

    Anchors are drawn by the seed of the site; None with fewer than two. References: Moschella et al. (2022).
    """
    sample = point.read(SAMPLE)
    sides = [uniform_rows(sample, role).flatten(1).double() for role in ("features", "after.features")]
    count = sides[0].shape[0]
    anchors = min(_ANCHORS, count // 2)
    if anchors < 2:
        return None
    order = torch.randperm(count, generator=point.generator())
    profiles = []
    for side in sides:
        units = unit_rows(side - side.mean(0))
        profiles.append(unit_rows(units[order[anchors:]] @ units[order[:anchors]].T))
    return float((profiles[0] * profiles[1]).sum(1).mean()), anchors


def held_out_r2(point: Activations) -> tuple[float, float, int] | None:
    """R² on unseen rows of the ridge maps X → Y and Y → X, and the rows of the smaller half.

    Each half of the uniform sample is predicted by the map of the other, its penalty that of least generalised cross-
    validation. None where a half has fewer than two rows per feature of the wider side.

    Raises:
        NotConverged: LAPACK gave up.
    """
    sample = point.read(SAMPLE)
    sides = [uniform_rows(sample, role).flatten(1).double() for role in ("features", "after.features")]
    # a stream of its own: the smallest hashes of the sample's stream share their bits
    order = row_hash(sample.indices[sample.is_uniform], point.seed ^ 0x0DD5).argsort()
    fewest = order.numel() // 2
    is_first = torch.zeros_like(order, dtype=torch.bool).index_fill_(0, order[:fewest], value=True)
    if fewest < 2 * max(side.shape[1] for side in sides):
        return None
    values = []
    for x, y in (sides, sides[::-1]):
        residual = total = 0.0
        for fitted in (is_first, ~is_first):
            coefficients, centre, offset = _ridge(x[fitted], y[fitted])
            held = y[~fitted] - offset
            residual += float((held - (x[~fitted] - centre) @ coefficients).square().sum())
            total += float(held.square().sum())
        if total <= 0.0:
            return None
        values.append(1.0 - residual / total)
    return values[0], values[1], fewest


def _ridge(x: Float[Tensor, "rows left"], y: Float[Tensor, "rows right"]) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients, x̄ and ȳ of ridge regression with an intercept."""
    centre, offset = x.mean(0), y.mean(0)
    x, y = x - centre, y - offset
    try:
        eigenvalues, directions = torch.linalg.eigh(x.T @ x)
    except LinAlgError as error:
        raise NotConverged("the ridge system has no spectrum", got=str(error)) from error
    eigenvalues = eigenvalues.clamp_min(0.0)
    rotated = directions.T @ (x.T @ y)
    if float(eigenvalues[-1]) <= 0.0:
        return torch.zeros_like(rotated), centre, offset
    penalties = _PENALTIES * eigenvalues[-1]
    scores = generalised_cross_validation(
        eigenvalues, rotated.square().sum(1), penalties, count=x.shape[0], variance=float(y.square().sum())
    )
    penalty = penalties[scores.argmin()]
    return directions @ (rotated / (eigenvalues + penalty)[:, None]), centre, offset


def class_subspace_overlap(point: Activations) -> tuple[float, int] | None:
    """Mean over classes of ‖U_kᵀV_k‖_F²/8, their 8 leading principal directions in both dumps, and the classes.

    Of at most 64 classes with 80 sample rows. None if there is no such class, the widths differ or are below 8.

    Raises:
        NotConverged: LAPACK gave up.
    """
    sample = point.read(SAMPLE)
    labels = sample.rows("labels").flatten().long()
    before, after = (sample.rows(role).flatten(1) for role in ("features", "after.features"))
    if before.shape[1] != after.shape[1] or before.shape[1] < SUBSPACE_RANK:
        return None
    found, counts = torch.unique(labels[_is_labelled(labels)], return_counts=True)
    large = found[counts >= SUBSPACE_RANK * ROWS_PER_DIRECTION]
    places = torch.linspace(0, large.numel() - 1, min(_CLASSES, large.numel()), dtype=torch.float64).round().long()
    values = []
    for label in large[places].tolist():
        rows = labels == label
        bases = [_principal(side[rows].double()) for side in (before, after)]
        if bases[0] is not None and bases[1] is not None:
            values.append(float((bases[0].T @ bases[1]).square().sum()) / SUBSPACE_RANK)
    return (sum(values) / len(values), len(values)) if values else None


def _principal(rows: Float[Tensor, "rows features"]) -> Float[Tensor, "features rank"] | None:
    """The 8 leading principal directions; None if the rows have fewer."""
    centred = rows - rows.mean(0)
    is_wide = centred.shape[1] > centred.shape[0]
    try:
        energies, vectors = torch.linalg.eigh(centred @ centred.T if is_wide else centred.T @ centred)
    except LinAlgError as error:
        raise NotConverged("a class has no spectrum", got=str(error)) from error
    top, leading = energies[-SUBSPACE_RANK:], vectors[:, -SUBSPACE_RANK:]
    if float(top[0]) <= 1e-12 * float(energies[-1]) or float(top[0]) <= _EQUAL_ROWS * float(rows.square().sum()):
        return None
    result: Tensor = centred.T @ (leading / top.sqrt()) if is_wide else leading
    return result


def concatenated_rank_gain(point: Activations) -> tuple[float, float, float]:
    """Entropy rank of the correlations of [X, Y] over that of X, and both; columns without variance are left out.

    Raises:
        NotConverged: LAPACK gave up.
    """
    left, right, pairs = moments_of(point)
    own, other = left.centred_scatter, right.centred_scatter
    whole = torch.cat((torch.cat((own, pairs.centred_cross), 1), torch.cat((pairs.centred_cross.T, other), 1)))
    scale = whole.diagonal().clamp_min(0.0).sqrt()
    # what rounding of the mean leaves of a constant column
    means = torch.cat((left.mean, right.mean)).abs() * math.sqrt(max(left.count, 1))
    kept = scale > 1e-12 * means
    standard = (whole / torch.outer(scale, scale).clamp_min(torch.finfo(torch.float64).tiny))[kept][:, kept]
    first = int(kept[: own.shape[0]].sum())
    try:
        both = entropy_rank(torch.linalg.eigvalsh(standard).clamp_min(0.0))
        one = entropy_rank(torch.linalg.eigvalsh(standard[:first, :first]).clamp_min(0.0))
    except LinAlgError as error:
        raise NotConverged("the correlations have no spectrum", got=str(error)) from error
    return both / one if one > 0.0 else 1.0, both, one


def concatenated_rank_gain_null(count: int, left: int, right: int) -> float:
    """The same of independent isotropic sides: m·e^{−m/(2n)} of both over that of one (Page 1993), n = N − 1."""
    return effective_rank_lambda_null(count - 1, left + right) / effective_rank_lambda_null(count - 1, left)
