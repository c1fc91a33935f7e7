"""The spectrum of a product of two thin factors, and its null."""

import numpy as np
import pytest
import torch

from collapse_cli.core.site import Role
from collapse_cli.kernels import low_rank
from tests.views import weight


def _factors(out: int, rank: int, inputs: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return (
        torch.randn(out, rank, generator=generator, dtype=torch.float64),
        torch.randn(rank, inputs, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("shape", [(40, 5, 30), (3, 8, 30), (30, 8, 3), (1, 1, 1)])
def test_singular_values_are_those_of_the_dense_product(shape: tuple[int, int, int]) -> None:
    outer, inner = _factors(*shape)
    outer[:, -1] *= 1e-9
    dense = np.linalg.svd((outer @ inner).numpy(), compute_uv=False)
    found = low_rank.product_singular_values(outer, inner).numpy()
    count = min(shape)
    assert found[:count] == pytest.approx(dense[:count], abs=1e-14 * dense[0])
    assert found[count:] == pytest.approx(0.0, abs=1e-14 * dense[0])


def test_extreme_scales_do_not_overflow() -> None:
    outer, inner = _factors(20, 4, 10)
    reference = low_rank.product_singular_values(outer, inner)
    found = low_rank.product_singular_values((outer * 2.0**100).float(), (inner * 2.0**-120).float())
    assert found.numpy() == pytest.approx(reference.numpy() * 2.0**-20, rel=1e-5)


def test_rounding_of_the_factors_stays_below_its_bound_and_is_not_far_below() -> None:
    outer, inner = (factor.float() for factor in _factors(200, 8, 150))
    rounded = [weight(factor.bfloat16(), role=Role.ADAPTER_A) for factor in (outer, inner)]
    error = np.linalg.norm(
        (rounded[0].tensor.double() @ rounded[1].tensor.double() - outer.double() @ inner.double()).numpy(), 2
    )
    bound = low_rank.product_rounding(*rounded)
    assert bound / 6 < error < bound


@pytest.mark.parametrize("which", [0, 1], ids=["outer", "inner"])
def test_rounding_of_one_factor_alone_is_bounded(which: int) -> None:
    exact = [factor.float() for factor in _factors(200, 8, 150)]
    rounded = [factor.bfloat16() if place == which else factor for place, factor in enumerate(exact)]
    products = [first.double() @ second.double() for first, second in (exact, rounded)]
    error = np.linalg.norm((products[1] - products[0]).numpy(), 2)
    outer, inner = (weight(factor, role=Role.ADAPTER_A) for factor in rounded)
    assert error < low_rank.product_rounding(outer, inner) < 6 * error


@pytest.mark.parametrize(("out", "rank", "inputs"), [(96, 8, 48), (300, 16, 200), (6, 8, 40), (10, 8, 9)])
def test_nulls_are_those_of_fresh_dense_draws(out: int, rank: int, inputs: int) -> None:
    generator = np.random.default_rng(11)
    entropies, stables, ratios = [], [], []
    for _ in range(60):
        product = generator.standard_normal((out, rank)) @ generator.standard_normal((rank, inputs))
        energies = np.linalg.svd(product, compute_uv=False)[: min(out, rank)] ** 2
        shares = energies / energies.sum()
        entropies.append(np.exp(-(shares * np.log(shares)).sum()))
        stables.append(1 / shares.max())
        ratios.append(1 / (shares**2).sum())
    entropy_null, stable_null = low_rank.gaussian_product_ranks(out, rank, inputs)
    assert entropy_null == pytest.approx(np.mean(entropies), rel=0.02)
    assert stable_null == pytest.approx(np.mean(stables), rel=0.05)
    assert low_rank.product_participation_null(out, rank, inputs) == pytest.approx(np.mean(ratios), rel=0.04)
