"""Canonical correlations between two roles from their moments, and what chance gives."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.cross_moments import CrossMoments
from collapse_cli.kernels.feature_moments import Moments

__all__ = ["CanonicalCorrelations", "canonical_correlations"]

#: Directions with less than this share of the largest variance are rounding of float32 rows: (2⁻²³·10)².
_RANK_CUT = 1e-12


@final
@dataclass(frozen=True, slots=True)
class CanonicalCorrelations:
    """ρ, descending, one for each of the min(rank) directions, and what unrelated rows of these ranks would give."""

    values: Float[Tensor, " rank"]
    left_rank: int
    right_rank: int
    count: int

    @property
    def mean_square(self) -> float:
        """Mean ρ², 1 where one side is a linear function of the other."""
        return float(self.values.square().mean())

    @property
    def mean_square_null(self) -> float:
        """E mean ρ² of unrelated rows, the larger rank over N − 1."""
        return min(1.0, max(self.left_rank, self.right_rank) / (self.count - 1))

    @property
    def largest_null(self) -> float:
        """√(a(1−b)) + √(b(1−a)), a and b the ranks over N: the edge of ρ of unrelated rows (Wachter 1980)."""
        a, b = self.left_rank / self.count, self.right_rank / self.count
        return 1.0 if a + b >= 1.0 else math.sqrt(a * (1.0 - b)) + math.sqrt(b * (1.0 - a))

    @property
    def shared_rank(self) -> int:
        """How many ρ lie above that edge."""
        return int((self.values > self.largest_null).sum())


def canonical_correlations(left: Moments, right: Moments, pairs: CrossMoments) -> CanonicalCorrelations | None:
    """Singular values of W_xᵀ(Σ(x−x̄)(y−ȳ)ᵀ)W_y, each side whitened on its own directions; None if one is constant.

    References: Hotelling, Relations between two sets of variates (1936).

    Raises:
        NotConverged: LAPACK gave up.
    """
    try:
        whitened = [_whitening(side.centred_scatter) for side in (left, right)]
        if whitened[0].shape[1] == 0 or whitened[1].shape[1] == 0:
            return None
        values: Tensor = torch.linalg.svdvals(whitened[0].T @ pairs.centred_cross @ whitened[1])
    except LinAlgError as error:
        raise NotConverged("the moments of two modalities have no spectrum", got=str(error)) from error
    # a correlation above 1 is rounding
    return CanonicalCorrelations(values.clamp_max(1.0), whitened[0].shape[1], whitened[1].shape[1], pairs.count)


def _whitening(scatter: Float[Tensor, "features features"]) -> Float[Tensor, "features rank"]:
    energies, directions = torch.linalg.eigh(scatter)
    kept = energies > _RANK_CUT * energies[-1:].clamp_min(torch.finfo(torch.float64).tiny)
    result: Tensor = directions[:, kept] * energies[kept].rsqrt()
    return result
