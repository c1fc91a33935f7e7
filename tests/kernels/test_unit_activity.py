import math

import numpy as np
import pytest
import torch
from scipy import optimize

from collapse_cli.kernels import firing, unit_activity
from collapse_cli.kernels.accumulators import Batch, UnitActivity
from tests.kernels.merging import assert_is_the_whole


def activity(rows: torch.Tensor, **options: bool) -> UnitActivity:
    found = UnitActivity(**options)
    found.update(Batch({"sparse": rows}))
    return found


def signed(rows: int = 70, units: int = 6) -> torch.Tensor:
    values = torch.randn(rows, units, generator=torch.Generator().manual_seed(0))
    values[values.abs() < 0.4] = 0.0
    values[5] = torch.nan
    values[9] = 0.0
    return values


@pytest.mark.parametrize("with_sums", [False, True])
def test_parts_are_the_whole(with_sums: bool) -> None:
    assert_is_the_whole(lambda: UnitActivity(with_sums=with_sums), {"sparse": signed()})


def test_tokens_in_parts_are_the_whole() -> None:
    values = signed(60, 6).reshape(12, 5, 6)
    mask = torch.rand(12, 5, generator=torch.Generator().manual_seed(1)) < 0.7
    assert_is_the_whole(lambda: UnitActivity("tokens"), {"tokens": values, "mask": mask})


def test_counts_and_sums_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_activity, "_PIECE_ENTRIES", 20)  # several pieces
    found, x = activity(signed(), with_sums=True), signed().double().numpy()
    x = x[np.isfinite(x).all(1)]
    assert (found.count, found.units, found.silent_rows) == (69, 6, int(((x > 0).sum(1) == 0).sum()))
    active = (x > 0).sum(1)
    assert (found.active_sum, found.active_squares) == (active.sum(), (active**2).sum())
    np.testing.assert_array_equal(found.positive, (x > 0).sum(0))
    np.testing.assert_array_equal(found.negative, (x < 0).sum(0))
    np.testing.assert_allclose(found.sums, [np.maximum(x, 0).sum(0), np.minimum(x, 0).sum(0)], rtol=1e-12)
    np.testing.assert_allclose(
        found.squares, [(np.maximum(x, 0) ** 2).sum(0), (np.minimum(x, 0) ** 2).sum(0)], rtol=1e-12
    )
    assert firing.activity_deviation(found) == pytest.approx(active.std(), rel=1e-12)


def test_masked_tokens_and_tokens_that_are_not_finite_are_left_out() -> None:
    tokens = torch.ones(2, 3, 4)
    tokens[0, 1] = torch.nan
    tokens[1, 2, 0] = -1.0
    found = UnitActivity("tokens")
    found.update(Batch({"tokens": tokens, "mask": torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()}))
    assert found.count == 4
    assert found.positive.tolist() == [3, 4, 4, 4]
    assert found.negative.tolist() == [1, 0, 0, 0]


def test_a_half_is_about_a_half_of_every_unit_and_does_not_depend_on_the_sample() -> None:
    found = activity(torch.ones(4000, 3))
    assert found.positive_half.tolist() == [found.half_count] * 3
    assert abs(found.half_count - 2000) < 4 * math.sqrt(1000)


def test_a_row_of_many_units_is_counted_to_the_last() -> None:
    found = activity(torch.ones(3, 65_536, dtype=torch.float16))
    assert found.positive.tolist() == [3] * 65_536
    assert (found.active_sum, found.active_squares) == (3 * 65_536, 3 * 65_536**2)


