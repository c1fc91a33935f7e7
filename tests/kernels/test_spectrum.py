"""Against numpy's float64 SVD, closed forms, and planted ranks."""

import math

import numpy as np
import pytest
import torch

from collapse_cli.kernels import spectrum
from collapse_cli.kernels.views import Weight
from tests.views import weight


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def with_spectrum(sigma: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    side = sigma.numel()
    left, right = torch.linalg.qr(gaussian(rows, side, seed=1)).Q, torch.linalg.qr(gaussian(columns, side, seed=2)).Q
    return left * sigma @ right.T


@pytest.mark.parametrize("shape", [(20, 50), (50, 20), (8, 4, 3, 3), (1, 9), (9, 1), (7,)])
def test_singular_values_are_numpys(shape: tuple[int, ...]) -> None:
    view = weight(gaussian(*shape))
    expected = np.linalg.svd(view.matrix.numpy(), compute_uv=False)
    assert spectrum.singular_values(view).numpy() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert spectrum.spectral_norm(view) == pytest.approx(expected[0], rel=1e-9)
    assert spectrum.frobenius(view) == pytest.approx(float(np.linalg.norm(expected)), rel=1e-12)


def test_gram_keeps_its_digits_down_to_1e_5_and_the_refined_values_below() -> None:
    sigma = torch.logspace(0, -9, 40, dtype=torch.float64)
    view = weight(with_spectrum(sigma, 64, 96))
    kept = sigma >= 1e-5
    assert spectrum.singular_values(view)[:40][kept].numpy() == pytest.approx(sigma[kept].numpy(), rel=2e-6)
    assert spectrum.refined_singular_values(view)[:40].numpy() == pytest.approx(sigma.numpy(), rel=1e-6)


def test_refined_values_are_the_shared_ones_where_these_suffice() -> None:
    view = weight(gaussian(30, 60))
    assert spectrum.refined_singular_values(view) is view.get(spectrum.singular_values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rank", [1, 2, 8, 40])
def test_planted_rank_comes_back_in_every_format(dtype: torch.dtype, rank: int) -> None:
    matrix = gaussian(96, rank) @ gaussian(rank, 160, seed=1)
    view = weight(matrix.to(dtype))
    assert spectrum.numerical_rank(view) == rank
    assert spectrum.is_above_rounding(view)


def test_rank_8_of_512_by_1024_in_bf16_is_8() -> None:
    matrix = (gaussian(512, 8) @ gaussian(8, 1024, seed=1)).bfloat16()
    assert spectrum.numerical_rank(weight(matrix)) == 8
    assert spectrum.numerical_rank(weight(matrix.float())) == 8  # the words still show seven bits


def int4(matrix: torch.Tensor) -> Weight:
    step = matrix.abs().amax(1, keepdim=True) / 7
    view = weight((matrix / step).round() * step, dtype="I4")
    return Weight(view.site, view.tensor, quantisation_step=step)


def test_integer_formats_count_against_their_steps_unless_one_row_spoils_the_floor() -> None:
    planted = int4(with_spectrum(torch.full((8,), 50.0, dtype=torch.float64), 128, 256))
    assert spectrum.is_above_rounding(planted)
    assert spectrum.numerical_rank(planted) == 8
    spoilt = gaussian(128, 256)
    spoilt[3, 5] = 200.0
    assert not spectrum.is_above_rounding(int4(spoilt))


def test_floor_is_above_the_rounding_of_uneven_rows_and_columns() -> None:
    matrix = gaussian(128, 4) @ gaussian(4, 256, seed=1)
    matrix *= gaussian(128, 1, seed=2).mul(1.5).exp()
    matrix[:, 7] *= 50
    noise = np.linalg.norm((matrix.bfloat16().double() - matrix).numpy(), 2)
    floor = spectrum.noise_floor(weight(matrix.bfloat16()))
    assert noise < floor < 6 * noise


def test_energy_rank_of_equal_energies_is_the_share() -> None:
    energies = torch.full((10,), 0.1, dtype=torch.float64)
    assert [spectrum.energy_rank(energies, q) for q in (0.05, 0.1, 0.9, 0.99, 1.0)] == [1, 1, 9, 10, 10]
    assert spectrum.energy_rank(torch.tensor([8.0, 1.0, 1.0]), 0.8) == 1
    assert spectrum.energy_rank(torch.tensor([8.0, 1.0, 1.0]), 0.81) == 2
    assert spectrum.energy_rank(torch.zeros(3), 0.9) == 0


def test_ranks_of_equal_and_geometric_energies() -> None:
    equal = torch.tensor([2.0, 2.0, 0.0, 2.0], dtype=torch.float64)
    assert spectrum.entropy_rank(equal) == pytest.approx(3.0, rel=1e-12)
    assert spectrum.participation_ratio(equal) == pytest.approx(3.0, rel=1e-12)
    halves = 0.5 ** torch.arange(60, dtype=torch.float64)
    # entropy 2 ln 2; (Σ2^{−i})²/Σ4^{−i} = 4/(4/3)
    assert spectrum.entropy_rank(halves) == pytest.approx(4.0, rel=1e-12)
    assert spectrum.participation_ratio(halves) == pytest.approx(3.0, rel=1e-12)
    assert spectrum.entropy_rank(torch.zeros(4)) == spectrum.participation_ratio(torch.zeros(0)) == 0.0


@pytest.mark.parametrize("shape", [(30, 70), (70, 30)])
def test_squared_gram_norm_is_the_sum_of_fourth_powers(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrum, "_BLOCK_ENTRIES", 7 * 70)
    matrix = gaussian(*shape)
    expected = float((np.linalg.svd(matrix.numpy(), compute_uv=False) ** 4).sum())
    assert spectrum.squared_gram_norm(weight(matrix)) == pytest.approx(expected, rel=1e-12)


def test_sides_beyond_the_exact_spectrum_get_the_norm_from_lanczos(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = gaussian(80, 120)
    expected = float(np.linalg.norm(matrix.numpy(), 2))
    monkeypatch.setattr(spectrum, "MAX_EXACT_SIDE", 64)
    assert not spectrum.has_exact_spectrum(weight(matrix))
    assert spectrum.spectral_norm(weight(matrix)) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="64"):
        spectrum.singular_values(weight(matrix))


def test_curve_is_short_begins_and_ends_with_the_spectrum() -> None:
    values = torch.arange(1000, 0, -1, dtype=torch.float64)
    curve = spectrum.spectrum_curve(values, 12.34567)
    assert len(curve["rank"]) == len(curve["value"]) == len(curve["null_edge"]) <= 128
    assert (curve["rank"][0], curve["rank"][-1]) == (1, 1000)
    assert all(
        value == pytest.approx(1001 - rank, rel=1e-3) for rank, value in zip(curve["rank"], curve["value"], strict=True)
    )
    assert set(curve["null_edge"]) == {12.35}
    assert spectrum.spectrum_curve(torch.zeros(0), 0.0)["rank"] == []


def test_degenerate_weights() -> None:
    for view in (weight(torch.zeros(5, 0)), weight(torch.zeros(4, 6)), weight(torch.zeros(1, 1))):
        assert spectrum.numerical_rank(view) == 0
        assert spectrum.noise_floor(view) == 0.0
        assert spectrum.root_mean_square(view) == 0.0
        assert spectrum.squared_gram_norm(view) == 0.0
    assert spectrum.numerical_rank(weight(torch.full((16, 9), 0.1))) == 1
    assert spectrum.spectral_norm(weight(torch.full((16, 9), 0.5))) == pytest.approx(0.5 * math.sqrt(16 * 9), rel=1e-12)
