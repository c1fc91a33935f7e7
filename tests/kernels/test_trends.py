"""Lines, tests of monotony and change points against SciPy, closed forms and the definition written out."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch

from collapse_cli.kernels import trends


def noise(series: int, members: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(series, members, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def steps(members: int) -> torch.Tensor:
    return torch.arange(members, dtype=torch.float64)


@pytest.mark.parametrize("members", [2, 3, 8, 21])
def test_slope_and_intercept_are_those_of_scipy(members: int) -> None:
    at = torch.cumsum(torch.rand(members, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1, 0)
    values = noise(20, members) + 0.3 * at
    found = trends.lines(values, at)
    for place in range(20):
        slope, _, _, _ = scipy.stats.theilslopes(values[place].numpy(), at.numpy())
        residuals = values[place].numpy() - slope * at.numpy()
        assert float(found.slope[place]) == pytest.approx(slope, rel=1e-12)
        assert float(found.intercept[place]) == pytest.approx(float(np.median(residuals)), rel=1e-12)
        scale = max(1.4826 * scipy.stats.median_abs_deviation(residuals), 1e-12)
        expected = abs(slope * (at[-1] - at[0]).item()) / scale if members > 2 else 1e6
        assert float(found.distance[place]) == pytest.approx(min(expected, 1e6), rel=1e-9)


def test_a_straight_line_and_a_constant_have_defined_distances() -> None:
    found = trends.lines(torch.stack((3.0 + 2.0 * steps(9), torch.full((9,), 0.1).double())), steps(9))
    assert found.slope.tolist() == [2.0, 0.0]
    assert found.distance.tolist() == [1e6, 0.0]


def plain(values: torch.Tensor) -> tuple[float, float]:
    """p and Z of one series that is short of memory by construction."""
    test = trends.monotony(values[None], steps(values.numel()), torch.zeros(1).double() + slope(values))
    assert float(test.correlation[0]) == 0.0
    return float(test.p[0]), float(test.z[0])


def slope(values: torch.Tensor) -> float:
    return float(scipy.stats.theilslopes(values.numpy())[0])


def test_eight_falling_values() -> None:
    p, z = plain(-steps(8))
    assert z == pytest.approx(-3.340, abs=5e-4)
    assert p == pytest.approx(2 / math.factorial(8), rel=1e-12)
    assert plain(-steps(5))[0] == pytest.approx(2 / 120, rel=1e-12)


def test_p_is_exact_for_different_values_and_tie_corrected_for_equal_ones() -> None:
    for seed in range(12):
        values = noise(1, 15, seed)[0]
        test = trends.monotony(values[None], steps(15), torch.tensor([slope(values)], dtype=torch.float64))
        if float(test.correlation[0]) == 0.0:
            expected = scipy.stats.kendalltau(np.arange(15), values.numpy(), method="exact").pvalue
            assert float(test.p[0]) == pytest.approx(expected, rel=1e-12)
    values = torch.tensor([1.0, 3, 2, 2, 5, 4, 4, 4, 6, 5]).double()
    score = sum(np.sign(b - a) for a, b in itertools.combinations(values.tolist(), 2))
    sizes = np.unique(values.numpy(), return_counts=True)[1]
    variance = (10 * 9 * 25 - sum(t * (t - 1) * (2 * t + 5) for t in sizes)) / 18
    p, z = plain(values)
    assert z == pytest.approx((score - 1) / math.sqrt(variance), rel=1e-12)
    assert p == pytest.approx(2 * scipy.stats.norm.sf(abs(z)), rel=1e-12)
    assert plain(torch.full((8,), 0.1).double()) == (1.0, 0.0)


def test_memory_is_taken_out() -> None:
    """One random walk, by the definition in NumPy."""
    values = noise(1, 20, 3).cumsum(1)[0]
    line = slope(values)
    centred = values.numpy() - line * np.arange(20)
    centred = centred - centred.mean()
    raw = (centred[1:] * centred[:-1]).sum() / (centred**2).sum()
    correlation = (20 * raw + 2) / 16
    assert correlation > 1.645 / math.sqrt(20)
    white = values.numpy()[1:] - min(correlation, 0.99) * values.numpy()[:-1]
    found = trends.monotony(values[None], steps(20), torch.tensor([line], dtype=torch.float64))
    assert float(found.correlation[0]) == pytest.approx(min(correlation, 0.99), rel=1e-9)
    expected = scipy.stats.kendalltau(np.arange(19), white, method="exact").pvalue
    assert float(found.p[0]) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("case", "expected", "tolerance"),
    [
        ("i.i.d.", 0.0025, 0.002),
        ("-0.2 a member", 0.80, 0.03),
        ("-0.4 a member", 0.995, 0.01),
        ("decay", 0.82, 0.03),
        ("walk", 0.17, 0.025),
    ],
)
def test_alarm_rates(case: str, expected: float, tolerance: float) -> None:
    x = noise(4000, 20)
    values = {
        "i.i.d.": x,
        "-0.2 a member": x - 0.2 * steps(20),
        "-0.4 a member": x - 0.4 * steps(20),
        "decay": torch.exp(-steps(10) / 3) + 0.02 * x[:, :10],
        "walk": x.cumsum(1),
    }[case]
    at = steps(values.shape[1])
    lines = trends.lines(values, at)
    p = trends.monotony(values, at, lines.slope).p
    assert float(((p < 0.01) & (lines.distance > 3)).double().mean()) == pytest.approx(expected, abs=tolerance)


def test_change_points_by_trying_every_split() -> None:
    values = noise(30, 12) + torch.where(steps(12) >= 7, 4.0, 0.0)
    values[0] = noise(1, 12, 9)[0]
    found = trends.change_points(values)
    for place, series in enumerate(values.numpy()):
        residual = {
            k: ((series[:k] - series[:k].mean()) ** 2).sum() + ((series[k:] - series[k:].mean()) ** 2).sum()
            for k in range(3, 10)
        }
        best = min(residual, key=residual.__getitem__)
        gain = 6 * math.log(((series - series.mean()) ** 2).sum() / residual[best]) - math.log(12)
        assert int(found.first[place]) == best
        assert float(found.gain[place]) == pytest.approx(gain, rel=1e-9)
        assert float(found.before[place]) == pytest.approx(series[:best].mean(), rel=1e-9, abs=1e-12)
        assert float(found.after[place]) == pytest.approx(series[best:].mean(), rel=1e-9, abs=1e-12)
    assert float((found.first[1:] == 7).double().mean()) > 0.8
    exact = trends.change_points(torch.tensor([[1.0] * 5 + [2.0] * 5, [3.0] * 10]).double())
    assert int(exact.first[0]) == 5
    assert float(exact.gain[0]) > 100
    assert float(exact.gain[1]) == pytest.approx(-math.log(10))


def test_adjusted_p_is_that_of_scipy() -> None:
    p = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    expected = scipy.stats.false_discovery_control(p.numpy())
    assert trends.adjusted(p).numpy() == pytest.approx(expected, rel=1e-12)
    assert trends.adjusted(torch.zeros(0).double()).numel() == 0