def test_nulls_of_equal_densities_are_what_simulation_gives() -> None:
    """N = 500 of F = 2,000 at L0 = 8: .1348 silent; N = 20,000: Gini .063."""
    rng = np.random.default_rng(0)
    codes = torch.tensor(rng.random((500, 2000)) < 8 / 2000).half()
    found = activity(codes)
    assert firing.silent_null(found) == pytest.approx(0.1348, abs=0.006)
    silent = float((found.positive == 0).double().mean())
    assert firing.silent_null(found) == pytest.approx(silent, abs=4 * math.sqrt(0.1348 * 0.8652 / 2000))
    found.count, found.active_sum = 20_000, 160_000
    counts = np.sort(rng.binomial(20_000, 8 / 2000, 2000))
    simulated = ((2 * np.arange(2000) - 1999) * counts).sum() / (2000 * counts.sum())
    # the Gini coefficient of 2,000 counts scatters by about its own 1/√(2F)
    assert firing.gini_null(found) == pytest.approx(simulated, rel=4 / math.sqrt(4000))
    assert firing.gini_null(found) == pytest.approx(0.063, abs=5e-4)


@pytest.mark.parametrize(("exponent", "expected"), [(0.0, 0.001), (0.5, 0.496), (1.0, 1.002), (1.5, 1.498)])
def test_the_exponent_of_a_rank_frequency_law_is_recovered(exponent: float, expected: float) -> None:
    """K = 1,024 and 2·10⁵ draws split into halves; the published values, of another seed, to their scatter."""
    rng = np.random.default_rng(1)
    law = np.arange(1, 1025, dtype=float) ** -exponent
    half = [torch.tensor(rng.multinomial(100_000, law / law.sum())) for _ in range(2)]
    found = firing.rank_frequency_exponent(*half)
    assert found == pytest.approx(expected, abs=0.015)


def test_the_exponent_maximises_the_likelihood() -> None:
    rng = np.random.default_rng(2)
    drawn = np.sort(rng.integers(0, 100, 50))[::-1].copy()
    counts, ranks = torch.tensor(drawn), np.log(np.arange(1, 51))

    def loss(s: float) -> float:
        return float(s * (drawn * ranks).sum() + drawn.sum() * np.log(np.exp(-s * ranks).sum()))

    best = optimize.minimize_scalar(loss, bounds=(0.0, 5.0), method="bounded", options={"xatol": 1e-10}).x
    assert firing.rank_frequency_exponent(counts, counts) == pytest.approx(best, abs=1e-6)


def test_a_law_that_rises_or_counts_nothing_has_exponent_0() -> None:
    rising = torch.arange(10)
    assert firing.rank_frequency_exponent(-rising, rising) == 0.0
    assert firing.rank_frequency_exponent(rising, torch.zeros(10, dtype=torch.int64)) == 0.0


def test_one_unit_that_has_it_all_has_the_steepest_law() -> None:
    counts = torch.tensor([0, 7, 0])
    assert firing.rank_frequency_exponent(counts, counts) == pytest.approx(64.0)


def test_histogram_holds_every_unit_that_fired() -> None:
    codes = torch.zeros(1000, 4)
    codes[0, 0] = codes[:, 1] = codes[:100, 2] = 1.0
    found = firing.density_histogram(activity(codes))
    centres = [centre for centre, units in zip(*found.values(), strict=True) if units]
    assert sum(found["units"]) == 3
    np.testing.assert_allclose(centres, [-3.0, -1.0, 0.0], atol=3.0 / 64)


def test_variance_ratio_is_missing_where_one_side_is() -> None:
    assert firing.state_variance_ratio(activity(torch.ones(5, 2), with_sums=True)) is None
    assert firing.state_variance_ratio(activity(torch.tensor([[1.0, -1.0]] * 5), with_sums=True)) is None
    x = torch.tensor([[1.0, -1.0], [3.0, -2.0]])
    assert firing.state_variance_ratio(activity(x, with_sums=True)) == pytest.approx(4.0)


@pytest.mark.parametrize(("text", "expected"), [("32", 32), ("", None), ("many", None), ("0", None), ("-3", None)])
def test_top_k_of_the_metadata(text: str, expected: int | None) -> None:
    assert firing.top_k({"top_k": text}) == expected
