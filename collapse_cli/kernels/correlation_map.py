"""What one wide random layer does to the cosine of two inputs, and what many of them do: the correlation map."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["ACTIVATIONS", "correlation_map", "correlations"]

Vector = npt.NDArray[np.float64]

#: Nodes of the quadrature in each of two dimensions: enough for smooth activations, not for the kink of a ReLU.
_NODES = 120


def _gelu(x: Vector) -> Vector:
    result: Vector = x * 0.5 * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))
    return result


def _sigmoid(x: Vector) -> Vector:
    result: Vector = 0.5 * (1.0 + np.tanh(0.5 * x))
    return result


def _tanh(x: Vector) -> Vector:
    result: Vector = np.tanh(x)
    return result


_SMOOTH: Final[Mapping[str, Callable[[Vector], Vector]]] = MappingProxyType(
    {
        "tanh": _tanh,
        "sigmoid": _sigmoid,
        "gelu": _gelu,
        "silu": lambda x: x * _sigmoid(x),
        "swish": lambda x: x * _sigmoid(x),
        "square": lambda x: x * x - 1.0,
    }
)
#: Activations whose map is known, by the name that a dump gives them; `square` is z² − 1.
ACTIVATIONS: Final = frozenset({"relu", *_SMOOTH})


@cache
def _nodes() -> tuple[Vector, Vector]:
    points, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    return points, weights / weights.sum()


def correlation_map(activation: str, cosine: float) -> float:
    """E φ(u)φ(v)/E φ(u)² for standard normal u, v of that correlation: the cosine behind one wide random layer.

    ReLU in closed form, (√(1−c²) + c(π − arccos c))/π (Cho & Saul 2009); others by Gauss-Hermite quadrature. The
    variance is taken as 1 before every layer (Poole et al. 2016).
    """
    cosine = min(max(cosine, -1.0), 1.0)
    if activation == "relu":
        return (math.sqrt(1.0 - cosine * cosine) + cosine * (math.pi - math.acos(cosine))) / math.pi
    points, weights = _nodes()
    passed = _SMOOTH[activation](points)
    other = _SMOOTH[activation](cosine * points[:, None] + math.sqrt(1.0 - cosine * cosine) * points)
    return min(float((weights * passed) @ other @ weights) / float(weights @ passed**2), 1.0)


def correlations(activation: str, cosine: float, layers: Sequence[int]) -> list[float]:
    """The cosine at each of the layers, ascending, when that of the first is given and every layer is one map."""
    found = [cosine]
    for before, layer in itertools.pairwise(layers):
        cosine = found[-1]
        for _ in range(layer - before):
            cosine = correlation_map(activation, cosine)
        found.append(cosine)
    return found
