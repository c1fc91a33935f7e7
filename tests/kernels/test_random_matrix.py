"""Nulls against quadrature and against random matrices; spikes against what was planted."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from collapse_cli.kernels import random_matrix as law
from collapse_cli.kernels.spectrum import energy_rank, entropy_rank, participation_ratio, singular_values
from tests.views import weight

SHAPES = [(256, 256), (256, 512), (600, 150)]


def gaussian(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal((rows, columns)))


def density(x: float, c: float) -> float:
    low, high = (1 - math.sqrt(c)) ** 2, (1 + math.sqrt(c)) ** 2
    return math.sqrt(max((high - x) * (x - low), 0.0)) / (2 * math.pi * c * x)


@pytest.mark.parametrize("c", [0.05, 0.25, 0.5, 0.9, 1.0])
def test_marchenko_pastur_cdf_is_the_integral_of_the_density(c: float) -> None:
    low, high = (1 - math.sqrt(c)) ** 2, (1 + math.sqrt(c)) ** 2
    for share in (0.02, 0.3, 0.7, 0.99):
        x = low + share * (high - low)
        expected = integrate.quad(density, max(low, 1e-14), x, args=(c,), limit=500, epsabs=1e-9)[0]
        assert law.marchenko_pastur_cdf(np.array([x]), c)[0] == pytest.approx(expected, abs=2e-7)
    assert law.marchenko_pastur_cdf(np.array([-1.0, low, high, 99.0]), c).tolist() == pytest.approx(
        [0, 0, 1, 1], abs=1e-7
    )


def test_published_medians_moments_and_quantiles() -> None:
    assert law.marchenko_pastur_median(512, 1024) == pytest.approx(0.8304, abs=1e-4)
    for (rows, columns), mean_root, (r90, r99) in [
        ((512, 512), 0.8488, (0.510, 0.771)),
        ((512, 1024), 0.9328, (0.664, 0.927)),
        ((4096, 1024), 0.9677, (0.761, 0.965)),
    ]:
        side = min(rows, columns)
        assert law.nuclear_frobenius_null(rows, columns) == pytest.approx(side * mean_root**2, rel=2e-4)
        assert law.energy_rank_null(rows, columns, 0.90) / side == pytest.approx(r90, abs=6e-4)
        assert law.energy_rank_null(rows, columns, 0.99) / side == pytest.approx(r99, abs=6e-4)
    # E√x at c = 1 is 8/(3π): the first moment of the quarter circle
    assert law.nuclear_frobenius_null(100, 100) == pytest.approx(100 * (8 / (3 * math.pi)) ** 2, rel=1e-8)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_nulls_are_met_by_gaussian_matrices(rows: int, columns: int) -> None:
    sigma = singular_values(weight(gaussian(rows, columns)))
    energy = sigma.square()
    nuclear, frobenius, largest = float(sigma.sum()), math.sqrt(float(energy.sum())), float(sigma[0])
    assert entropy_rank(energy) == pytest.approx(law.effective_rank_lambda_null(rows, columns), rel=0.01)
    assert entropy_rank(sigma) == pytest.approx(law.effective_rank_sigma_null(rows, columns), rel=0.01)
    assert participation_ratio(energy) == pytest.approx(law.participation_ratio_null(rows, columns), rel=0.01)
    assert nuclear**2 / frobenius**2 == pytest.approx(law.nuclear_frobenius_null(rows, columns), rel=0.01)
    assert nuclear / largest == pytest.approx(law.nuclear_rank_null(rows, columns), rel=0.04)
    assert frobenius**2 / largest**2 == pytest.approx(law.stable_rank_null(rows, columns), rel=0.05)
    for share in (0.9, 0.99):
        assert energy_rank(energy, share) == pytest.approx(law.energy_rank_null(rows, columns, share), rel=0.02)


def test_condition_null_is_edelmans_when_square_and_the_edge_law_when_long() -> None:
    assert math.log(law.condition_null(64, 64)) == pytest.approx(math.log(64) + 1.537, rel=1e-12)
    assert law.condition_null(256, 1024) == pytest.approx(3.0, rel=5e-3)
    for columns in (64, 66, 80):
        logs = [math.log(np.linalg.cond(gaussian(64, columns, seed))) for seed in range(60)]
        assert math.log(law.condition_null(64, columns)) == pytest.approx(float(np.mean(logs)), abs=0.4)


def test_drawn_spectra_have_the_law_of_gaussian_matrices() -> None:
    drawn = law._gaussian_spectra(60, 90)
    true = [np.linalg.svd(gaussian(60, 90, seed), compute_uv=False) ** 2 for seed in range(4)]
    assert np.mean(drawn, 0) == pytest.approx(np.mean(true, 0), rel=0.2, abs=0.3)
    assert np.mean([s.sum() for s in drawn]) == pytest.approx(60 * 90, rel=0.03)


def test_bulk_scale_resists_signal_in_up_to_half_of_the_spectrum() -> None:
    noise = gaussian(256, 512)
    sigma = singular_values(weight(noise))
    assert law.bulk_scale(sigma, 256, 512) == pytest.approx(1.0, rel=0.01)
    left, right = torch.linalg.qr(gaussian(256, 40, 1)).Q, torch.linalg.qr(gaussian(512, 40, 2)).Q
    spiked = singular_values(weight(noise + 500 * left @ right.T))
    assert law.bulk_scale(spiked, 256, 512) == pytest.approx(1.0, rel=0.1)
    assert law.spike_count(spiked, 256, 512) == 40


def test_published_bulk_of_the_reference_matrix() -> None:
    matrix = (0.05 * np.random.default_rng(0).standard_normal((256, 512))).astype(np.float32)
    sigma = singular_values(weight(torch.tensor(matrix)))
    scale = law.bulk_scale(sigma, 256, 512)
    assert scale == pytest.approx(0.04999, abs=1e-5)
    assert law.bulk_edge(scale, 256, 512)[0] == pytest.approx(3.729, abs=2e-3)
    assert law.spike_count(sigma, 256, 512) == 0


def test_gaussian_matrices_rarely_show_a_spike() -> None:
    counts = [
        law.spike_count(torch.tensor(np.linalg.svd(gaussian(40, 80, seed), compute_uv=False)), 40, 80)
        for seed in range(200)
    ]
    assert sum(counts) <= 12  # one in a hundred at infinite size; the scale of so small a matrix is itself uncertain


@pytest.mark.parametrize("multiple", [4.0, 3.0, 2.0])
def test_planted_direction_is_overlapped_as_predicted(multiple: float) -> None:
    rows, columns = 256, 512
    u, v = torch.linalg.qr(gaussian(rows, 1, 5)).Q, torch.linalg.qr(gaussian(columns, 1, 6)).Q
    strength = multiple * (rows * columns) ** 0.25
    left, sigma, _ = torch.linalg.svd(gaussian(rows, columns) + strength * u @ v.T, full_matrices=False)
    predicted = (strength**2 + rows) * (strength**2 + columns) / strength**2
    assert float(sigma[0]) ** 2 == pytest.approx(predicted, rel=0.08)
    overlap = float((left[:, 0] @ u[:, 0]) ** 2)
    published = {4.0: 0.954, 3.0: 0.916, 2.0: 0.797}[multiple]
    assert law.planted_overlap(predicted, 1.0, rows, columns) == pytest.approx(published, abs=1e-3)
    assert law.planted_overlap(predicted * 0.01, 0.1, rows, columns) == pytest.approx(published, abs=1e-3)
    assert overlap == pytest.approx(published, abs=0.03)


def test_overlap_inside_the_noise_is_none() -> None:
    assert law.planted_overlap(512.0, 1.0, 256, 512) == 0.0
    assert law.planted_overlap(512.0, 0.0, 256, 512) == 1.0


def test_bulk_distance_is_scipys() -> None:
    sigma = singular_values(weight(gaussian(100, 300)))
    scale = law.bulk_scale(sigma, 100, 300)
    assert law.spike_count(sigma, 100, 300) == 0
    scaled = sigma.numpy() ** 2 / (300 * scale**2)
    expected = stats.kstest(scaled, lambda x: law.marchenko_pastur_cdf(x, 1 / 3)).statistic
    assert law.bulk_distance(sigma, 100, 300) == pytest.approx(expected, rel=1e-12)
    assert law.bulk_distance(torch.zeros(8, dtype=torch.float64), 8, 8) == 1.0


def test_spikes_are_not_in_the_bulk() -> None:
    sigma = singular_values(weight(gaussian(256, 512)))
    spiked = torch.cat((torch.full((3,), 200.0, dtype=torch.float64), sigma[:-3]))
    assert law.spike_count(spiked, 256, 512) == 3
    scaled = sigma[:-3].numpy() ** 2 / (512 * law.bulk_scale(spiked, 256, 512) ** 2)
    expected = stats.kstest(scaled, lambda x: law.marchenko_pastur_cdf(x, 0.5)).statistic
    assert law.bulk_distance(spiked, 256, 512) == pytest.approx(expected, rel=1e-12)


def test_orthogonal_matrices_have_no_bulk() -> None:
    assert law.bulk_distance(torch.ones(64, dtype=torch.float64), 64, 64) == pytest.approx(0.5, abs=0.02)


def test_nulls_of_the_distances() -> None:
    assert law.bulk_distance_null(128, 256) == pytest.approx(0.019, abs=0.004)
    assert law.spectrum_distance_null(256, 512) == pytest.approx(0.0041, abs=0.0006)
    assert law.bulk_distance_null(128, 256) == law.bulk_distance_null(128, 256)


def test_spectrum_distance_is_scipys_and_bounded() -> None:
    from scipy.spatial.distance import jensenshannon

    first, second = gaussian(1, 50)[0].abs(), gaussian(1, 50, 1)[0].abs()
    expected = jensenshannon(first.square().numpy(), second.square().numpy())
    assert law.spectrum_distance(first, second) == pytest.approx(expected, rel=1e-9)
    assert law.spectrum_distance(first, first) == 0.0
    apart = law.spectrum_distance(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0]))
    assert apart == pytest.approx(math.sqrt(math.log(2)), rel=1e-6)


def test_shuffles_keep_the_entries_are_seeded_and_hide_structure() -> None:
    view = weight(gaussian(40, 1) @ gaussian(1, 60, 1))
    first, again = law.shuffled_singular_values(view), law.shuffled_singular_values(view)
    assert len(first) == 3
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], first[1])
    for sigma in first:
        assert float(sigma.square().sum()) == pytest.approx(float(view.matrix.square().sum()), rel=1e-12)
        assert float(sigma[1]) > 0.1 * float(sigma[0])
    assert len(law.shuffled_singular_values(weight(gaussian(256, 257)))) == 3
    assert len(law.shuffled_singular_values(weight(gaussian(257, 258)))) == 1


def test_empty_shapes_have_a_null() -> None:
    for null in (law.effective_rank_lambda_null, law.effective_rank_sigma_null, law.nuclear_rank_null):
        assert null(0, 5) == 0.0
    assert (
        law.nuclear_frobenius_null(5, 0) == law.participation_ratio_null(0, 0) == law.energy_rank_null(0, 3, 0.9) == 0
    )
    assert law.condition_null(0, 3) == 1.0
