"""Precision, recall, density and coverage of samples beside real rows, by balls that reach to the k-th neighbour."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.set_distances import ball_hits, nearest

__all__ = ["NEIGHBOURS", "Coverage", "coverage", "coverage_null", "halves"]

#: k of Naeem et al. 2020, section 4; Kynkäänniemi et al. 2019 take 3.
NEIGHBOURS = 5


@final
@dataclass(frozen=True, slots=True)
class Coverage:
    """The four shares, and the median radius of the balls about the samples and about the reference."""

    precision: float
    recall: float
    density: float
    coverage: float
    sample_radius: float
    reference_radius: float


def coverage(samples: Float[Tensor, "samples features"], reference: Float[Tensor, "reference features"]) -> Coverage:
    """How samples and reference lie in one another's balls; more than k rows of each.

    The radius is the distance to the k-th other row of the same set, and a row on the sphere is outside. References:
    Kynkäänniemi et al., Improved precision and recall (2019); Naeem et al., Reliable fidelity and diversity (2020).
    """
    real = nearest(reference, count=NEIGHBOURS).distances[:, -1]
    made = nearest(samples, count=NEIGHBOURS).distances[:, -1]
    in_real = ball_hits(samples, reference, real)
    in_made = ball_hits(reference, samples, made)
    return Coverage(
        precision=_share(in_real.balls > 0),
        recall=_share(in_made.balls > 0),
        density=float(in_real.balls.double().mean()) / NEIGHBOURS,
        coverage=_share(in_real.is_held),
        sample_radius=float(made.median()),
        reference_radius=float(real.median()),
    )


def _share(mask: Tensor) -> float:
    return float(mask.double().mean())


def coverage_null(reference: int, samples: int) -> float:
    """Coverage of samples of the same distribution: 1 − Π_{j<k}(N−1−j)/(N+M−1−j) (Naeem et al. 2020, lemma 2)."""
    missed = 1.0
    for place in range(NEIGHBOURS):
        missed *= max(reference - 1 - place, 0) / max(reference + samples - 1 - place, 1)
    return 1.0 - missed


def halves(rows: Float[Tensor, "rows features"]) -> tuple[Tensor, Tensor]:
    """Two disjoint halves of the rows, drawn by a fixed seed."""
    order = torch.randperm(rows.shape[0], generator=torch.Generator().manual_seed(0)).to(rows.device)
    half = rows.shape[0] // 2
    return rows[order[:half]], rows[order[half : 2 * half]]
