"""Spectrum of a change ΔW = W − W₀, and where it lies against the singular directions of W₀.

Everything is read from three float64 Gram matrices of the smaller side, summed in blocks: W₀ᵀW₀, ΔWᵀΔW and W₀ᵀΔW.
ΔW is formed from the two tensors entry by entry, never as a difference of Gram matrices, which would cancel.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.comparisons import Comparison
from collapse_cli.kernels.precision import rounding_step
from collapse_cli.kernels.spectrum import column_norms, energy_rank, noise_floor, row_norms
from collapse_cli.kernels.views import Weight

__all__ = ["FOREIGN", "LEADING", "MAX_SIDE", "Update", "random_cosine", "rounding_floor", "tucker_ranks", "update"]

#: Smaller side up to which singular vectors are computed: at 4096 they and three Gram matrices take 1 GB.
MAX_SIDE = 4096
#: Leading directions that are looked at, and the cosine below which one is foreign to all directions of before:
#: the defaults of Shuttleworth et al. 2024.
LEADING, FOREIGN = 10, 0.5
#: Share of the directions that make up the core of a weight.
_CORE = 10
#: Rounding adds an error of rms 0.21·eps·rms(W), see `spectrum.noise_floor`.
_ROUNDING_RMS = 0.21
#: Below this share of σ₁ a direction read from a Gram matrix is rounding.
_TRUST = 1e-6
#: float64 entries of one block of the accumulation: 16 MiB, and as much again for the change.
_BLOCK_ENTRIES = 1 << 21


@final
@dataclass(frozen=True, slots=True)
class Update:
    """`energies` of ΔW, descending, and `floor`, the largest singular value of it that rounding could have made.

    `core` directions were compared: `core_energy` is None and `cosines` empty where W₀ is all zero. `cosines` hold, for
    each of the leading left directions of W, the largest to any left direction of W₀.
    """

    energies: Float[Tensor, " rank"]
    floor: float
    core: int
    core_energy: float | None
    overlap: float | None
    cosines: tuple[float, ...]


def rounding_floor(weight: Weight) -> float:
    """`spectrum.noise_floor` without the singular values of the weight: float64 round-off is bounded by ‖W‖_F."""
    if weight.matrix.numel() == 0:
        return 0.0
    if weight.quantisation_step is not None:
        return weight.get(noise_floor)
    rows = weight.get(row_norms)
    largest = float(rows.max() + weight.get(column_norms).max())
    return max(
        _ROUNDING_RMS * weight.get(rounding_step) * largest,
        2.2e-16 * max(weight.matrix.shape) * float(rows.norm()),
    )


def random_cosine(rows: int, columns: int) -> float:
    """Largest cosine between a random direction and all left directions of a weight, about √(2·ln(2m)/M)."""
    return min(1.0, math.sqrt(2.0 * math.log(2.0 * min(rows, columns)) / rows))


def _grams(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """LᵀL, ΔᵀΔ and LᵀΔ of the matrices laid with their longer side first."""
    is_tall = before.shape[0] > before.shape[1]
    first, second = (before, after) if is_tall else (before.T, after.T)
    side = first.shape[1]
    totals = [torch.zeros(side, side, dtype=torch.float64, device=before.device) for _ in range(3)]
    step = max(1, min(_BLOCK_ENTRIES, max(1 << 18, side * side)) // max(side, 1))
    for start in range(0, first.shape[0], step):
        old = first[start : start + step].to(torch.float64)
        delta = second[start : start + step].to(torch.float64) - old
        totals[0].addmm_(old.T, old)
        totals[1].addmm_(delta.T, delta)
        totals[2].addmm_(old.T, delta)
    return totals[0], totals[1], totals[2]


def update(view: Comparison) -> Update:
    """The spectrum of the change from the first to the last member, and its place against the first.

    Raises:
        NotConverged: LAPACK gave up.
    """
    before, after = view.before, view.after
    floor = math.sqrt(2.0) * max(before.get(rounding_floor), after.get(rounding_floor))
    base, change, cross = _grams(before.matrix, after.matrix)
    core = math.ceil(base.shape[0] / _CORE)
    try:
        energies = torch.linalg.eigvalsh(change).clamp_min_(0.0).flip(0).cpu()
        if float(base.trace()) <= 0.0 or float(energies[0]) <= floor**2:
            return Update(energies, floor, core, None, None, ())
        # Gram matrix of the last member, from parts: nothing cancels unless the weight vanishes
        last = change.add_(base).add_(cross).add_(cross.T)
        old, new = _directions(base), _directions(last, max(core, LEADING))
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", where=view.site.name, got=str(error)) from error
    leading = old[0][:core], old[1][:, :core]
    inside = leading[1].T @ cross @ leading[1] / leading[0].unsqueeze(1)
    cosines = _left_cosines(old, new, None if _is_left(before) else base.add_(cross))
    return Update(
        energies,
        floor,
        core,
        min(float(inside.square().sum() / energies.sum()), 1.0),
        float(cosines[: len(leading[0]), :core].square().sum()) / core,
        tuple(cosines[:, :LEADING].abs().amax(0).clamp_max(1.0).tolist()),
    )


def _is_left(weight: Weight) -> bool:
    """Whether the vectors of the smaller side are left singular vectors."""
    return weight.matrix.shape[0] <= weight.matrix.shape[1]


def _directions(gram: Tensor, count: int | None = None) -> tuple[Tensor, Tensor]:
    """Singular values, descending, and vectors of the smaller side, down to what the Gram matrix can tell."""
    eigenvalues, vectors = torch.linalg.eigh(gram)
    values = eigenvalues.clamp_min_(0.0).sqrt_().flip(0)
    kept = int((values > _TRUST * values[0]).sum())
    kept = kept if count is None else min(kept, count)
    return values[:kept], vectors.flip(1)[:, :kept]


def _left_cosines(
    old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor], between: Tensor | None
) -> Float[Tensor, "old new"]:
    """Cosines of the left singular vectors of both; `between` is W₀ᵀW where the vectors given are the right ones."""
    if between is None:
        return old[1].T @ new[1]
    return old[1].T @ (between @ new[1]) / old[0].unsqueeze(1) / new[0]


def tucker_ranks(view: Comparison, share: float) -> tuple[int, ...]:
    """For each axis, the smallest rank of the unfolding of the change that holds that share of its energy."""
    before, after = view.before.tensor, view.after.tensor
    ranks = []
    for axis, side in enumerate(before.shape):
        total = torch.zeros(side, side, dtype=torch.float64, device=before.device)
        # cut along another axis than the one unfolded
        along = 1 if axis == 0 else 0
        step = max(1, _BLOCK_ENTRIES * before.shape[along] // before.numel())
        for old, new in zip(torch.split(before, step, along), torch.split(after, step, along), strict=True):
            unfolded = (new.to(torch.float64) - old.to(torch.float64)).movedim(axis, 0).flatten(1)
            total.addmm_(unfolded, unfolded.T)
        ranks.append(energy_rank(torch.linalg.eigvalsh(total).clamp_min_(0.0).flip(0), share))
    return tuple(ranks)
