"""Class vectors as a frame: how they stand to one another, which known design that is, and what chance would give.

K class vectors of d features are the rows of a head. Designs: the simplex (equiangular tight frame, every cosine
−1/(K−1)), the d-simplex (some of the d + 1 vertices, every cosine −1/d), orthonormal rows, and frames that reach the
Welch bound. Papyan, Han & Donoho 2020; Welch 1974.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from collapse_cli.core.site import Role
from collapse_cli.kernels.neighbours import cosine_extremes
from collapse_cli.kernels.precision import rounding_step
from collapse_cli.kernels.spectrum import gram, row_norms
from collapse_cli.kernels.views import Block, Weight

__all__ = [
    "MAX_EXTREME_ROWS",
    "MAX_PAIRED_ROWS",
    "FrameAngles",
    "centred_gram",
    "class_vectors",
    "direction_sum",
    "etf_error",
    "etf_error_null",
    "frame_angles",
    "length_fit",
    "mean_cosine",
    "mean_row",
    "recognised_design",
    "welch_bound",
    "without_padding",
]

#: Rows up to which all cosines are held at once (32 MiB in float64); beyond, a seeded sample of that size is compared.
MAX_PAIRED_ROWS = 2048
#: Rows up to which the extreme cosines are searched among all pairs: 8192²·1024 multiplications take a second.
MAX_EXTREME_ROWS = 8192
#: float64 entries of one working block: 2 MiB, which stays in the cache.
_BLOCK_ENTRIES = 1 << 18
#: How far a cosine may stand from a design and still be called one, before rounding is added.
_DESIGN_TOLERANCE = 1e-3


@final
@dataclass(frozen=True, slots=True)
class FrameAngles:
    """Cosines between different rows: extremes (`None` beyond 8,192 rows), mean ∣cos + 1/(K−1)∣ of `compared` rows."""

    smallest: float | None
    largest: float | None
    deviation: float
    compared: int

    @property
    def coherence(self) -> float | None:
        """max∣cos∣."""
        if self.smallest is None or self.largest is None:
            return None
        return max(abs(self.smallest), abs(self.largest))


def class_vectors(block: Block) -> Weight | None:
    """The class vectors of a head: its linear layers multiplied, padded vocabulary rows removed.

    `None` where several layers do not follow one another (the shapes do not chain).
    """
    layers = block.all(Role.HEAD)
    if not layers:
        return None
    head = layers[-1]
    if len(layers) > 1:
        product = head.matrix.double()
        for layer in reversed(layers[:-1]):
            if layer.matrix.shape[0] != product.shape[1]:
                return None
            product = product @ layer.matrix.double()
        head = Weight(head.site, product, seed=head.seed)
    return without_padding(head, block) if block.facts.get("is_language_model") else head


def without_padding(weight: Weight, block: Block) -> Weight:
    """The weight without the rows beyond `vocab_size`, with which a vocabulary was padded."""
    rows = block.facts.get("vocab_size")
    if isinstance(rows, int) and 0 < rows < weight.matrix.shape[0]:
        return Weight(weight.site, weight.matrix[:rows], seed=weight.seed)
    return weight


def direction_sum(weight: Weight, chosen: Bool[Tensor, " rows"] | None = None) -> Float[Tensor, " features"]:
    """Σ wᵢ/‖wᵢ‖ over the chosen rows (default: all) that are not zero, float64 on the CPU."""
    norms = weight.get(row_norms)
    shares = torch.where(norms > 0.0, 1.0 / norms.clamp_min(torch.finfo(torch.float64).tiny), 0.0)
    if chosen is not None:
        shares = shares * chosen
    return _weighted_sum(weight.matrix, shares).cpu()


def mean_row(weight: Weight) -> Float[Tensor, " features"]:
    """The mean of the rows, float64, on the weight's device."""
    count = weight.matrix.shape[0]
    return _weighted_sum(weight.matrix, torch.ones(count, dtype=torch.float64)) / count


