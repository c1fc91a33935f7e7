"""What the codes of a quantiser look like as a cloud of points."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.spectrum import row_norms
from collapse_cli.kernels.views import Weight

__all__ = ["boxed_codes", "code_energies", "code_rank_null"]

_BLOCK_ENTRIES = 1 << 22
#: Share of Σ‖e‖² that rounding of the mean leaves in equal codes, squared: 1e-32 in float64, with room.
_CONSTANT = 1e-28


def code_energies(weight: Weight) -> Float[Tensor, " rank"]:
    """Eigenvalues of the scatter about the mean code, float64 on the CPU; zeros if all codes are equal.

    Raises:
        NotConverged: LAPACK gave up.
    """
    codes = weight.matrix
    size = min(codes.shape)
    mean = codes.mean(0, dtype=torch.float64)
    if codes.shape[0] <= codes.shape[1]:
        centred = codes.double() - mean
        scatter = centred @ centred.T
    else:
        scatter = torch.zeros(size, size, dtype=torch.float64, device=codes.device)
        for block in torch.split(codes, max(1, _BLOCK_ENTRIES // size)):
            centred = block.double() - mean
            scatter.addmm_(centred.T, centred)
    if float(scatter.trace()) <= _CONSTANT * float(weight.get(row_norms).square().sum()):
        return torch.zeros(size, dtype=torch.float64)
    try:
        energies: Tensor = torch.linalg.eigvalsh(scatter)
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", where=weight.site.name, got=str(error)) from error
    return energies.clamp_min(0.0).cpu()


def code_rank_null(codes: int, dimension: int) -> float:
    """Entropy rank of Gaussian codes about their mean: D·exp(−D/2K), sides exchanged for K ≤ D. Page 1993."""
    smaller, larger = (dimension, codes) if dimension < codes else (codes - 1, dimension)
    return smaller * math.exp(-smaller / (2 * larger))


def boxed_codes(weight: Weight) -> tuple[int, float]:
    """How many codes have no coordinate beyond 1/K, and √3·K times their root mean square: 1 if they fill the box."""
    codes = weight.matrix
    is_inside = codes.abs().amax(1).double() <= 1.0 / codes.shape[0]
    count = int(is_inside.sum())
    if count == 0:
        return 0, 0.0
    energy = float(codes[is_inside].square().sum(dtype=torch.float64)) / (count * codes.shape[1])
    return count, math.sqrt(3.0 * energy) * codes.shape[0]
