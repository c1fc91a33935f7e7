"""The optimum of a linear classifier under class imbalance: orthogonal class vectors with lengths by class size.

M bias-free linear layers with weight decay λ_W and features with λ_H on N rows, n_k of class k, with the squared error
(Dang et al. 2023): per class one singular value s of every layer, s^{2M} = Nλ_H x^M.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from collapse_cli.kernels.class_pairs import MERGE_ROWS
from collapse_cli.kernels.neural_collapse import classes, head_of_classes, within_dimension
from collapse_cli.kernels.views import Activations

__all__ = ["Decay", "decay_of", "frame_distance", "log_slope", "optimal_energies", "training_sizes", "vanished"]

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
#: More trailing linear layers than any published experiment has.
_MOST_LAYERS = 16
#: Share of the longest class vector at which another decides nothing any more.
_VANISHED = 1e-3


@final
@dataclass(frozen=True, slots=True)
class Decay:
    """Weight decay of the linear layers and of the features, and how many layers there are."""

    weights: float
    features: float
    layers: int = 1


def decay_of(metadata: Mapping[str, str]) -> Decay | None:
    """λ_W, λ_H and M from the text `weight_decay` ("5e-4, 1e-5" or "5e-4, 1e-5, 3"); None if it does not give both."""
    numbers = [float(word) for word in _NUMBER.findall(metadata.get("weight_decay", ""))]
    if len(numbers) not in (2, 3) or not all(0.0 < number < math.inf for number in numbers):
        return None
    layers = numbers[2] if len(numbers) == 3 else 1.0
    if layers != int(layers) or layers > _MOST_LAYERS:
        return None
    return Decay(numbers[0], numbers[1], int(layers))


def training_sizes(point: Activations) -> tuple[Float[Tensor, " classes"], float] | None:
    """Training rows of each class and of all, from `class_counts`, else from the dump; None if these are unfit."""
    found = point.get(classes)
    counts = point.arrays.get("class_counts")
    if counts is None:
        return found.counts.double(), float(found.rows)
    every = counts.cpu().double().reshape(-1)
    if every.numel() != point.shapes["head_weight"][0] or not bool((every.isfinite() & (every >= 0.0)).all()):
        return None
    sizes: Tensor = every[found.labels]
    return (sizes, float(every.sum())) if float(sizes.min()) > 0.0 else None


def vanished(point: Activations) -> Bool[Tensor, " classes"]:
    """Classes whose class vector is at most a thousandth of the longest, or whose mean is 0 within 3 standard errors.

    A mean of n rows is called zero where (‖m‖² − t)/(t√(2/PR_W)) < 3, t = V/(n − 1), from 20 rows on, or at rounding.
    """
    found, head = point.get(classes), point.get(head_of_classes)
    squares, expected = found.means.square().sum(1), found.variances / (found.counts - 1)
    dimension = point.get(within_dimension)
    slack = 3.0 * math.sqrt(2.0 / dimension) if dimension > 0.0 else 0.0
    is_zero: Tensor = (found.counts >= MERGE_ROWS) & (squares - expected < slack * expected)
    is_zero |= squares <= found.rounding**2
    if head is not None:
        lengths = head.norm(dim=1)
        is_zero |= lengths <= _VANISHED * float(lengths.max())
    return is_zero


def optimal_energies(
    sizes: Float[Tensor, " classes"], total: float, decay: Decay
) -> tuple[Float[Tensor, " classes"], Float[Tensor, " classes"]]:
    """s_k^{2M} and p_k = w_kᵀm_k of every class at the optimum; both 0 for a class that vanishes.

    x_k is the largest root of b/n_k = Mx^{M−1}/(x^M + 1)², b = MN(Nλ_W^Mλ_H)^{1/M}, where there is one and its energy
    is below that of zero: for M ≥ 2 a root alone does not make a class live (Dang et al. 2023).
    """
    pairs = [_optimum(size, total, decay) for size in sizes.double().tolist()]
    energies, products = zip(*pairs, strict=True) if pairs else ((), ())
    return torch.tensor(energies, dtype=torch.float64), torch.tensor(products, dtype=torch.float64)


def _optimum(size: float, total: float, decay: Decay) -> tuple[float, float]:
    layers = decay.layers
    wanted = layers * total * (total * decay.weights**layers * decay.features) ** (1.0 / layers) / size

    def slope(x: float) -> float:
        power = x**layers
        return float(layers * x ** (layers - 1) / (power + 1.0) ** 2)

    low = float(((layers - 1.0) / (layers + 1.0)) ** (1.0 / layers))
    if slope(low) <= wanted:
        return 0.0, 0.0
    high = 2.0 * low + 1.0
    while slope(high) > wanted:
        high *= 2.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if slope(middle) > wanted else (low, middle)
    power = low**layers
    product, energy = power / (power + 1.0), total * decay.features * power
    square = (total * decay.features) ** (1.0 / layers) * low
    cost = size / (2.0 * total) * (product - 1.0) ** 2 + 0.5 * layers * decay.weights * square
    cost += 0.5 * decay.features * size * product**2 / energy
    return (energy, product) if cost < size / (2.0 * total) else (0.0, 0.0)


def frame_distance(head: Float[Tensor, "classes features"], energies: Float[Tensor, " classes"]) -> float | None:
    """‖WWᵀ/‖WWᵀ‖_F − diag(e)/‖e‖‖_F by traces, 0 to 2; None if one of them is zero."""
    size, ideal = float((head.T @ head).norm()), float(energies.norm())
    if size == 0.0 or ideal == 0.0:
        return None
    shared = float((energies * head.square().sum(1)).sum()) / (size * ideal)
    return math.sqrt(max(2.0 - 2.0 * shared, 0.0))


def log_slope(values: Float[Tensor, " classes"], sizes: Float[Tensor, " classes"]) -> float | None:
    """Least-squares slope of ln value on ln size; None for fewer than two sizes. Both are positive."""
    x, y = sizes.double().log(), values.double().log()
    centred = x - x.mean() if x.numel() else x
    spread = float(centred.square().sum())
    return float((centred * y).sum()) / spread if spread > 0.0 else None
