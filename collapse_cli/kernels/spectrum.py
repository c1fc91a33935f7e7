"""Singular values of a weight, its norms, and the floor below which a singular value is rounding.

The spectrum is computed once per weight and shared: a float64 Gram matrix of the smaller side, accumulated in blocks
so that no float64 copy of the weight exists, then its eigenvalues. Errors of σᵢ stay below 1.4e-6 relative down to
σᵢ/σ₁ = 1e-5 and 1.4e-4 at 1e-6; whatever needs less asks for `refined_singular_values`.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.precision import rounding_step
from collapse_cli.kernels.views import Weight

__all__ = [
    "MAX_EXACT_SIDE",
    "column_norms",
    "energy_rank",
    "entropy_rank",
    "frobenius",
    "gram",
    "gram_of",
    "has_exact_spectrum",
    "is_above_rounding",
    "noise_floor",
    "numerical_rank",
    "participation_ratio",
    "refined_singular_values",
    "root_mean_square",
    "row_norms",
    "singular_values",
    "spectral_norm",
    "spectrum_curve",
    "squared_gram_norm",
]

#: Smaller side up to which the spectrum is exact; an 8192² eigenvalue problem takes about a minute on two cores.
MAX_EXACT_SIDE = 8192
#: Below this share of σ₁ the squares in a float64 Gram have lost too many digits.
_GRAM_TRUST = 1e-6
#: Rounding adds an error of rms 0.208·eps·rms(W) (uniform in a binade, measured 1.66e-3 for bf16); see `noise_floor`.
_ROUNDING_RMS = 0.21
#: float64 entries of one block of the Gram accumulation: 32 MiB.
_BLOCK_ENTRIES = 1 << 22
#: float64 entries of one block of a pass over all entries: 512 KiB stay in the cache.
_PASS_ENTRIES = 1 << 16
#: CUDA compute capabilities with at least half-rate float64 (data-centre parts); the rest have 1/32 or less.
_FAST_FLOAT64 = frozenset({(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)})


def has_exact_spectrum(weight: Weight) -> bool:
    """Whether all singular values are computed (m ≤ 8192)."""
    return min(weight.matrix.shape) <= MAX_EXACT_SIDE


def gram_of(matrix: Float[Tensor, "out in"]) -> Float[Tensor, "rank rank"]:
    """The float64 Gram matrix of the smaller side (W·Wᵀ if out ≤ in, else Wᵀ·W), accumulated in blocks."""
    long_first = matrix if matrix.shape[0] > matrix.shape[1] else matrix.T
    side = long_first.shape[1]
    # a quarter of the Gram matrix itself: smaller blocks write it too often, larger ones leave the cache
    entries = min(max(1 << 18, side * side // 4), _BLOCK_ENTRIES)
    step = max(1, entries // max(side, 1))
    total = torch.zeros(side, side, dtype=torch.float64, device=matrix.device)
    for start in range(0, long_first.shape[0], step):
        block = long_first[start : start + step].to(torch.float64)
        total.addmm_(block.T, block)
    return total


def gram(weight: Weight) -> Float[Tensor, "rank rank"]:
    """The shared Gram matrix of the smaller side, float64, on the weight's device."""
    return gram_of(weight.matrix)


def _has_slow_float64(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) not in _FAST_FLOAT64


def singular_values(weight: Weight) -> Float[Tensor, " rank"]:
    """All singular values, descending, float64 on the CPU.

    Raises:
        ValueError: m > 8192; ask `has_exact_spectrum` first.
        NotConverged: LAPACK gave up.
    """
    if not has_exact_spectrum(weight):
        raise ValueError(f"{weight.site.name}: no exact spectrum beyond a side of {MAX_EXACT_SIDE}")
    if min(weight.matrix.shape) == 0:
        return torch.zeros(0, dtype=torch.float64)
    try:
        if _has_slow_float64(weight.matrix.device):
            # float32 on the matrix itself, not on its Gram: relative error 1e-7·σ₁
            return _svdvals(weight.matrix.float())
        eigenvalues: Tensor = torch.linalg.eigvalsh(weight.get(gram))
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", where=weight.site.name, got=str(error)) from error
    return eigenvalues.clamp_min(0.0).sqrt().flip(0).cpu()


