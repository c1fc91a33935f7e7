"""Largest singular value of a matrix, or of the difference of two, from products with vectors alone."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.comparisons import Comparison

__all__ = ["change_norm", "norm_before"]

#: Steps at most; the edge of a Gaussian spectrum is met to 1e-3 after twenty, anything that stands out after five.
_STEPS = 40
#: Relative growth of σ₁² in one step from which on it has settled.
_SETTLED = 1e-7
#: float64 entries of one block: 16 MiB, and as much again for the second matrix.
_BLOCK_ENTRIES = 1 << 21


def norm_before(view: Comparison) -> float:
    """‖W₀‖₂."""
    return _norm(view.before.matrix, None, view.generator())


def change_norm(view: Comparison) -> float:
    """‖W − W₀‖₂; the difference is formed in blocks."""
    return _norm(view.after.matrix, view.before.matrix, view.generator())


def _norm(matrix: Tensor, other: Tensor | None, generator: torch.Generator) -> float:
    """√ of the largest Ritz value of the Gram operator, from below, with full re-orthogonalisation (Parlett 1980)."""
    if matrix.shape[0] < matrix.shape[1]:
        matrix, other = matrix.T, None if other is None else other.T
    side = matrix.shape[1]
    if side == 0:
        return 0.0
    start = torch.randn(side, generator=generator, dtype=torch.float64).to(matrix.device)
    basis, diagonal, beside = [start / start.norm()], list[float](), list[float]()
    largest = 0.0
    for _ in range(min(_STEPS, side)):
        image = _gram_times(matrix, other, basis[-1])
        diagonal.append(float(basis[-1] @ image))
        before, largest = largest, _ritz(diagonal, beside)
        if largest <= before * (1.0 + _SETTLED):
            break
        known = torch.stack(basis)
        for _ in range(2):
            image = image - known.T @ (known @ image)
        length = float(image.norm())
        if length <= 1e-14 * largest:
            break
        beside.append(length)
        basis.append(image / length)
    return math.sqrt(max(largest, 0.0))


def _ritz(diagonal: list[float], beside: list[float]) -> float:
    off = torch.diag(torch.tensor(beside[: len(diagonal) - 1], dtype=torch.float64), 1)
    tridiagonal = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + off + off.T
    return float(torch.linalg.eigvalsh(tridiagonal)[-1])


def _gram_times(matrix: Tensor, other: Tensor | None, vector: Float[Tensor, " side"]) -> Float[Tensor, " side"]:
    total = torch.zeros_like(vector)
    step = max(1, _BLOCK_ENTRIES // matrix.shape[1])
    for start in range(0, matrix.shape[0], step):
        block = matrix[start : start + step].to(torch.float64)
        if other is not None:
            block = block - other[start : start + step].to(torch.float64)
        total += block.T @ (block @ vector)
    return total
