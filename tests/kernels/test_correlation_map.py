"""The correlation map against its closed forms, a sampled layer and adaptive quadrature."""

import math

import numpy as np
import pytest
from scipy.integrate import dblquad

from collapse_cli.kernels.correlation_map import correlation_map, correlations


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("relu", (0.48274, 0.77434, 0.95169, 0.99648)),
        ("tanh", (0.2807, 0.2137, 0.0739, 0.0002)),
        ("sigmoid", (0.8959, 0.9999, 1.0, 1.0)),
        ("square", (0.09, 0.0, 0.0, 0.0)),
    ],
)
def test_recursion_from_three_tenths(activation: str, expected: tuple[float, ...]) -> None:
    found = correlations(activation, 0.3, [4, 5, 9, 24, 104])
    assert found[0] == 0.3
    assert found[1:] == pytest.approx(expected, abs=1e-4)


def test_relu_is_the_first_arc_cosine_kernel_of_a_wide_layer() -> None:
    generator = np.random.default_rng(0)
    left, noise = generator.standard_normal((2, 400_000))
    right = 0.5 * left + math.sqrt(0.75) * noise
    sampled = 2.0 * np.mean(np.maximum(left, 0.0) * np.maximum(right, 0.0))
    assert correlation_map("relu", 0.5) == pytest.approx(sampled, abs=0.005)


def test_smooth_activations_agree_with_adaptive_quadrature() -> None:
    def density(x: float, y: float, c: float) -> float:
        return math.exp(-(x * x - 2 * c * x * y + y * y) / (2 * (1 - c * c))) / (2 * math.pi * math.sqrt(1 - c * c))

    def gelu(x: float) -> float:
        return x * 0.5 * math.erfc(-x / math.sqrt(2))

    joint = dblquad(lambda y, x: gelu(x) * gelu(y) * density(x, y, 0.4), -7, 7, -7, 7, epsabs=1e-7)[0]
    own = dblquad(lambda y, x: gelu(x) ** 2 * density(x, y, 0.0), -7, 7, -7, 7, epsabs=1e-7)[0]
    assert correlation_map("gelu", 0.4) == pytest.approx(joint / own, abs=1e-5)


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid", "gelu", "silu", "square"])
def test_equal_inputs_stay_equal(activation: str) -> None:
    assert correlation_map(activation, 1.0) == pytest.approx(1.0, abs=1e-9)
