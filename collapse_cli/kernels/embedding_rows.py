"""Rows of an embedding table: which repeat another byte for byte, which were hardly learned, how the rest spread."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.frames import centred_gram, mean_row
from collapse_cli.kernels.spectrum import gram
from collapse_cli.kernels.views import Weight

__all__ = ["UNDERTRAINED_Z", "duplicate_rows", "table_energies", "undertrained_rows"]

#: Robust z of ln‖e‖ below which a row counts as hardly learned; 50,000 Gaussian rows of 256 reach −4.3.
UNDERTRAINED_Z = -6.0
#: Relative difference of norms beyond which two rows cannot be equal: float64 sums of equal terms differ by 1e-15.
_NORM_STEP = 1e-12
_BLOCK_ENTRIES = 1 << 22
#: Words of at most 32 bits: the top bits of 64-bit words (signs) would cancel modulo 2⁶⁴.
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int32}


def duplicate_rows(rows: Float[Tensor, "rows features"], norms: Float[Tensor, " rows"]) -> Bool[Tensor, " rows"]:
    """Which non-zero rows are byte-equal to another one; on the CPU. `norms` are the float64 norms of the rows.

    Only rows whose norms agree to 1e-12 are looked at, through a 64-bit hash; for 10⁶ rows an ideal one gives a false
    pair with a probability of 3e-8.
    """
    result = torch.zeros(rows.shape[0], dtype=torch.bool)
    ordered, order = norms.sort()
    close = (ordered[1:] - ordered[:-1]) <= _NORM_STEP * ordered[1:]
    candidate = torch.zeros_like(result)
    candidate[:-1] |= close
    candidate[1:] |= close
    chosen = order[candidate & (ordered > 0.0)]
    if chosen.numel() == 0:
        return result
    hashes = _row_hashes(rows, chosen)
    _, place, counts = torch.unique(hashes, return_inverse=True, return_counts=True)
    result[chosen] = counts[place] > 1
    return result


def _row_hashes(rows: Float[Tensor, "rows features"], chosen: Tensor) -> Tensor:
    """Σ wordⱼ·cⱼ mod 2⁶⁴ with fixed random odd cⱼ."""
    generator = torch.Generator().manual_seed(0)
    word = _WORDS[rows.element_size()]
    count = rows.shape[1] * rows.element_size() // torch.empty(0, dtype=word).element_size()
    factors = (torch.randint(-(2**62), 2**62, (count,), generator=generator) * 2 + 1).to(rows.device)
    step = max(1, _BLOCK_ENTRIES // max(rows.shape[1], 1))
    parts = []
    for start in range(0, chosen.numel(), step):
        words = rows[chosen[start : start + step].to(rows.device)].contiguous().view(word).long()
        parts.append((words * factors).sum(1).cpu())
    return torch.cat(parts)


def undertrained_rows(norms: Float[Tensor, " rows"], features: int) -> Bool[Tensor, " rows"]:
    """Which non-zero rows are far too short: robust z of ln‖e‖ (median, 1.4826·MAD) below −6; zero rows are not.

    The scale is never taken below 1/√(2d), the spread of ln‖e‖ of Gaussian rows: in a table of normalised rows the MAD
    is rounding, and would make outliers of nothing.
    """
    live = norms > 0.0
    if not bool(live.any()):
        return live
    logs = norms.clamp_min(torch.finfo(torch.float64).tiny).log()
    middle = logs[live].median()
    spread = 1.4826 * float((logs[live] - middle).abs().median())
    scale = max(spread, 1.0 / math.sqrt(2.0 * max(features, 1)))
    return live & ((logs - middle) / scale < UNDERTRAINED_Z)


def table_energies(weight: Weight, left_out: int | None = None) -> Float[Tensor, " rank"]:
    """Eigenvalues λ of the centred rows, ascending, float64 on the CPU; rounding below 1e-13 of Σ‖e‖² is set to 0.

    One row can be left out (a padding row); the shared Gram is then corrected instead of computed again.
    """
    rows, features = weight.matrix.shape
    if left_out is not None and rows <= features:
        keep = torch.arange(rows, device=weight.matrix.device) != left_out
        return table_energies(Weight(weight.site, weight.matrix[keep], seed=weight.seed))
    centred = weight.get(centred_gram)
    if left_out is not None:
        offset = weight.matrix[left_out].double() - weight.get(mean_row)
        centred = centred - rows / (rows - 1) * torch.outer(offset, offset)
    try:
        values: Tensor = torch.linalg.eigvalsh(centred)
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", where=weight.site.name, got=str(error)) from error
    values = values.cpu()
    return values.masked_fill(values < 1e-13 * float(weight.get(gram).diagonal().sum()), 0.0)