def _svdvals(matrix: Float[Tensor, "out in"]) -> Float[Tensor, " rank"]:
    values: Tensor = torch.linalg.svdvals(matrix)
    return values.double().cpu()


def refined_singular_values(weight: Weight) -> Float[Tensor, " rank"]:
    """Singular values that are right below 1e-6·σ₁ as well: a float64 SVD, when and only when the Gram cannot tell."""
    values = weight.get(singular_values)
    if values.numel() == 0 or float(values[0]) == 0.0:
        return values
    is_doubtful = float(values[-1]) < _GRAM_TRUST * float(values[0])
    if not is_doubtful or weight.get(noise_floor) > _GRAM_TRUST * float(values[0]):
        return values
    try:
        return _svdvals(weight.matrix.double())
    except LinAlgError as error:
        raise NotConverged(
            "the singular value solver did not converge", where=weight.site.name, got=str(error)
        ) from error


def _squared_norms(weight: Weight) -> tuple[Float[Tensor, " out"], Float[Tensor, " in"]]:
    matrix = weight.matrix
    rows = torch.zeros(matrix.shape[0], dtype=torch.float64, device=matrix.device)
    columns = torch.zeros(matrix.shape[1], dtype=torch.float64, device=matrix.device)
    step = max(1, _PASS_ENTRIES // max(matrix.shape[1], 1))
    for start in range(0, matrix.shape[0], step):
        squares = matrix[start : start + step].to(torch.float64).square()
        rows[start : start + step] = squares.sum(1)
        columns += squares.sum(0)
    return rows, columns


def row_norms(weight: Weight) -> Float[Tensor, " out"]:
    """‖wᵢ‖ of every row, float64 on the CPU."""
    return weight.get(_squared_norms)[0].sqrt().cpu()


def column_norms(weight: Weight) -> Float[Tensor, " in"]:
    """‖wʲ‖ of every column, float64 on the CPU."""
    return weight.get(_squared_norms)[1].sqrt().cpu()


def frobenius(weight: Weight) -> float:
    """‖W‖_F."""
    return math.sqrt(float(weight.get(_squared_norms)[0].sum()))


def root_mean_square(weight: Weight) -> float:
    """‖W‖_F/√(MN); 0 for an empty weight."""
    return weight.get(frobenius) / math.sqrt(max(weight.matrix.numel(), 1))


def spectral_norm(weight: Weight) -> float:
    """σ₁: from the spectrum where it is exact, else by 40 Lanczos steps with full re-orthogonalisation (error 1e-7)."""
    if has_exact_spectrum(weight):
        values = weight.get(singular_values)
        return float(values[0]) if values.numel() else 0.0
    return _lanczos_spectral_norm(weight, steps=40)


def _lanczos_spectral_norm(weight: Weight, *, steps: int) -> float:
    matrix = weight.matrix if weight.matrix.shape[0] >= weight.matrix.shape[1] else weight.matrix.T
    side = matrix.shape[1]
    start = torch.randn(side, generator=weight.generator(), dtype=torch.float64).to(matrix.device)
    basis = [start / start.norm()]
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    for _ in range(min(steps, side)):
        image = _gram_times(matrix, basis[-1])
        diagonal.append(float(basis[-1] @ image))
        known = torch.stack(basis)
        for _ in range(2):  # twice is enough (Parlett 1980)
            image = image - known.T @ (known @ image)
        length = float(image.norm())
        if length <= 1e-14 * max(diagonal):
            break
        off_diagonal.append(length)
        basis.append(image / length)
    off = torch.tensor(off_diagonal[: len(diagonal) - 1], dtype=torch.float64)
    tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)
    return math.sqrt(max(float(torch.linalg.eigvalsh(tridiagonal)[-1]), 0.0))


