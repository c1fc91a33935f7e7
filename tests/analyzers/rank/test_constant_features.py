import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.rank.constant_features import constant_features
from tests.analyzers.rank.dumps import found, severities, skipped, split


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape), dtype=torch.float32)


def test_standard_deviation_of_unit_rows_and_spread_by_the_definition() -> None:
    rows = gaussian(400, 64) + 0.5
    values = found(constant_features, rows)
    exact = rows.double().numpy()
    units = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    assert values["l2_std_share"] == pytest.approx(8.0 * units.std(0, ddof=1).mean(), rel=1e-9)
    ulp = np.spacing(np.abs(rows.numpy())).astype(np.float64)
    assert values["spread_over_rounding"] == pytest.approx(
        ((exact - exact.mean(0)) ** 2).sum() / ((ulp**2).sum() / 12), rel=1e-9
    )


def test_gaussian_of_512_features_is_isotropic_and_far_above_rounding() -> None:
    values = found(constant_features, gaussian(512, 512).bfloat16())
    assert values["l2_std_share"] == pytest.approx(1.0, abs=2e-3)
    # relative rounding of bf16: Σulp²/12 is 2⁻¹⁴/12·E(2^⌊log₂|x|⌋)² = 2.8e-6 of Σx²
    assert values["spread_over_rounding"] == pytest.approx(3.6e5, rel=0.03)
    assert severities(constant_features, gaussian(512, 512).bfloat16()) == set()


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 7), (torch.float16, 10)])
def test_one_vector_with_noise_below_rounding(dtype: torch.dtype, bits: int) -> None:
    rows = (gaussian(64) + 1e-4 * gaussian(512, 64, seed=1)).to(dtype)
    exact = rows.double().numpy()
    ulp = 2.0 ** (np.floor(np.log2(np.abs(exact))) - bits)
    expected = ((exact - exact.mean(0)) ** 2).sum() / ((ulp**2).sum() / 12)
    assert expected < 1
    assert found(constant_features, rows)["spread_over_rounding"] == pytest.approx(expected, rel=1e-6)
    assert severities(constant_features, rows) == {"error"}
    # the same numbers in a wider format are as rounded as they were
    assert found(constant_features, rows.float()) == pytest.approx(found(constant_features, rows))


@pytest.mark.parametrize("offset", [0.0, 1.0, 0.1, 1e4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_equal_rows_are_an_error_in_every_format(dtype: torch.dtype, offset: float) -> None:
    rows = torch.full((50, 16), offset, dtype=dtype)
    values = found(constant_features, rows)
    assert values["spread_over_rounding"] < 1e-3
    assert values["constant_dim_share"] == 1.0
    assert values["duplicate_rate"] == pytest.approx(0.98)
    assert "error" in severities(constant_features, rows)


def test_a_spread_just_above_rounding_is_no_error_of_that_limit() -> None:
    noise = gaussian(300, 64) * 2.0**-9
    assert found(constant_features, (1.5 + noise).bfloat16())["spread_over_rounding"] < 3
    assert found(constant_features, (1.5 + 8 * noise).bfloat16())["spread_over_rounding"] > 3


def test_constant_dead_zero_and_repeated_are_counted() -> None:
    rows = gaussian(40, 20)
    rows[:, 0], rows[:, 1:4] = 0.3, 0.0
    rows[5:9] = 0.0
    rows[5:9, 0] = 0.3
    rows[30] = rows[31]
    values = found(constant_features, rows)
    assert values["constant_dim_share"] == pytest.approx(4 / 20)
    assert values["dead_dim_share"] == pytest.approx(3 / 20)
    assert values["zero_row_share"] == 0.0
    assert values["duplicate_rate"] == pytest.approx(4 / 40)  # 3 of the 4 equal rows, 1 of the pair
    rows[5:9, 0] = 0.0
    assert found(constant_features, rows)["zero_row_share"] == pytest.approx(4 / 40)


def test_two_opposite_vectors_are_not_seen_here() -> None:
    signs = torch.where(torch.arange(1000) % 2 == 0, 1.0, -1.0)
    share = found(constant_features, signs[:, None] * gaussian(256))["l2_std_share"]
    # √D·mean|v_d|/‖v‖ of a Gaussian v is √(2/π)
    assert share == pytest.approx(math.sqrt(2 / math.pi), rel=0.05)


def test_all_zero_is_an_error_and_few_rows_are_not_judged() -> None:
    assert severities(constant_features, torch.zeros(20, 8)) == {"error"}
    assert "fewer than 10" in skipped(constant_features, torch.zeros(20, 8))
    assert severities(constant_features, torch.ones(9, 8)) == set()
    assert "spread_over_rounding" in skipped(constant_features, torch.ones(9, 8))
    assert skipped(constant_features, torch.ones(1, 8)) == "fewer than 2 finite rows"
    assert skipped(constant_features, torch.ones(0, 8)) == "fewer than 2 finite rows"


def test_rows_that_are_not_finite_are_left_out_and_said() -> None:
    rows = gaussian(60, 8)
    rows[3, 2] = math.nan
    values = found(constant_features, rows)
    assert values["l2_std_share"] == pytest.approx(
        found(constant_features, rows[torch.arange(60) != 3])["l2_std_share"]
    )


def test_in_batches_as_in_one() -> None:
    rows = gaussian(300, 12) + 40.0
    assert split(constant_features, rows) == pytest.approx(found(constant_features, rows), rel=1e-9)
