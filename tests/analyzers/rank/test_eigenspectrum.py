import numpy as np
import pytest
import torch

from collapse_cli.analyzers.rank.eigenspectrum import eigenspectrum
from collapse_cli.kernels.feature_spectrum import marchenko_pastur_quantiles
from collapse_cli.kernels.power_decay import power_fit
from tests.analyzers.rank.dumps import found, nulls, severities, skipped, split


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def orthonormal(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Columns of unit length, orthogonal to one another and to the ones."""
    given = torch.cat((torch.ones(rows, 1, dtype=torch.float64), gaussian(rows, columns, seed=seed)), 1)
    return torch.linalg.qr(given).Q[:, 1:]


def test_reference_fit_on_a_known_matrix() -> None:
    rows = torch.randn(1000, 1024, generator=torch.Generator().manual_seed(0))
    assert found(eigenspectrum, rows)["alpha"] == pytest.approx(0.1489365, abs=1e-6)
    assert nulls(eigenspectrum, rows)["alpha"] == pytest.approx(0.1452, abs=2e-3)


@pytest.mark.parametrize("exponent", [1.3, 0.5, 4.0])
def test_exact_power_law(exponent: float) -> None:
    rows = orthonormal(300, 120) * torch.arange(1, 121) ** (-exponent / 2) + 1.0
    values = found(eigenspectrum, rows)
    assert values["alpha"] == pytest.approx(exponent, abs=1e-6)
    assert values["alpha_r2"] == pytest.approx(1.0, abs=1e-9)
    assert severities(eigenspectrum, rows) == set()


def test_fit_is_a_weighted_least_squares_line() -> None:
    values = np.sort(np.random.default_rng(0).exponential(size=200))[::-1]
    ranks = np.arange(11, 101)
    weights = 1 / ranks
    slope, start = np.polyfit(np.log(ranks), np.log(values[10:100]), 1, w=np.sqrt(weights))
    fit = power_fit(values)
    assert fit is not None
    assert fit.exponent == pytest.approx(-slope, rel=1e-10)
    y = np.log(values[10:100])
    left = weights @ (y - start - slope * np.log(ranks)) ** 2
    assert fit.r2 == pytest.approx(1 - left / (weights @ (y - weights @ y / weights.sum()) ** 2), rel=1e-10)


def test_targets_by_regression_on_the_components() -> None:
    components = orthonormal(400, 110)
    rows = components * torch.arange(1, 111) ** -0.5
    coefficients = torch.arange(1, 111, dtype=torch.float64) ** -1.25
    values = found(eigenspectrum, rows, targets=(components @ coefficients)[:, None])
    assert values["target_beta"] == pytest.approx(2.5, abs=1e-6)
    # two targets add their squares, labels are one-hot targets
    both = torch.stack((components @ coefficients, components @ (2 * coefficients)), 1)
    assert found(eigenspectrum, rows, targets=both)["target_beta"] == pytest.approx(2.5, abs=1e-6)
    labels = torch.arange(400) % 3
    hot = torch.nn.functional.one_hot(labels).double()
    assert found(eigenspectrum, rows, labels=labels)["target_beta"] == pytest.approx(
        found(eigenspectrum, rows, targets=hot)["target_beta"], rel=1e-9
    )


def test_noise_targets_do_not_fall() -> None:
    rows = gaussian(600, 110) * torch.arange(1, 111) ** -0.5
    assert abs(found(eigenspectrum, rows, targets=gaussian(600, 200, seed=1))["target_beta"]) < 0.1


def test_effective_dimension_by_its_definition() -> None:
    rows = gaussian(60, 10) * torch.linspace(1, 3, 10)
    spectrum = np.linalg.eigvalsh(np.cov(rows.numpy().T))
    expected = (spectrum / (spectrum + spectrum.sum() / 60)).sum()
    assert found(eigenspectrum, rows) == pytest.approx({"effective_dimension": expected})
    assert "fewer than 100 eigenvalues" in skipped(eigenspectrum, rows)


def test_quantiles_are_those_of_a_random_spectrum() -> None:
    drawn = np.linalg.eigvalsh(np.cov(gaussian(801, 200).numpy().T))[::-1]
    quantiles = marchenko_pastur_quantiles(800, 200)
    assert np.abs(quantiles - drawn).max() < 0.06
    assert np.all(np.diff(quantiles) < 0)


def test_rows_without_a_window_are_skipped() -> None:
    low_rank = gaussian(300, 50) @ gaussian(50, 120, seed=1)
    assert "rank 50" in skipped(eigenspectrum, low_rank)
    assert skipped(eigenspectrum, torch.ones(200, 120)) == "all rows are equal"
    assert skipped(eigenspectrum, torch.ones(2, 120)) == "fewer than 3 finite rows"
    constant = torch.zeros(300, 1, dtype=torch.float64)
    assert "constant" in skipped(eigenspectrum, gaussian(300, 120), targets=constant)
    assert "no targets" in skipped(eigenspectrum, gaussian(300, 120))


def test_in_batches_as_in_one() -> None:
    rows, targets = gaussian(300, 120) + 4.0, gaussian(300, 2, seed=1)
    assert split(eigenspectrum, rows, targets=targets) == pytest.approx(
        found(eigenspectrum, rows, targets=targets), rel=1e-7
    )
