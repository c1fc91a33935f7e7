"""Features of a regression against its targets: the subspace they lie in, their order, and whether they fall apart."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.rank_correlation import spearman
from collapse_cli.kernels.views import Activations

__all__ = [
    "TargetOrder",
    "components",
    "gram_distance",
    "outside_head",
    "outside_principal",
    "row_space",
    "target_order",
]

#: Rows that are compared with each other: 998,991 pairs.
_COMPARED = 1414
#: Neighbours that join two rows of the graph.
_NEIGHBOURS = 5
#: Golden section: 0.618⁶⁰ is 3e-13 of the interval.
_SECTIONS = 60


def _eigenvectors(matrix: Float[Tensor, "side side"], where: str) -> tuple[Tensor, Tensor]:
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except LinAlgError as error:
        raise NotConverged(f"the {where} have no spectrum", where=where, got=str(error)) from error
    return values, vectors


def _directions(point: Activations) -> Float[Tensor, "rows features"]:
    """Centred sampled rows of length 1; rows at the mean are left out."""
    sample, moments = point.read("sample"), point.read("moments")
    rows = sample.rows("features")[sample.is_uniform].flatten(1).double() - moments.mean
    lengths = rows.norm(dim=1)
    is_apart = lengths > rounding(point)
    directions: Tensor = rows[is_apart] / lengths[is_apart, None]
    return directions


def rounding(point: Activations) -> float:
    """Length that rounding alone gives to a centred row."""
    mean = point.read("moments").mean
    return 8.0 * torch.finfo(torch.float64).eps * math.sqrt(mean.numel()) * float(mean.abs().max())


def outside_principal(point: Activations, count: int) -> float | None:
    """NRC1: mean share of a centred row outside the first `count` principal components; None if all rows are equal.

    Raises:
        NotConverged: LAPACK gave up.
    """
    rows = point.get(_directions)
    if rows.shape[0] == 0:
        return None
    _, vectors = _eigenvectors(point.read("moments").centred_scatter, "features")
    return _outside(rows, vectors[:, vectors.shape[1] - count :])


def outside_head(point: Activations, space: Float[Tensor, "features rank"]) -> float | None:
    """NRC2: mean share of a centred row outside the row space of the head; None if all rows are equal."""
    rows = point.get(_directions)
    return _outside(rows, space) if rows.shape[0] else None


def _outside(rows: Float[Tensor, "rows features"], basis: Float[Tensor, "features rank"]) -> float:
    # what is left, not 1 − what is inside: digits near 0
    return float((rows - (rows @ basis) @ basis.T).square().sum(1).mean())


def row_space(head: Float[Tensor, "targets features"]) -> Float[Tensor, "features rank"]:
    """Orthonormal basis of the rows, singular values at rounding left out.

    Raises:
        NotConverged: LAPACK gave up.
    """
    try:
        _, values, vectors = torch.linalg.svd(head, full_matrices=False)
    except LinAlgError as error:
        raise NotConverged("the head has no spectrum", where="head_weight", got=str(error)) from error
    kept = values > float(values[0]) * max(head.shape) * torch.finfo(torch.float64).eps
    basis: Tensor = vectors[kept].T
    return basis


def gram_distance(
    head: Float[Tensor, "targets features"], covariance: Float[Tensor, "targets targets"]
) -> tuple[float, float] | None:
    """NRC3: min over γ of ‖WWᵀ/‖·‖ − (Σ^½ − √γI)/‖·‖‖_F², 0 ≤ γ < λ_min(Σ), and its √γ; None if W or Σ is zero.

    Σ^½ is the symmetric root (Andriopoulos et al. 2024). Golden section on √γ.

    Raises:
        NotConverged: LAPACK gave up.
    """
    values, vectors = _eigenvectors(covariance, "targets")
    gram = head @ head.T
    size, roots = float(gram.norm()), values.clamp_min(0.0).sqrt()
    if size == 0.0 or float(roots[-1]) == 0.0:
        return None
    turned = vectors.T @ (gram / size) @ vectors
    aside = float((turned - torch.diag(turned.diagonal())).square().sum())

    def distance(shift: float) -> float:
        left = roots - shift
        length = float(left.norm())
        ideal = left / length if length > 0.0 else left
        return aside + float((turned.diagonal() - ideal).square().sum())

    low, high = 0.0, float(roots[0])
    ratio = (math.sqrt(5.0) - 1.0) / 2.0
    for _ in range(_SECTIONS):
        first, second = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, second) if distance(first) <= distance(second) else (first, high)
    best = min((low, 0.5 * (low + high), 0.0), key=distance)
    return distance(best), best


@final
@dataclass(frozen=True, slots=True)
class TargetOrder:
    """How distances in the features follow distances between targets, over pairs of `compared` rows.

    `gap` is the mean target distance of a row to its nearest neighbour, over that of all pairs.
    """

    correlation: float
    gap: float
    components: int
    compared: int


def target_order(point: Activations) -> TargetOrder | None:
    """Order among at most 1,414 seeded rows of the sample; None where all rows or all targets are equal."""
    sample = point.read("sample")
    places = sample.is_uniform.nonzero().flatten()
    if places.numel() > _COMPARED:
        places = places[torch.randperm(places.numel(), generator=point.generator())[:_COMPARED]].sort().values
    rows = sample.rows("features")[places].flatten(1).double() - point.read("moments").mean
    targets = sample.rows("targets")[places].double().reshape(places.numel(), -1)
    near, far = _distances(rows), _distances(targets - targets.mean(0))
    first, second = torch.triu_indices(places.numel(), places.numel(), 1)
    if float(near.max()) <= rounding(point) or float(far.max()) == 0.0:
        return None
    correlation = spearman(far[first, second], near[first, second])
    if correlation is None:
        return None
    others = near.fill_diagonal_(math.inf)
    neighbours = others.topk(min(_NEIGHBOURS, places.numel() - 1), largest=False).indices
    gap = float(far.gather(1, neighbours[:, :1]).mean()) / float(far[first, second].mean())
    return TargetOrder(correlation, gap, components(neighbours), places.numel())


def _distances(rows: Float[Tensor, "rows features"]) -> Float[Tensor, "rows rows"]:
    squares = rows.square().sum(1)
    result: Tensor = torch.addmm(squares[:, None] + squares, rows, rows.T, alpha=-2.0).clamp_min_(0.0).sqrt_()
    return result.fill_diagonal_(0.0)


def components(neighbours: Tensor) -> int:
    """Connected components of the graph that joins every row to its neighbours (rows × neighbours)."""
    parents = list(range(neighbours.shape[0]))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for row, joined in enumerate(neighbours.tolist()):
        for other in joined:
            parents[root(row)] = root(other)
    return sum(parents[row] == row for row in range(len(parents)))
