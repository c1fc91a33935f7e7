"""Closed forms, scipy, and draws of the null."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy, norm

from collapse_cli.kernels.mode_histograms import (
    Histograms,
    differing_share,
    divergences,
    expected_cover,
    missing_modes,
    of_reference_modes,
)


def drawn(samples: int = 300, reference: int = 500, modes: int = 12, seed: int = 0) -> Histograms:
    generator = np.random.default_rng(seed)
    shares = generator.dirichlet(np.ones(modes), size=2)
    made, real = generator.multinomial(samples, shares[0]), generator.multinomial(reference, shares[1]) + 1
    return Histograms(torch.from_numpy(made), torch.from_numpy(real), 0)


@pytest.mark.parametrize("seed", range(5))
def test_divergences_are_those_of_scipy(seed: int) -> None:
    found = drawn(seed=seed)
    p, q = found.samples.numpy() / found.samples.sum().item(), found.reference.numpy() / found.reference.sum().item()
    assert divergences(found) == pytest.approx((entropy(p, q), jensenshannon(p, q) ** 2), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_differing_modes_are_those_of_the_z_test(seed: int) -> None:
    """The two-proportion test as gans-n-gmms has it: pooled share, two-sided p-value below .05."""
    found = drawn(seed=seed)
    n, m = found.samples.sum().item(), found.reference.sum().item()
    different = []
    for a, b in zip(found.samples.tolist(), found.reference.tolist(), strict=True):
        pooled = (a + b) / (n + m)
        z = abs(a / n - b / m) / math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
        different.append(2 * norm.sf(z) < 0.05)
    assert differing_share(found) == pytest.approx(np.mean(different))
    assert 0 < np.mean(different) < 1 or seed


def test_equal_proportions_differ_in_five_per_cent() -> None:
    generator = np.random.default_rng(0)
    shares = [
        differing_share(
            Histograms(*(torch.from_numpy(generator.multinomial(n, np.full(25, 0.04))) for n in (2000, 5000)), 0)
        )
        for _ in range(80)
    ]
    assert np.mean(shares) == pytest.approx(0.051, abs=0.015)


def test_divergence_of_equal_proportions_is_its_first_order() -> None:
    generator = np.random.default_rng(1)
    both = np.array(
        [
            divergences(
                Histograms(*(torch.from_numpy(generator.multinomial(n, np.full(25, 0.04))) for n in (2000, 5000)), 0)
            )
            for _ in range(80)
        ]
    ).mean(0)
    expected = 24 / 2 * (1 / 2000 + 1 / 5000)
    assert expected == pytest.approx(0.0084)
    assert both == pytest.approx((expected, expected / 4), rel=0.15)


def test_samples_on_five_of_twenty_five_modes() -> None:
    made = torch.zeros(25, dtype=torch.int64)
    made[:5] = 200
    found = Histograms(made, torch.full((25,), 40), 0)
    assert divergences(found) == pytest.approx((math.log(5.0), 0.4228), abs=5e-5)
    assert missing_modes(found).tolist() == list(range(5, 25))
    assert expected_cover(found) == pytest.approx(1.0)


def test_a_rare_mode_is_missing_by_chance() -> None:
    made, real = torch.tensor([1000, 0, 0]), torch.tensor([989, 1, 10])
    found = Histograms(made, real, 0)
    # .999¹⁰⁰⁰ = .37 is chance, .99¹⁰⁰⁰ = 4e-5 is below 1e-3/3
    assert missing_modes(found).tolist() == [2]
    assert expected_cover(found) == pytest.approx((1 + (1 - 0.999**1000) + (1 - 0.99**1000)) / 3)


def test_modes_that_only_the_samples_have_are_left_out_and_counted() -> None:
    found = of_reference_modes(torch.tensor([5, 0, 7, 2]), torch.tensor([10, 10]))
    assert (found.samples.tolist(), found.reference.tolist(), found.elsewhere) == ([5, 0], [10, 10], 9)
    assert of_reference_modes(torch.tensor([5]), torch.tensor([0, 3])).modes == 1


def test_one_mode_and_no_samples_have_defined_answers() -> None:
    one = Histograms(torch.tensor([5]), torch.tensor([7]), 0)
    assert divergences(one) == (0.0, 0.0)
    assert differing_share(one) == 0.0
    assert missing_modes(one).numel() == 0
    assert expected_cover(one) == 1.0
