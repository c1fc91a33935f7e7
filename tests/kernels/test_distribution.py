"""Moments, tails, four-bit error and N:M patterns against scipy, numpy in float64 and closed forms."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from collapse_cli.kernels import distribution
from tests.views import weight


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_moments_are_those_of_scipy(dtype: torch.dtype, offset: float) -> None:
    tensor = (draw(300, 401) ** 3 + offset).to(dtype)
    flat = tensor.double().numpy().ravel()
    found = distribution.moments(weight(tensor))
    assert found is not None
    assert found.excess_kurtosis == pytest.approx(scipy.stats.kurtosis(flat, bias=True), rel=1e-9)
    assert found.mean == pytest.approx(flat.mean(), rel=1e-9, abs=1e-12)
    assert found.root_mean_square == pytest.approx(np.sqrt(np.mean(flat**2)), rel=1e-12)
    assert found.max_over_rms == pytest.approx(np.abs(flat).max() / np.sqrt(np.mean(flat**2)), rel=1e-12)


@pytest.mark.parametrize(
    ("tensor", "expected", "tolerance"),
    [
        pytest.param(torch.tensor(np.random.default_rng(0).laplace(size=(1000, 1000))), 3.0, 0.1, id="laplace"),
        pytest.param(torch.tensor(np.random.default_rng(0).standard_t(9, size=(1000, 1000))), 1.2, 0.1, id="t9"),
        pytest.param(torch.tensor([[-1.0, 1.0]]).repeat(64, 32), -2.0, 1e-12, id="two values"),
    ],
)
def test_kurtosis_of_known_laws(tensor: torch.Tensor, expected: float, tolerance: float) -> None:
    found = distribution.moments(weight(tensor))
    assert found is not None
    assert found.excess_kurtosis == pytest.approx(expected, abs=tolerance)


def test_zeros_beyond_one_percent_are_left_out() -> None:
    tensor = draw(500, 500) + 0.5
    tensor[torch.tensor(np.random.default_rng(1).random((500, 500)) > 0.25)] = 0.0
    left = tensor[tensor != 0].numpy()
    found, tails = distribution.moments(weight(tensor)), distribution.tails(weight(tensor))
    assert found is not None
    assert tails is not None
    assert (found.entries, found.zeros, found.are_zeros_left_out) == (left.size, 250_000 - left.size, True)
    assert found.excess_kurtosis == pytest.approx(scipy.stats.kurtosis(left, bias=True), abs=1e-9)
    assert found.largest * tails.p99_over_max == pytest.approx(np.quantile(np.abs(left), 0.99), rel=1 / 128)
    kept = draw(200, 200)
    kept[0] = 0.0  # half a percent
    found = distribution.moments(weight(kept))
    assert found is not None
    assert not found.are_zeros_left_out
    assert found.excess_kurtosis == pytest.approx(scipy.stats.kurtosis(kept.numpy().ravel(), bias=True), abs=1e-9)


def test_rows_of_different_scale_have_kurtosis_and_no_outliers() -> None:
    tensor = draw(512, 512) * torch.logspace(-1, 1, 512)[:, None]
    found = distribution.moments(weight(tensor))
    assert found is not None
    assert found.excess_kurtosis is not None
    assert found.excess_kurtosis > 3.0
    rows = tensor.numpy()
    expected = np.mean((rows**4).mean(1) / (rows**2).mean(1) ** 2) - 3
    assert found.within_rows == pytest.approx(expected, abs=1e-3)  # the rows are taken about the mean of all


@pytest.mark.parametrize("factor", [1e-44, 1e-38, 1.0, 1e37, 1e-300, 1e300])
def test_ratios_do_not_depend_on_the_scale(factor: float) -> None:
    dtype = torch.float64 if abs(math.log10(factor)) > 50 else torch.float32
    base, tensor = draw(64, 96).float(), (draw(64, 96).float().double() * factor).to(dtype)
    plain, scaled = distribution.moments(weight(base)), distribution.moments(weight(tensor))
    assert plain is not None
    assert scaled is not None
    # 1e-44 is seven times the smallest float32: what is left of the digits
    tolerance = 0.2 if factor == 1e-44 else 1e-5
    assert scaled.max_over_rms == pytest.approx(plain.max_over_rms, rel=tolerance)
    if factor == 1e-44:
        return
    assert scaled.excess_kurtosis == pytest.approx(plain.excess_kurtosis, rel=1e-5)
    one, other = distribution.tails(weight(base)), distribution.tails(weight(tensor))
    assert one is not None
    assert other is not None
    assert other.top_energy == pytest.approx(one.top_energy, rel=1 / 128)
    assert other.p99_over_max == pytest.approx(one.p99_over_max, rel=1 / 128)
    assert distribution.rtn4_error(weight(tensor)) == pytest.approx(distribution.rtn4_error(weight(base)), rel=1e-4)
    assert distribution.tiny_count(weight(tensor)) == pytest.approx(distribution.tiny_count(weight(base)), abs=1)


@pytest.mark.parametrize("power", [1, 3])
def test_tails_are_exact_to_one_bin(power: int) -> None:
    tensor = draw(700, 900) ** power
    sorted_squares = np.sort(tensor.numpy().ravel() ** 2)[::-1]
    found = distribution.tails(weight(tensor))
    assert found is not None
    assert found.top_entries == 630
    assert found.top_energy == pytest.approx(sorted_squares[:630].sum() / sorted_squares.sum(), rel=2e-3)
    expected = np.quantile(np.sqrt(sorted_squares), 0.99) / np.sqrt(sorted_squares[0])
    assert found.p99_over_max == pytest.approx(expected, rel=2e-3)


def test_a_planted_outlier_holds_half_of_the_energy() -> None:
    tensor = draw(1000, 1000).float()
    tensor[3, 3] = 1000.0
    found, known = distribution.tails(weight(tensor)), distribution.moments(weight(tensor))
    assert found is not None
    assert known is not None
    assert found.top_energy == pytest.approx(0.5 + 0.5 * 0.0126, abs=1e-3)  # 10⁶ of 2·10⁶, and the tail of the rest
    assert known.excess_kurtosis == pytest.approx(2.5e5, rel=0.01)
    assert known.max_over_rms == pytest.approx(1000 / math.sqrt(2), rel=1e-3)


def test_nulls_are_met_by_gaussian_entries() -> None:
    assert distribution.gaussian_maximum(10**6) == pytest.approx(5.0, abs=0.02)
    maxima = [float(draw(10_000, seed=seed).abs().max()) for seed in range(40)]
    assert distribution.gaussian_maximum(10_000) == pytest.approx(np.mean(maxima), rel=0.03)
    z = scipy.stats.norm.ppf(0.9995)
    tail = scipy.integrate.quad(lambda x: x * x * scipy.stats.norm.pdf(x), z, 12)[0]
    assert distribution.top_energy_null() == pytest.approx(2 * tail, rel=1e-9)
    assert distribution.tiny_null() == pytest.approx(scipy.stats.norm.cdf(0.1) - scipy.stats.norm.cdf(-0.1), rel=1e-12)
    assert scipy.stats.norm.ppf(0.995) == pytest.approx(distribution.GAUSSIAN_P99, rel=1e-12)


def _rounded(matrix: np.ndarray) -> float:
    steps = np.abs(matrix).max(1, keepdims=True) / 7
    return float(
        np.linalg.norm(matrix - steps * np.round(matrix / np.where(steps > 0, steps, 1))) / np.linalg.norm(matrix)
    )


@pytest.mark.parametrize(("columns", "expected"), [(1024, 0.142), (4096, 0.157)])
def test_four_bit_error_of_gaussian_rows(columns: int, expected: float) -> None:
    tensor = draw(200, columns).float()
    found = distribution.rtn4_error(weight(tensor))
    assert found == pytest.approx(_rounded(tensor.double().numpy()), rel=1e-5)
    assert found == pytest.approx(expected, abs=1e-3)
    assert distribution.rtn4_null(columns) == pytest.approx(expected, abs=2e-3)


def test_four_bit_error_is_exact_on_the_grid_and_defined_at_the_edges() -> None:
    grid = torch.arange(-7, 8).float().repeat(5, 1) * torch.tensor([[1e-3], [1.0], [5.0], [0.0], [0.25]])
    assert distribution.rtn4_error(weight(grid)) == pytest.approx(0.0, abs=1e-7)
    assert distribution.rtn4_error(weight(torch.zeros(4, 4))) == 0.0
    assert distribution.rtn4_error(weight(draw(64, 1).float())) == pytest.approx(0.0, abs=1e-7)
    assert distribution.rtn4_null(1) == 0.0
    wide = draw(1, 200_000).float()  # one row, longer than a block
    assert distribution.rtn4_error(weight(wide)) == pytest.approx(_rounded(wide.double().numpy()), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_tiny_entries_are_counted_exactly(dtype: torch.dtype) -> None:
    tensor = draw(333, 257).to(dtype)
    tensor[:, ::3] = 0.0
    numbers = np.abs(tensor.double().numpy())
    cut = 0.1 * np.sqrt(np.mean(numbers[numbers > 0] ** 2))
    assert distribution.tiny_count(weight(tensor)) == ((numbers > 0) & (numbers < cut)).sum()


def test_share_below_an_absolute_cut() -> None:
    tensor = 0.01 * draw(500, 500).float()
    expected = float((tensor.abs() < 1e-3).double().mean())
    assert distribution.share_below(weight(tensor), 1e-3) == pytest.approx(expected, rel=1 / 64)


# --- patterns ---------------------------------------------------------------------------------------------------------


def _counted(matrix: np.ndarray, size: int) -> np.ndarray:
    groups = matrix.shape[1] // size
    if groups == 0:
        return np.zeros(size + 1, dtype=np.int64)
    zeros = (matrix[:, : groups * size].reshape(-1, groups, size) == 0).sum(2)
    return np.bincount(zeros.ravel(), minlength=size + 1)


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("zero_share", [0.0005, 0.004, 0.3, 0.8])
@pytest.mark.parametrize("shape", [(96, 64), (50, 71), (12, 10, 3, 3), (40, 3)], ids=str)
def test_zeros_are_counted_in_groups_along_both_axes(shape: tuple[int, ...], zero_share: float, size: int) -> None:
    tensor = draw(*shape)
    tensor[torch.tensor(np.random.default_rng(2).random(shape) < zero_share)] = 0.0
    view, numbers = weight(tensor), tensor.numpy()
    along_input = numbers if tensor.dim() == 2 else np.moveaxis(numbers, 1, -1).reshape(-1, shape[1])
    expected = {"input": _counted(along_input, size), "output": _counted(numbers.reshape(shape[0], -1).T, size)}
    places = (view.matrix == 0).nonzero(as_tuple=True)
    for axis, counts in expected.items():
        dense = distribution._zeros_in_groups(distribution._along(view, axis), size)
        few = distribution._few_zeros_in_groups(view, places, axis=axis, size=size)
        np.testing.assert_array_equal(dense.numpy(), counts)
        np.testing.assert_array_equal(few.numpy(), counts)


@pytest.mark.parametrize(("kept", "of"), [(2, 4), (1, 4), (4, 8)])
@pytest.mark.parametrize("axis", ["input", "output"])
def test_planted_patterns_are_named(kept: int, of: int, axis: str) -> None:
    generator = np.random.default_rng(0)
    groups = np.zeros((64 * 64 // of, of))
    for group in groups:
        group[generator.permutation(of)[:kept]] = generator.standard_normal(kept)
    matrix = groups.reshape(64, 64)
    found = distribution.pattern(weight(torch.tensor(matrix if axis == "input" else matrix.T.copy())))
    assert (found.kept, found.of, found.axis, found.share) == (kept, of, axis, 1.0)
    assert found.null < 0.8


def test_pattern_null_is_the_binomial_tail() -> None:
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        for kept, size in ((2, 4), (1, 4), (4, 8)):
            expected = scipy.stats.binom.sf(size - kept - 1, size, share)
            assert distribution.pattern_null(share, kept, size) == pytest.approx(expected, abs=1e-12)
    assert distribution.pattern_null(0.5, 2, 4) == 0.6875


def test_transposed_and_strided_weights_are_read_right() -> None:
    tensor = draw(300, 700).float()
    for view in (weight(tensor.T), weight(tensor[:, ::2])):
        copy = weight(view.tensor.contiguous())
        one, other = distribution.moments(view), distribution.moments(copy)
        assert one is not None
        assert other is not None
        assert one.excess_kurtosis == pytest.approx(other.excess_kurtosis, rel=1e-9)
        assert distribution.tails(view) == distribution.tails(copy)
        assert distribution.rtn4_error(view) == pytest.approx(distribution.rtn4_error(copy), rel=1e-6)