def _weighted_sum(matrix: Float[Tensor, "rows features"], shares: Float[Tensor, " rows"]) -> Float[Tensor, " features"]:
    shares = shares.to(matrix.device)
    total = torch.zeros(matrix.shape[1], dtype=torch.float64, device=matrix.device)
    step = max(1, _BLOCK_ENTRIES // max(matrix.shape[1], 1))
    for start in range(0, matrix.shape[0], step):
        total += shares[start : start + step] @ matrix[start : start + step].to(torch.float64)
    return total


def mean_cosine(directions: Float[Tensor, " features"], count: int) -> float:
    """The mean cosine between `count` ≥ 2 different unit rows, from their sum: (‖Σu‖² − K)/(K(K−1))."""
    return (float(directions.square().sum()) - count) / (count * (count - 1))


def centred_gram(weight: Weight) -> Float[Tensor, "rank rank"]:
    """The Gram matrix of the smaller side after the mean row is taken away, from the shared Gram; float64."""
    shared = weight.get(gram)
    rows, columns = weight.matrix.shape
    if rows <= columns:
        return shared - shared.mean(0) - shared.mean(1, keepdim=True) + shared.mean()
    mean = weight.get(mean_row)
    return shared - rows * torch.outer(mean, mean)


def etf_error(weight: Weight) -> float:
    """‖G/‖G‖_F − (I − 11ᵀ/K)/√(K−1)‖_F of the K centred rows: 0 for a simplex and for orthonormal rows, at most √2.

    Equal to √(2 − 2√(PR/(K−1))) with PR the participation ratio of the centred spectrum, which is used beyond
    K = d, where the K × K matrix is not needed; below, the difference itself keeps its digits down to 1e-16.
    """
    count, features = weight.matrix.shape
    centred = weight.get(centred_gram)
    size = float(centred.norm())
    if count < 2 or size <= 1e-13 * float(weight.get(gram).norm()):
        return math.sqrt(2.0)
    if count > features:
        participation = float(centred.diagonal().sum() / size) ** 2
        return _error_of(participation / (count - 1))
    simplex = torch.eye(count, dtype=torch.float64, device=centred.device) - 1.0 / count
    return float((centred / size - simplex / math.sqrt(count - 1)).norm())


def _error_of(share: float) -> float:
    return math.sqrt(max(2.0 - 2.0 * math.sqrt(min(share, 1.0)), 0.0))


def etf_error_null(count: int, features: int) -> tuple[float, float]:
    """`etf_error` of Gaussian rows, √(2−2√(d/(d+K−1))), and the least that K vectors in d dimensions can have."""
    floor = _error_of(features / (count - 1)) if features < count - 1 else 0.0
    return _error_of(features / (features + count - 1)), floor


def welch_bound(count: int, features: int) -> float:
    """The least possible max∣cos∣ of K > d directions, √((K−d)/(d(K−1))); 0 for K ≤ d (Welch 1974)."""
    if count <= features or features == 0:
        return 0.0
    return math.sqrt((count - features) / (features * (count - 1)))


def frame_angles(weight: Weight) -> FrameAngles:
    """The cosines between different non-zero rows, of which there must be two; a seeded sample beyond 2,048."""
    norms = weight.get(row_norms)
    live = (norms > 0.0).nonzero().flatten()
    count = live.numel()
    matrix = weight.matrix
    ideal = 1.0 / (count - 1)
    drawn = live
    if count > MAX_PAIRED_ROWS:
        drawn = live[torch.randperm(count, generator=weight.generator())[:MAX_PAIRED_ROWS]]
    units = matrix[drawn.to(matrix.device)].double() / norms[drawn].to(matrix.device)[:, None]
    cosines = units @ units.T
    others = ~torch.eye(drawn.numel(), dtype=torch.bool, device=cosines.device)
    found = cosines[others].clamp(-1.0, 1.0)
    deviation = float((found + ideal).abs().mean())
    if count <= MAX_PAIRED_ROWS:
        return FrameAngles(float(found.min()), float(found.max()), deviation, count)
    if count > MAX_EXTREME_ROWS:
        return FrameAngles(None, None, deviation, drawn.numel())
    extremes = cosine_extremes(matrix[live.to(matrix.device)], thresholds=())
    return FrameAngles(extremes.minimum, extremes.maximum, deviation, drawn.numel())


def recognised_design(weight: Weight) -> str | None:
    """The known design of the rows: `simplex`, `d-simplex`, `orthonormal`, `welch` (to 1e-3 and rounding), if any."""
    norms = weight.get(row_norms)
    count, features = weight.matrix.shape
    angles = weight.get(frame_angles)
    if angles.smallest is None or angles.largest is None or angles.coherence is None:
        return None
    # rounding moves a cosine by about 0.3·eps/√d; six of these
    tolerance = _DESIGN_TOLERANCE + 2.0 * rounding_step(weight) / math.sqrt(features)
    if float(norms.std(correction=0)) > tolerance * float(norms.mean()):
        return None
    targets = {"simplex": -1.0 / (count - 1), "d-simplex": -1.0 / features, "orthonormal": 0.0}
    distances = {name: max(abs(angles.smallest - at), abs(angles.largest - at)) for name, at in targets.items()}
    nearest = min(distances, key=lambda name: distances[name])
    if distances[nearest] <= tolerance:
        return nearest
    if count > features and angles.coherence <= welch_bound(count, features) + tolerance:
        return "welch"
    return None


def length_fit(norms: Float[Tensor, " classes"], counts: Float[Tensor, " classes"]) -> tuple[float, float, float]:
    """Least squares of ‖w_k‖² = a·√n_k − b: (a, b, R²). The counts must not all be equal.

    The law of one bias-free linear layer under imbalance, a = √(λ_H/λ_W), b = Nλ_H (Dang et al. 2023).
    """
    energy, root = norms.double().square(), counts.double().sqrt()
    centred = root - root.mean()
    slope = float((centred * (energy - energy.mean())).sum() / centred.square().sum())
    offset = slope * float(root.mean()) - float(energy.mean())
    spread = float((energy - energy.mean()).square().sum())
    missed = float((energy - (slope * root - offset)).square().sum())
    return slope, offset, 1.0 - missed / spread if spread > 0.0 else 1.0
