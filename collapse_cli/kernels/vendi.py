"""How many different things a set of rows amounts to: the Vendi score, and the entropy of nearest distances."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.hypersphere import unit_rows

__all__ = ["GRAM_SIDE", "nearest_entropy", "vendi_null", "vendi_scores"]

#: Side of the largest Gram matrix whose eigenvalues are taken: 128 MiB, half a minute on one core.
GRAM_SIDE = 4096
_ROWS = 4096


def vendi_scores(rows: Float[Tensor, "rows features"]) -> tuple[float, float] | None:
    """Exponential of the Shannon entropy, and of the Rényi entropy of order 2, of the eigenvalues of ZᵀZ/M.

    Z holds the unit rows. Zero rows have no direction and are left out; None if all are zero. The smaller of ZᵀZ and
    ZZᵀ is formed. What lies below M·2⁻⁵² of the largest eigenvalue is rounding. References: Friedman & Dieng, The Vendi
    Score (2023).
    """
    is_zero = torch.cat([part.eq(0).all(1) for part in torch.split(rows, _ROWS)]) if rows.shape[0] else None
    if is_zero is None or bool(is_zero.all()):
        return None
    chosen = rows[~is_zero]
    if chosen.shape[1] < chosen.shape[0]:
        gram = torch.zeros(chosen.shape[1], chosen.shape[1], dtype=torch.float64, device=rows.device)
        for part in torch.split(chosen, _ROWS):
            units = unit_rows(part)
            gram.addmm_(units.T, units)
    else:
        units = unit_rows(chosen)
        gram = units @ units.T
    values = torch.linalg.eigvalsh(gram) / chosen.shape[0]
    values = values[values > chosen.shape[0] * torch.finfo(torch.float64).eps * values.max()]
    values = values / values.sum()
    entropy = -float((values * values.log()).sum())
    return max(1.0, math.exp(entropy)), max(1.0, 1.0 / float(values.square().sum()))


def vendi_null(count: int, width: int) -> float:
    """The score of uniform directions: m·exp(−m/(2n)), m the smaller and n the larger of M and D (Page 1993)."""
    small, large = sorted((count, width))
    return small * math.exp(-small / (2.0 * large))


def nearest_entropy(distances: Float[Tensor, " rows"], width: int) -> float | None:
    """Kozachenko–Leonenko differential entropy in nats from distances to the nearest other row; None with a copy.

    ψ(M) − ψ(1) + log V_D + D·mean log r, V_D the volume of the unit ball. Reference: Kozachenko & Leonenko (1987).
    """
    from scipy.special import digamma

    if distances.numel() < 2 or float(distances.min()) == 0.0:
        return None
    volume = width / 2.0 * math.log(math.pi) - math.lgamma(width / 2.0 + 1.0)
    count = float(digamma(distances.numel()) - digamma(1.0))
    return count + volume + width * float(distances.log().mean())
