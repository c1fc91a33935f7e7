"""The path that weights took over a run: inner products of its steps, and all that follows from them.

One streamed pass per site gives a T×T Gram matrix in float64; those of all sites add up to that of the model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.comparisons import Comparison
from collapse_cli.kernels.spectrum import energy_rank, participation_ratio
from collapse_cli.kernels.weight_change import places

__all__ = ["Path", "path", "random_walk_dimensions", "span_ratios", "step_gram"]


def step_gram(view: Comparison) -> Float[Tensor, "members members"]:
    """Inner products of θ₀ and of the steps θ_{t+1} − θ_t: formed step by step, so that short steps do not cancel."""
    matrices = [weight.matrix for weight in view.members]
    device = matrices[0].device
    total = torch.zeros(len(matrices), len(matrices), dtype=torch.float64, device=device)
    for place in places(matrices[0].shape, device):
        block = torch.stack([matrix[place].to(torch.float64).reshape(-1) for matrix in matrices])
        block[1:] = block[1:] - block[:-1]
        total += block @ block.T
    return total.cpu()


@final
@dataclass(frozen=True, slots=True)
class Path:
    """Figures of a path of T members. What its steps do not define is None: angles need two that follow each other.

    `lengths` are those of the steps, `rates` the same for one median interval between members; `spike` is the largest
    over the median, the smaller of both readings where the intervals differ.
    """

    lengths: tuple[float, ...]
    rates: tuple[float, ...]
    relative: float | None
    spike: float | None
    angle: float | None
    straightness: float
    straightness_null: float
    energies: Float[Tensor, " components"]

    @property
    def dimension(self) -> float:
        """Participation ratio of the energies of the centred path."""
        return participation_ratio(self.energies)

    @property
    def dimension_90(self) -> int:
        """Components that hold 90 % of the energy of the centred path."""
        return energy_rank(self.energies, 0.9)


def path(gram: Float[Tensor, "members members"], steps: Sequence[float]) -> Path | None:
    """The path whose start and steps have these inner products; None if nothing ever moved."""
    inner = gram[1:, 1:]
    lengths = inner.diagonal().clamp_min(0.0).sqrt()
    total = float(lengths.sum())
    if total <= 0.0:
        return None
    intervals = [after - before for before, after in pairwise(steps)]
    usual = median(intervals) if min(intervals) > 0.0 else 1.0
    weights = torch.tensor([usual / one if min(intervals) > 0.0 else 1.0 for one in intervals], dtype=torch.float64)
    rates = lengths * weights
    return Path(
        tuple(lengths.tolist()),
        tuple(rates.tolist()),
        _relative(gram, rates),
        _spike(lengths, rates),
        _angle(inner, lengths),
        min(float(inner.sum().clamp_min(0.0).sqrt()) / total, 1.0),
        float(lengths.square().sum().sqrt()) / total,
        _energies(inner),
    )


def _relative(gram: Tensor, rates: Tensor) -> float | None:
    """Median ‖Δ_t‖/‖θ_t‖ over the members that are not zero."""
    # θ_t is the start and all steps before t
    lower = torch.tril(torch.ones_like(gram))[: rates.numel()]
    norms = (lower @ gram @ lower.T).diagonal().clamp_min(0.0).sqrt()
    ratios = (rates / norms)[norms > 0.0]
    return median(ratios.tolist()) if ratios.numel() else None


def _spike(lengths: Tensor, rates: Tensor) -> float | None:
    """Largest over median step; None where most steps are none."""
    middles = median(lengths.tolist()), median(rates.tolist())
    return min(float(lengths.max()) / middles[0], float(rates.max()) / middles[1]) if middles[0] > 0.0 else None


def _angle(inner: Tensor, lengths: Tensor) -> float | None:
    """Median angle between steps that follow each other, in degrees."""
    cosines = [
        float(inner[place, place + 1] / lengths[place] / lengths[place + 1])
        for place in range(lengths.numel() - 1)
        if float(lengths[place]) > 0.0 < float(lengths[place + 1])
    ]
    return median(math.degrees(math.acos(min(max(one, -1.0), 1.0))) for one in cosines) if cosines else None


def _energies(inner: Tensor) -> Float[Tensor, " components"]:
    """Eigenvalues of the centred Gram matrix of the members, descending, in units of the largest squared step."""
    scale = float(inner.diagonal().max())
    count = inner.shape[0] + 1
    summing = torch.tril(torch.ones(count, count - 1, dtype=torch.float64), diagonal=-1)
    summing -= summing.mean(0)
    energies: Tensor = torch.linalg.eigvalsh(summing @ (inner / scale) @ summing.T)
    # the mean is taken out: one eigenvalue is zero
    return energies.flip(0)[: count - 1].clamp_min(0.0)


def random_walk_dimensions(members: int) -> tuple[float, int]:
    """Dimension and 90 % dimension of a random walk in many dimensions: energies ∝ 1/(4·sin²(πk/2T)).

    They tend to (π²/6)²/(π⁴/90) = 2.5 and 6 (Antognini & Sohl-Dickstein 2018).
    """
    angles = torch.arange(1, members, dtype=torch.float64) * (math.pi / (2.0 * members))
    energies = 0.25 / angles.sin().square()
    return participation_ratio(energies), energy_rank(energies, 0.9)


def span_ratios(gram: Float[Tensor, "members members"]) -> list[float]:
    """Of each vector, none zero, the share of its energy in the span of the others, from their inner products."""
    scale = gram.diagonal().sqrt()
    unit = gram / scale / scale[:, None]
    ratios = []
    for member in range(gram.shape[0]):
        rest = [other for other in range(gram.shape[0]) if other != member]
        among, with_it = unit[rest][:, rest], unit[rest, member]
        share = float(with_it @ torch.linalg.pinv(among, rtol=1e-12, hermitian=True) @ with_it)
        ratios.append(min(max(share, 0.0), 1.0))
    return ratios
