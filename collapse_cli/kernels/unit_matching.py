"""Which unit of one network is which unit of another: assignments by correlation of outputs, or by weights."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.comparisons import Comparison
from collapse_cli.kernels.cross_moments import CrossMoments
from collapse_cli.kernels.feature_moments import Moments
from collapse_cli.kernels.nearest_rows import uniform_rows
from collapse_cli.kernels.reservoir import Sample
from collapse_cli.kernels.spectrum import gram
from collapse_cli.kernels.views import Weight

__all__ = [
    "MAX_SIDE",
    "MAX_UNITS",
    "MatchedUnits",
    "MatchedWeights",
    "correlations",
    "matched_units",
    "shuffled_correlations",
    "weight_matching",
]

#: Units up to which an assignment is sought: one of 4,096 takes seconds.
MAX_UNITS = 4096
#: The same for every matrix of two models, of which there are hundreds: .1 s.
MAX_SIDE = 1024
#: Rows that are shuffled: chance correlations scale by 1/√rows.
_SHUFFLED_ROWS = 2048
#: Singular vectors that are compared have σ ≥ 0.3·σ₁ (Ito, Yamada & Kumagai 2024, section 5).
_LARGE_SINGULAR = 0.3
#: Spread of a unit over its mean below which it is constant up to rounding.
_CONSTANT = 1e-12
#: float64 entries of one block: 32 MiB.
_BLOCK_ENTRIES = 1 << 22


@final
@dataclass(frozen=True, slots=True)
class MatchedUnits:
    """∣r∣ of each unit of the left side with its own partner (None where no assignment was sought), and with any."""

    assigned: Float[Tensor, " units"] | None
    largest: Float[Tensor, " left"]


def correlations(left: Moments, right: Moments, pairs: CrossMoments) -> Float[Tensor, "left right"]:
    """∣r∣ between the units of both sides; constant units, which match anything, are left out."""
    scales, kept = [], []
    for side in (left, right):
        scale = side.centred_scatter.diagonal().clamp_min(0.0).sqrt()
        kept.append(scale > _CONSTANT * math.sqrt(max(side.count, 1)) * side.mean.abs())
        scales.append(scale[kept[-1]])
    cross = pairs.centred_cross[kept[0]][:, kept[1]]
    return (cross / torch.outer(*scales)).abs().clamp_max(1.0)


def matched_units(table: Float[Tensor, "left right"]) -> MatchedUnits:
    """The best one-to-one assignment up to 4,096 units, of the smaller side where they differ, and row maxima."""
    largest, partner = table.max(1)
    if max(table.shape) > MAX_UNITS:
        return MatchedUnits(None, largest)
    if torch.unique(partner).numel() == partner.numel():
        # every unit has its first choice: no assignment is better
        return MatchedUnits(largest, largest)
    rows, columns = _assigned(table)
    return MatchedUnits(table[rows, columns], largest)


def _assigned(table: Float[Tensor, "left right"]) -> tuple[Int[Tensor, " pairs"], Int[Tensor, " pairs"]]:
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(table.cpu().numpy(), maximize=True)
    return torch.from_numpy(rows), torch.from_numpy(columns)


def shuffled_correlations(sample: Sample, count: int, generator: torch.Generator) -> Float[Tensor, "left right"]:
    """∣r∣ of the sample rows with one side in another order, as `count` rows would show them."""
    sides = [uniform_rows(sample, role, _SHUFFLED_ROWS).flatten(1).double() for role in ("features", "after.features")]
    rows = sides[0].shape[0]
    sides[1] = sides[1][torch.randperm(rows, generator=generator)]
    units = []
    for side in sides:
        centred = side - side.mean(0)
        length: Tensor = torch.linalg.vector_norm(centred, dim=0)
        is_alive = length > _CONSTANT * math.sqrt(rows) * side.mean(0).abs()
        units.append(centred[:, is_alive] / length[is_alive])
    return (units[0].T @ units[1]).abs() * math.sqrt(rows / max(count, 1))


@final
@dataclass(frozen=True, slots=True)
class MatchedWeights:
    """Two matrices A and B with the rows, or the columns, of B put in the order that fits A best.

    `reduction` is 1 − ‖A − PB‖²/‖A − B‖². `alignment` is Σ(u_iᵃ·Pu_jᵇ)(v_iᵃ·P′v_jᵇ)/n over singular values ≥ 0.3·σ₁,
    `in_place` the same without P. Their nulls are the same after B was put in random order, rows and columns. `moved`
    counts the units of the `axis` that changed place.
    """

    reduction: float
    reduction_null: float
    alignment: float
    alignment_null: float
    in_place: float
    vectors: int
    axis: str
    moved: int


def weight_matching(view: Comparison) -> MatchedWeights | str:
    """The better of matching output units with the inputs as they are, and inputs with the outputs as they are.

    A side beyond 1,024 is left as it is. Returns the reason where neither can be matched.

    Raises:
        NotConverged: LAPACK gave up.
    """
    a, b = (_long_first(weight) for weight in (view.before, view.after))
    long, short = a.shape
    if short > MAX_SIDE:
        return f"both sides > {MAX_SIDE:,}"
    if not bool(a.any()) or not bool(b.any()):
        return "all zero"
    generator = view.generator()
    here = torch.arange(long), torch.arange(short)
    found = _best_order(a, b, here)
    is_tall = view.before.matrix.shape[0] > view.before.matrix.shape[1]
    names = ("outputs", "inputs") if is_tall else ("inputs", "outputs")
    axis = 0 if bool((found[0] != here[0]).any()) else 1
    bases = [_leading_vectors(weight) for weight in (view.before, view.after)]
    mixed = torch.randperm(long, generator=generator), torch.randperm(short, generator=generator)
    matched = _best_order(a, b, mixed)
    return MatchedWeights(
        reduction=_reduction(a, b, here, found),
        reduction_null=_reduction(a, b, mixed, matched),
        alignment=_alignment(a, b, found, bases),
        alignment_null=_alignment(a, b, matched, bases),
        in_place=_alignment(a, b, here, bases),
        vectors=max(basis[0].shape[1] for basis in bases),
        axis=names[axis],
        moved=int((found[axis] != here[axis]).sum()),
    )


def _reduction(a: Tensor, b: Tensor, order: "Order", matched: "Order") -> float:
    before = _squared_distance(a, b, order)
    return max(0.0, 1.0 - _squared_distance(a, b, matched) / before) if before > 0.0 else 0.0


Order = tuple[Int[Tensor, " long"], Int[Tensor, " short"]]


def _long_first(weight: Weight) -> Float[Tensor, "long short"]:
    """The orientation of `spectrum.gram`: its columns are the side of the Gram matrix."""
    matrix = weight.matrix
    return matrix if matrix.shape[0] > matrix.shape[1] else matrix.T


def _blocks(a: Tensor, b: Tensor, order: Order) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks of rows of A and of the reordered B, float64."""
    rows, columns = (part.to(b.device) for part in order)
    step = max(1, _BLOCK_ENTRIES // max(a.shape[1], 1))
    for start in range(0, a.shape[0], step):
        yield a[start : start + step].double(), b[rows[start : start + step]][:, columns].double()


def _squared_distance(a: Tensor, b: Tensor, order: Order) -> float:
    return sum(float((left - right).square_().sum()) for left, right in _blocks(a, b, order))


def _product(a: Tensor, b: Tensor, order: Order) -> Float[Tensor, "short short"]:
    total = torch.zeros(a.shape[1], a.shape[1], dtype=torch.float64, device=a.device)
    for left, right in _blocks(a, b, order):
        total.addmm_(left.T, right)
    return total


def _best_order(a: Tensor, b: Tensor, order: Order) -> Order:
    """The order of B after one of its sides was matched, whichever brings it closer to A."""
    tables = [(1, _product(a, b, order))]
    if a.shape[0] <= MAX_SIDE:
        (left, right), *_ = _blocks(a, b, order)
        tables.append((0, left @ right.T))
    best, axis, places = -math.inf, 1, order[1]
    for side, table in tables:
        matched = _matched_places(table)
        fit = float(table[torch.arange(matched.numel()), matched].sum())
        if fit > best:
            best, axis, places = fit, side, matched
    rows, columns = order
    return (rows[places], columns) if axis == 0 else (rows, columns[places])


def _matched_places(table: Float[Tensor, "side side"]) -> Int[Tensor, " side"]:
    """Partner of every unit, its own place where that is as good as any."""
    largest, partner = table.max(1)
    places = torch.arange(table.shape[0])
    if bool((table.diagonal() >= largest).all()):
        return places
    partner = partner.cpu()
    if torch.unique(partner).numel() == partner.numel():
        return partner
    return _assigned(table)[1]


def _leading_vectors(weight: Weight) -> tuple[Float[Tensor, "short kept"], Float[Tensor, " kept"]]:
    """Singular vectors of the smaller side with σ ≥ 0.3·σ₁, and σ."""
    try:
        energies, vectors = torch.linalg.eigh(weight.get(gram))
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", where=weight.site.name, got=str(error)) from error
    kept = energies >= _LARGE_SINGULAR**2 * energies[-1]
    return vectors[:, kept], energies[kept].sqrt()


def _alignment(a: Tensor, b: Tensor, order: Order, bases: list[tuple[Tensor, Tensor]]) -> float:
    (left, left_values), (right, right_values) = bases
    turned = right[order[1].to(right.device)]
    # the long vectors are A·v/σ, so that their products need no long matrix
    long = (left.T @ _product(a, b, order) @ turned) / torch.outer(left_values, right_values)
    value = float((long * (left.T @ turned)).sum()) / max(left.shape[1], right.shape[1])
    return max(-1.0, min(1.0, value))
