"""How alike the hidden units of experts are, whatever their order: matched cosines, their cost and their null.

An expert with h hidden units is a set of h unit vectors of length p: input row, gate row and output column of a unit,
one after the other. Two experts are compared by the best one-to-one assignment of their units; the mean over units of
the largest cosine with any unit of the other expert bounds it from above and costs no assignment.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.core.site import Role
from collapse_cli.kernels.spectrum import entropy_rank, frobenius
from collapse_cli.kernels.views import Block, Weight

__all__ = ["Alignment", "aligned_cosine_null", "alignment", "distinct_count", "experts_of", "mean_cosine", "norms"]

#: Operations spent on the bounds of a block, and again on its assignments: about five seconds each on two cores.
_BUDGET = 3e11
#: An assignment of h units costs as much time as 4h³ operations of a product (measured: 9 ms at 512, 0.1 s at 1408).
_ASSIGNMENT_COST = 4
#: Units per expert that the bound is averaged over at least: that of random units is then right to 3 %.
_FEWEST_UNITS = 4
#: Pairs whose bound is above this many times chance are assigned first.
_SUSPICIOUS = 1.5
#: Expected number of cosines beyond the mean matched one, per unit of h random units. Measured .98, .96, .94 at
#: h = 64, 256, 1024 whatever p is; the null moves by 0.4 % when this moves by 5 %.
_BEYOND_MATCHED = 0.95
#: Up to this many units the null is drawn: the formula errs by more than 1 % below.
_DRAWN_UNITS = 128
#: Entries of one working block: 64 MiB in float32.
_BLOCK_ENTRIES = 1 << 24

Parts = tuple[Weight, ...]


@final
@dataclass(frozen=True, slots=True)
class Alignment:
    """Matched cosines of pairs of experts, float64 on the CPU, 1 on the diagonal.

    `queried` are the experts that were compared with all others: row i of `cosines` is known if i is one of them.
    `assigned` pairs have their best assignment, the `bounded` ones an upper bound (which is an estimate from
    `units` units per expert where that is fewer than all). `chance` is the null of a matched cosine.
    """

    cosines: Float[Tensor, "experts experts"]
    queried: tuple[int, ...]
    assigned: int
    bounded: int
    units: int
    chance: float

    @property
    def pairs(self) -> Float[Tensor, " pairs"]:
        """The cosine of every compared pair, once."""
        rows = torch.tensor(self.queried)
        is_known = torch.zeros_like(self.cosines, dtype=torch.bool)
        is_known[rows] = True
        return self.cosines[(is_known | is_known.T).triu(1)]


def experts_of(block: Block) -> tuple[Parts, ...] | str:
    """Per expert its input, gate (where there is one) and output, or the reason why they cannot be compared."""
    roles = [role for role in (Role.EXPERT_IN, Role.EXPERT_GATE, Role.EXPERT_OUT) if block.all(role)]
    counts = {len(block.all(role)) for role in roles}
    if len(counts) > 1:
        return "experts with different weights: " + ", ".join(f"{len(block.all(role))} {role}" for role in roles)
    experts = tuple(zip(*(block.all(role) for role in roles), strict=True))
    if len(experts) < 2:
        return f"{len(experts)} expert < 2"
    if len({tuple(weight.matrix.shape for weight in expert) for expert in experts}) > 1:
        return "experts of different shapes"
    sides = [_unit_axis_first(weight).shape for weight in experts[0]]
    if len({hidden for hidden, _ in sides}) > 1:
        return "input and output of an expert do not share their hidden units"
    return experts if all(min(side) > 0 for side in sides) else "empty experts"


def _unit_axis_first(weight: Weight) -> Float[Tensor, "hidden features"]:
    return weight.matrix.T if weight.site.role is Role.EXPERT_OUT else weight.matrix


def norms(block: Block) -> Float[Tensor, " experts"]:
    """Frobenius norm of every expert, all its weights together."""
    experts = experts_of(block)
    if isinstance(experts, str):
        return torch.zeros(0, dtype=torch.float64)
    parts = [[weight.get(frobenius) for weight in expert] for expert in experts]
    total: Tensor = torch.linalg.vector_norm(torch.tensor(parts, dtype=torch.float64), dim=1)
    return total


def mean_cosine(block: Block) -> float:
    """Mean cosine of the flattened weights of all pairs of non-zero experts: (‖Σŵ‖² − E)/(E(E−1)), no pair formed."""
    experts, sizes = experts_of(block), block.get(norms).tolist()
    alive = [index for index, size in enumerate(sizes) if size > 0.0]
    if isinstance(experts, str) or len(alive) < 2:
        return 0.0
    squares = 0.0
    for part in range(len(experts[0])):
        matrices = [(experts[index][part].matrix, sizes[index]) for index in alive]
        step = max(1, _BLOCK_ENTRIES // matrices[0][0].shape[1])
        for start in range(0, matrices[0][0].shape[0], step):
            total = torch.zeros_like(matrices[0][0][start : start + step], dtype=torch.float64)
            for matrix, size in matrices:
                total += matrix[start : start + step].double() / size
            squares += float(total.square().sum())
    return max(-1.0, min(1.0, (squares - len(alive)) / (len(alive) * (len(alive) - 1))))


def _units(expert: Parts, chosen: Int[Tensor, " units"] | None = None) -> Float[Tensor, "hidden features"]:
    """Unit vectors of the hidden units, or of the chosen ones, float32; a unit of zeros stays one."""
    parts = [_unit_axis_first(weight) for weight in expert]
    if chosen is not None:
        parts = [part[chosen.to(part.device)] for part in parts]
    scale = max(float(part.abs().max()) for part in parts)
    # divided before it is rounded where float32 could not hold the entries
    scaled = [(part if part.dtype is torch.float64 else part.float()) / (scale or 1.0) for part in parts]
    whole = torch.cat([part.float() for part in scaled], dim=1)
    lengths: Tensor = torch.linalg.vector_norm(whole, dim=1, keepdim=True)
    return whole.div_(lengths.masked_fill(lengths == 0.0, 1.0))


def alignment(block: Block) -> Alignment:
    """Matched cosines of the experts, within the budget: bounds for all pairs first, then assignments.

    Raises:
        ValueError: the experts cannot be compared; ask `experts_of` first.
    """
    experts = experts_of(block)
    if isinstance(experts, str):
        raise ValueError(experts)  # noqa: TRY004 - the block is at fault, not its type
    count, sides = len(experts), [_unit_axis_first(weight).shape for weight in experts[0]]
    hidden, features = sides[0][0], sum(width for _, width in sides)
    generator, per_unit = block.generator(), 2.0 * hidden * features * count
    units = max(min(hidden, _FEWEST_UNITS), min(hidden, int(_BUDGET / (per_unit * count))))
    queries = max(2, min(count, int(_BUDGET / (per_unit * units))))
    queried = tuple(sorted(torch.randperm(count, generator=generator)[:queries].tolist()))
    chosen = torch.randperm(hidden, generator=generator)[:units].sort().values
    bounds = _bounds(experts, queried, chosen)
    pairs = _unordered(queried, count)
    chance = aligned_cosine_null(hidden, features)
    cost = 2.0 * hidden * hidden * features + _ASSIGNMENT_COST * hidden**3
    if len(pairs) * cost > _BUDGET:
        suspicious = [pair for pair in pairs if float(bounds[pair]) > _SUSPICIOUS * chance]
        to_assign = sorted(suspicious, key=lambda pair: -float(bounds[pair]))[: int(_BUDGET / cost)]
    else:
        to_assign = pairs
    for left, right in sorted(to_assign):
        bounds[left, right] = bounds[right, left] = matched_cosine(_units(experts[left]), _units(experts[right]))
    bounds.fill_diagonal_(1.0)
    return Alignment(bounds, queried, len(to_assign), len(pairs) - len(to_assign), units, chance)


def distinct_count(cosines: Float[Tensor, "experts experts"]) -> float:
    """Entropy rank of a matrix of matched cosines: the number of different experts.

    Cosines that were matched pair by pair need not be those of any vectors; negative eigenvalues count as 0.
    """
    return entropy_rank(torch.linalg.eigvalsh(cosines).clamp_min(0.0))


def _unordered(queried: Sequence[int], count: int) -> list[tuple[int, int]]:
    known = set(queried)
    return [(i, j) for i in range(count) for j in range(i + 1, count) if i in known or j in known]


def _bounds(
    experts: Sequence[Parts], queried: Sequence[int], chosen: Int[Tensor, " units"]
) -> Float[Tensor, "experts experts"]:
    """Mean over the chosen units of each queried expert of the largest cosine with a unit of each expert; symmetric.

    Both directions bound the assignment from above, and so does their mean.
    """
    asked = torch.cat([_units(experts[index], chosen) for index in queried])
    one_way = torch.zeros(len(queried), len(experts), dtype=torch.float64)
    for position, expert in enumerate(experts):
        units = _units(expert).T
        step = max(1, _BLOCK_ENTRIES // units.shape[1])
        largest = torch.cat([(rows @ units).amax(1) for rows in torch.split(asked, step)])
        one_way[:, position] = largest.view(len(queried), -1).double().mean(1).cpu()
    sums = torch.zeros(len(experts), len(experts), dtype=torch.float64)
    ways = torch.zeros_like(sums)
    rows = torch.tensor(queried)
    sums[rows] += one_way
    ways[rows] += 1.0
    return ((sums + sums.T) / (ways + ways.T).clamp_min(1.0)).clamp(-1.0, 1.0)


def matched_cosine(left: Float[Tensor, "hidden features"], right: Float[Tensor, "hidden features"]) -> float:
    """Mean cosine of unit vectors under the best one-to-one assignment."""
    cosines = left @ right.T
    best, partner = cosines.max(1)
    if torch.unique(partner).numel() == partner.numel():
        # every unit has its first choice: no assignment is better
        return min(1.0, float(best.double().mean()))
    from scipy.optimize import linear_sum_assignment

    table = cosines.double().cpu().numpy()
    rows, columns = linear_sum_assignment(table, maximize=True)
    return max(-1.0, min(1.0, float(table[rows, columns].mean())))


@functools.cache
def aligned_cosine_null(hidden: int, features: int) -> float:
    """The matched cosine of two sets of random unit vectors: .220, .136, .105 at (64,96), (256,384), (512,768).

    Beyond 128 units the quantile 1 − 0.95/h of the cosine of two random directions, of which (1 + cos)/2 is
    Beta((p−1)/2, (p−1)/2): right to 0.5 % against draws up to 1,408 units. Below, the mean of seeded draws.
    """
    if hidden <= _DRAWN_UNITS:
        return _drawn(hidden, features)
    from scipy.special import betaincinv

    shape = (features - 1) / 2
    return 1.0 - 2.0 * float(betaincinv(shape, shape, _BEYOND_MATCHED / hidden))


def _drawn(hidden: int, features: int) -> float:
    generator = torch.Generator().manual_seed(0)
    draws = max(16, 2048 // hidden)
    return max(0.0, sum(_random_match(hidden, features, generator) for _ in range(draws)) / draws)


def _random_match(hidden: int, features: int, generator: torch.Generator) -> float:
    left, right = _random_units(2, hidden, features, generator)
    return matched_cosine(left, right)


def _random_units(sets: int, hidden: int, features: int, generator: torch.Generator) -> Iterable[Tensor]:
    drawn = torch.randn(sets, hidden, features, generator=generator)
    return torch.nn.functional.normalize(drawn, dim=2)
