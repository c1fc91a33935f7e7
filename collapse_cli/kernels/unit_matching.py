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
#: Singular vectors that are compared have σ ≥ 0.3·σ₁ (Ito, Yamada & Kumagai 2024).
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
    mixed = torch.randperm(long, generator=generator), torch.randperm(short, generator=generator)
    found, chance = _fit(a, b, here), _fit(a, b, mixed)
    energy = sum(float(weight.get(gram).trace()) for weight in (view.before, view.after))
    bases = [_leading_vectors(weight) for weight in (view.before, view.after)]
    is_tall = view.before.matrix.shape[0] > view.before.matrix.shape[1]
    return MatchedWeights(
        reduction=found.reduction(energy),
        reduction_null=chance.reduction(energy),
        alignment=_alignment(found.matched, found.order[1], bases),
        alignment_null=_alignment(chance.matched, chance.order[1], bases),
        in_place=_alignment(found.product, here[1], bases),
        vectors=max(basis[0].shape[1] for basis in bases),
        axis="outputs" if (found.axis == 0) == is_tall else "inputs",
        moved=int((found.order[found.axis] != here[found.axis]).sum()),
    )


Order = tuple[Int[Tensor, " long"], Int[Tensor, " short"]]


@final
@dataclass(frozen=True, slots=True)
class _Fit:
    """The order of B after one of its sides (0 the long one) was matched, and AᵀB before and after."""

    order: Order
    axis: int
    product: Float[Tensor, "short short"]
    matched: Float[Tensor, "short short"]

    def reduction(self, energy: float) -> float:
        """1 − ‖A − PB‖²/‖A − B‖², with ‖A‖² + ‖B‖² = `energy`; 0 where nothing was to be gained."""
        before = energy - 2.0 * float(self.product.trace())
        gained = 2.0 * float(self.matched.trace() - self.product.trace())
        return min(gained / before, 1.0) if gained > 0.0 and before > 0.0 else 0.0


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


def _product(a: Tensor, b: Tensor, order: Order) -> Float[Tensor, "short short"]:
    total = torch.zeros(a.shape[1], a.shape[1], dtype=torch.float64, device=a.device)
    for left, right in _blocks(a, b, order):
        total.addmm_(left.T, right)
    return total


def _fit(a: Tensor, b: Tensor, order: Order) -> _Fit:
    """The side of B whose matching brings it closer to A."""
    rows, columns = order
    product = _product(a, b, order)
    places = _matched_places(product)
    matched = product[:, places.to(product.device)]
    if a.shape[0] <= MAX_SIDE:
        ((left, right),) = _blocks(a, b, order)
        table = left @ right.T
        others = _matched_places(table)
        if float(table[torch.arange(others.numel()), others].sum()) > float(matched.trace()):
            turned = rows[others], columns
            return _Fit(turned, 0, product, _product(a, b, turned))
    return _Fit((rows, columns[places]), 1, product, matched)


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


def _alignment(
    product: Float[Tensor, "short short"], columns: Int[Tensor, " short"], bases: list[tuple[Tensor, Tensor]]
) -> float:
    (left, left_values), (right, right_values) = bases
    turned = right[columns.to(right.device)]
    # the long vectors are A·v/σ, so that their products need no long matrix
    long = (left.T @ product @ turned) / torch.outer(left_values, right_values)
    value = float((long * (left.T @ turned)).sum()) / max(left.shape[1], right.shape[1])
    return max(-1.0, min(1.0, value))
