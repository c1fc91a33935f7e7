"""The tail of a spectrum as a power law: WeightWatcher's fit, to the digit, and Hill's estimator beside it.

Method: Clauset, Shalizi & Newman 2007, every eigenvalue but the last as a candidate cut and the least
Kolmogorov-Smirnov distance wins. What is particular to WeightWatcher 0.7.7 (the absolute cut at 1e-5, the other
objective below 20 eigenvalues, the slices of a convolution) is kept, so that its users find their numbers again.
"""

import math
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.spectrum import gram_of
from collapse_cli.kernels.views import Weight

__all__ = [
    "MIN_EIGENVALUES",
    "PowerLawFit",
    "hill_alpha",
    "log_alpha_norm",
    "power_law_fit",
    "sliced_singular_values",
    "tail_eigenvalues",
]

#: Eigenvalues that a fit needs at least; the shortest tail of the small-sample branch.
MIN_EIGENVALUES = 8
#: WeightWatcher 0.7.7 drops eigenvalues up to this absolute value.
_EIGENVALUE_CUT = 1e-5
#: Below this many eigenvalues WeightWatcher 0.7.7 uses the small-sample branch.
_SMALL_SAMPLE = 20
#: WeightWatcher's reward of long tails in that branch: the mean distance of n uniform draws is 0.868/√n.
_TAIL_REWARD = 0.868
#: float64 entries of one block of distances: 8 MiB, stays in the cache.
_BLOCK_ENTRIES = 1 << 20


@final
@dataclass(frozen=True, slots=True)
class PowerLawFit:
    """Density ∝ x^{−alpha} above `xmin`, fitted to `tail_count` eigenvalues."""

    alpha: float
    ks_distance: float
    xmin: float
    tail_count: int

    @property
    def alpha_sigma(self) -> float:
        """Standard error of alpha, (α−1)/√n."""
        return (self.alpha - 1) / math.sqrt(self.tail_count)


def tail_eigenvalues(values: Float[Tensor, " rank"]) -> Float[Tensor, " kept"]:
    """σ² above 1e-5, ascending: what WeightWatcher fits."""
    eigenvalues = values.square()
    return eigenvalues[eigenvalues > _EIGENVALUE_CUT].sort().values


def power_law_fit(eigenvalues: Float[Tensor, " kept"]) -> PowerLawFit | None:
    """The fit of ascending positive eigenvalues; `None` when no tail has any spread (α → ∞). Blocks of m²/2 entries."""
    count = eigenvalues.numel()
    if count < 2:
        return None
    logs = eigenvalues.log()
    sizes = torch.arange(count, 1, -1, dtype=torch.float64)
    spreads = logs.flip(0).cumsum(0).flip(0)[:-1] - sizes * logs[:-1]
    is_small = count < _SMALL_SAMPLE
    is_candidate = spreads > 1e-12
    if is_small:
        is_candidate &= sizes >= MIN_EIGENVALUES
    exponents = torch.where(is_candidate, (sizes - float(is_small)) / spreads, 0.0)
    distances = _distances(logs, exponents)
    objective = distances - _TAIL_REWARD / sizes.sqrt() if is_small else distances
    objective = torch.where(is_candidate & (exponents > 0), objective, math.inf)
    # numpy's argmin is documented to return the first minimum, torch's is not
    best = int(np.argmin(objective.numpy()))
    if not math.isfinite(float(objective[best])):
        return None
    return PowerLawFit(1 + float(exponents[best]), float(distances[best]), float(eigenvalues[best]), count - best)


def _distances(logs: Float[Tensor, " kept"], exponents: Float[Tensor, " cuts"]) -> Float[Tensor, " cuts"]:
    """D_i = max_{j≥i} |1 − (x_j/x_i)^{1−α_i} − (j−i)/n_i| for every cut i."""
    count, parts, start = logs.numel(), [], 0
    ranks = torch.arange(count, dtype=torch.float64) - count
    while start < count - 1:
        stop = min(count - 1, start + max(1, _BLOCK_ENTRIES // (count - start)))
        block = (logs[None, start:] - logs[start:stop, None]).mul_(-exponents[start:stop, None]).exp_()
        # (j−i)/n_i − 1 = (j−N)/n_i, since n_i = N − i
        block.addr_(-1.0 / ranks[start:stop], ranks[start:])
        # columns j < i lie in the first square only
        block[:, : stop - start].triu_()
        lowest, highest = block.aminmax(dim=1)
        parts.append(torch.maximum(highest, -lowest))
        start = stop
    return torch.cat(parts)


def log_alpha_norm(values: Float[Tensor, " rank"], alpha: float) -> float:
    """log10 Σ λ^α over all eigenvalues λ = σ², by logsumexp."""
    logs = values[values > 0].log() * (2 * alpha)
    return float(logs.logsumexp(0)) / math.log(10.0)


def hill_alpha(values: Float[Tensor, " rank"]) -> float | None:
    """1 + k/Σ_{i≤k} ln(λ_i/λ_{k+1}), k = ⌊m/2⌋ (Hill 1975), from descending σ; `None` if no spread or λ_{k+1} = 0."""
    half = values.numel() // 2
    if half < 1 or float(values[half]) <= 0.0:
        return None
    spread = 2 * float((values[:half] / values[half]).log().sum())
    return 1 + half / spread if spread > 1e-12 * half else None


def sliced_singular_values(weight: Weight) -> Float[Tensor, " rank"]:
    """Singular values of the kh·kw slices of a convolution, λ halved, pooled and sorted, descending.

    Raises:
        NotConverged: LAPACK gave up.
    """
    slices = weight.tensor.flatten(2).movedim(2, 0)
    try:
        eigenvalues: Tensor = torch.linalg.eigvalsh(torch.stack([gram_of(piece) for piece in slices]))
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", where=weight.site.name, got=str(error)) from error
    return (eigenvalues.clamp_min(0.0) / 2).sqrt().reshape(-1).sort(descending=True).values.cpu()