def _gram_times(matrix: Float[Tensor, "out in"], vector: Float[Tensor, " in"]) -> Float[Tensor, " in"]:
    total = torch.zeros_like(vector)
    step = max(1, _BLOCK_ENTRIES // matrix.shape[1])
    for start in range(0, matrix.shape[0], step):
        block = matrix[start : start + step].to(torch.float64)
        total += block.T @ (block @ vector)
    return total


def noise_floor(weight: Weight) -> float:
    """The largest singular value that rounding to the effective dtype could have made: nothing below it is signal.

    0.21·eps·(max‖wᵢ‖ + max‖wʲ‖), and for integer formats the same norms of the matrix step/√12. The row and column
    form is needed: with log-normal row scales or outlier columns the first noise value stands at up to 3.9 times the
    homogeneous 0.21·eps·rms·(√M+√N), and at 0.23 to 0.81 times this one.
    """
    if weight.matrix.numel() == 0:
        return 0.0
    if weight.quantisation_step is not None:
        step = weight.quantisation_step.to(torch.float64).expand(weight.matrix.shape) / math.sqrt(12.0)
        bound = float(step.square().sum(1).max().sqrt() + step.square().sum(0).max().sqrt())
    else:
        largest = float(weight.get(row_norms).max() + weight.get(column_norms).max())
        bound = _ROUNDING_RMS * rounding_step(weight) * largest
    return max(bound, 2.2e-16 * max(weight.matrix.shape) * weight.get(spectral_norm))


def entropy_rank(energies: Float[Tensor, " rank"]) -> float:
    """The exponential of the entropy of energies/Σ (0·ln 0 = 0); 0 when all are zero. Roy & Vetterli 2007."""
    total = float(energies.sum())
    if total <= 0.0:
        return 0.0
    shares = energies[energies > 0] / total
    return math.exp(-float((shares * shares.log()).sum()))


def participation_ratio(energies: Float[Tensor, " rank"]) -> float:
    """(Σλ)²/Σλ²; 0 when all are zero."""
    top = float(energies.max()) if energies.numel() else 0.0
    if top <= 0.0:
        return 0.0
    scaled = energies / top
    return float(scaled.sum()) ** 2 / float(scaled.square().sum())


def energy_rank(energies: Float[Tensor, " rank"], share: float) -> int:
    """Smallest r whose leading energies (descending) hold `share` of the sum; 0 when all are zero."""
    total = float(energies.sum())
    if total <= 0.0:
        return 0
    # the slack is for equal energies, where the sum of the last one is rounding
    return int((energies.cumsum(0) < (share - 1e-12) * total).sum()) + 1


def is_above_rounding(weight: Weight) -> bool:
    """Whether the noise floor is low enough to count a rank against it.

    The floor bounds rounding from above. Formats with few bits and one coarse row put it above most of the spectrum of
    a healthy matrix (int4, one scale per row: 1 of 384 singular values left of a trained layer), and then it says
    nothing. A quarter of the Gaussian edge rms·(√M+√N) separates: planted low ranks in int4 stand at 0.2 of it.
    """
    rows, columns = weight.matrix.shape
    edge = weight.get(root_mean_square) * (math.sqrt(rows) + math.sqrt(columns))
    return weight.get(noise_floor) <= 0.25 * edge


def numerical_rank(weight: Weight) -> int:
    """Number of singular values above the noise floor: what is left of the rank if rounding is taken away."""
    return int((weight.get(refined_singular_values) > weight.get(noise_floor)).sum())


def squared_gram_norm(weight: Weight) -> float:
    """‖W·Wᵀ‖_F² = Σσ⁴ block by block, so that no Gram matrix is stored: for sides beyond `MAX_EXACT_SIDE`."""
    matrix = weight.matrix if weight.matrix.shape[0] <= weight.matrix.shape[1] else weight.matrix.T
    step = max(1, _BLOCK_ENTRIES // max(matrix.shape[1], 1))
    starts, total = range(0, matrix.shape[0], step), 0.0
    for start in starts:
        block = matrix[start : start + step].to(torch.float64)
        total += float((block @ block.T).square().sum())
        for other in starts:
            if other > start:
                total += 2 * float((block @ matrix[other : other + step].to(torch.float64).T).square().sum())
    return total


def spectrum_curve(values: Float[Tensor, " rank"], null_edge: float) -> dict[str, list[float]]:
    """The singular values at up to 128 ranks, equally spaced in the logarithm, beside the edge that noise reaches."""
    count = values.numel()
    ranks = sorted({round(count ** (step / 127)) for step in range(128)}) if count else []
    return {
        "rank": [float(rank) for rank in ranks],
        "value": [float(f"{float(values[rank - 1]):.4g}") for rank in ranks],
        "null_edge": [float(f"{null_edge:.4g}")] * len(ranks),
    }
