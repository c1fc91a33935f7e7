"""Massive activations: planted entries, the Gaussian null, scipy's kurtosis, and torch's own lower median."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from collapse_cli.analyzers.tokens.massive_activations import massive_activations
from collapse_cli.core.metric import Measurement
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump
from tests.views import reasons


def _measured(roles: dict[str, torch.Tensor]) -> dict[str, Measurement]:
    analysis = analyse_dump(memory_dump(roles, metadata={}), [massive_activations])
    assert not analysis.failures
    return {measurement.metric: measurement for measurement in analysis.measurements}


def _skipped(roles: dict[str, torch.Tensor]) -> str:
    return " | ".join(reasons(analyse_dump(memory_dump(roles, metadata={}), [massive_activations]).skips))


@pytest.fixture(scope="module")
def gaussian() -> torch.Tensor:
    """10⁶ entries."""
    return torch.randn(125, 80, 100, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def of_gaussian(gaussian: torch.Tensor) -> dict[str, Measurement]:
    return _measured({"tokens": gaussian})


def test_gaussian_entries(of_gaussian: dict[str, Measurement], gaussian: torch.Tensor) -> None:
    ratio = of_gaussian["max_to_median"]
    low, high = stats.halfnorm.ppf(np.array([1e-3, 0.999]) ** 1e-6) / stats.halfnorm.median()
    assert low < ratio.value < high
    assert ratio.value == pytest.approx(7.43, abs=0.5)
    assert ratio.null == pytest.approx(7.25, abs=0.005)
    flat = gaussian.abs().flatten()
    # half a bucket
    assert ratio.value == pytest.approx(float(flat.max() / flat.median()), rel=1e-3)
    assert ratio.evidence["largest"] == float(flat.max())
    assert of_gaussian["massive_per_million"].value == of_gaussian["massive_channels"].value == 0.0
    assert of_gaussian["massive_energy"].value == 0.0
    assert of_gaussian["outlier_share"].null == pytest.approx(1.97e-9, rel=2e-3)
    assert of_gaussian["outlier_share"].value == 0.0
    # the median over 100 channels of 10⁴ entries each: sd √(24/10⁴)·√(π/2/100)
    assert of_gaussian["excess_kurtosis"].value == pytest.approx(0.0, abs=4 * 0.049 * 0.125)
    columns = stats.kurtosis(gaussian.double().numpy().reshape(-1, 100), axis=0)
    assert of_gaussian["excess_kurtosis"].value == pytest.approx(np.sort(columns)[49], rel=1e-8)


def test_the_null_at_ten_to_the_eighth() -> None:
    from collapse_cli.kernels.massive_entries import largest_null

    assert largest_null(10**6) == pytest.approx(7.25, abs=5e-3)
    assert largest_null(10**8) == pytest.approx(8.50, abs=5e-3)


def test_one_planted_entry(gaussian: torch.Tensor) -> None:
    tokens = gaussian.clone()
    tokens[17, 3, 41] = -2000.0
    found = _measured({"tokens": tokens})
    assert found["max_to_median"].value == pytest.approx(2000 / 0.6745, rel=3e-3)
    assert found["massive_per_million"].value == 1.0
    assert found["massive_channels"].value == 1
    assert found["massive_energy"].value == pytest.approx(4e6 / float(tokens.double().square().sum()), rel=1e-9)
    top = found["max_to_median"].evidence["top"]
    assert {k: top[0][k] for k in ("value", "row", "token", "channel")} == {
        "value": -2000.0,
        "row": 17,
        "token": 3,
        "channel": 41,
    }
    assert found["max_to_median"].evidence["float16_headroom"] == pytest.approx(math.log2(65504 / 2000))
    order = gaussian.abs().flatten().sort(descending=True).values
    assert [abs(entry["value"]) for entry in top[1:]] == order[:2].tolist()
    # one of 10⁴ entries of its channel, and beyond 6 sd of it: 2000/20 sd
    assert found["outlier_share"].value == pytest.approx(1e-6)


def test_a_bias_does_not_vary(gaussian: torch.Tensor) -> None:
    tokens = gaussian.clone()
    tokens[:, 0, 7] = 1500.0
    tokens[:, 1, 9] = torch.where(torch.arange(125).remainder(2) == 0, 1200.0, 1400.0)
    found = _measured({"tokens": tokens})
    assert found["massive_per_million"].value == 250
    assert found["massive_channels"].value == 2
    first = found["max_to_median"].evidence["top"][0]
    assert (first["token"], first["channel"], first["rows"], first["variation"]) == (0, 7, 125, 0.0)
    flipped = gaussian.clone()
    flipped[:, 1, 9] = torch.where(torch.arange(125).remainder(2) == 0, 1200.0, 1400.0)
    second = _measured({"tokens": flipped})["max_to_median"].evidence["top"][0]
    assert second["variation"] == pytest.approx(np.std([1200] * 63 + [1400] * 62) / (1200 * 63 + 1400 * 62) * 125)


def test_more_than_the_top_is_a_lower_bound() -> None:
    rows = torch.randn(2000, 50, generator=torch.Generator().manual_seed(1))
    rows[:, :3] += 5000.0
    found = _measured({"features": rows})["massive_per_million"]
    assert found.evidence["is_lower_bound"] is True
    assert found.value == 4096 / rows.numel() * 1e6
    few = rows.clone()
    few[1000:, :3] -= 5000.0
    exact = _measured({"features": few})["massive_per_million"]
    assert "is_lower_bound" not in exact.evidence
    assert exact.value == 3000 / rows.numel() * 1e6


def test_features_and_tokens_of_a_mask() -> None:
    tokens = torch.randn(60, 20, 16, generator=torch.Generator().manual_seed(2))
    mask = torch.arange(20)[None, :] < torch.arange(60)[:, None].remainder(8) + 12
    rows = tokens[mask]
    tokens[~mask] = torch.nan
    padded, flat = _measured({"tokens": tokens, "mask": mask}), _measured({"features": rows})
    assert {name: one.value for name, one in padded.items()} == {name: one.value for name, one in flat.items()}
    # outliers by definition
    tails = rows**3
    share = (tails - tails.mean(0)).abs() > 6 * tails.std(0, correction=0)
    assert _measured({"features": tails})["outlier_share"].value == pytest.approx(float(share.double().mean()))
    assert float(share.double().mean()) > 0.0


def test_degenerate_entries() -> None:
    assert "9984 finite entries < 10000" in _skipped({"features": torch.ones(208, 48)})
    zeros = _skipped({"features": torch.zeros(300, 48)})
    assert "max_to_median: more than half of the entries are zero (14400 of 14400)" in zeros
    assert "massive_energy: every entry is zero" in zeros
    assert "outlier_share, excess_kurtosis: no channel varies" in zeros
    constant = _measured({"features": torch.full((300, 48), 0.1)})
    assert constant["max_to_median"].value == 1.0
    sparse = torch.zeros(300, 48)
    sparse[:, 0] = torch.arange(300.0)
    found = _measured({"features": sparse})
    assert found["massive_per_million"].evidence["threshold"] == 100.0
    assert found["massive_per_million"].evidence["massive"] == 199
    extreme = torch.full((300, 48), 5e-324, dtype=torch.float64)
    extreme[0, 0] = 1e70
    assert "max_to_median" in _skipped({"features": extreme})
