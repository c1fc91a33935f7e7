import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.spectrum.power_law import power_law
from collapse_cli.kernels import spectrum
from tests.views import at, reasons, values, weight


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape))


def test_weightwatchers_figures() -> None:
    matrix = torch.tensor((0.05 * np.random.default_rng(0).standard_normal((256, 512))).astype(np.float32))
    found = values(power_law.run(weight(matrix)))
    expected = {
        "alpha": 5.214132,
        "ks_distance": 0.128721,
        "xmin": 2.112570,
        "alpha_sigma": 0.573471,
        "tail_count": 54,
        "alpha_weighted": 2.915723,
        "log_alpha_norm": 4.138849,
    }
    assert {metric: found[metric] for metric in expected} == pytest.approx(expected, abs=1e-6)
    assert set(found) == {*expected, "alpha_hill"}


def test_convolution_is_measured_in_slices_and_folded() -> None:
    kernel = torch.tensor((0.1 * _second_draw()).astype(np.float32))
    found = at(power_law.run(weight(kernel, "conv")))
    assert found["alpha", "conv"].value == pytest.approx(8.543733, abs=1e-6)
    assert found["alpha", "conv"].evidence["slices"] == 9
    folded = values(power_law.run(weight(kernel.reshape(64, -1))))
    assert found["alpha", "conv#folded"].value == pytest.approx(folded["alpha"], rel=1e-12)


def _second_draw() -> np.ndarray:
    generator = np.random.default_rng(3)
    generator.standard_normal((16, 40))
    return generator.standard_normal((64, 32, 3, 3))


def test_small_samples_take_weightwatchers_other_branch() -> None:
    matrix = torch.tensor(np.random.default_rng(3).standard_normal((16, 40)).astype(np.float32))
    assert values(power_law.run(weight(matrix)))["alpha"] == pytest.approx(2.745088, abs=1e-6)


def test_exact_law_has_its_exponent() -> None:
    u = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    found = values(power_law.run(weight(torch.diag((1 - u) ** -0.25))))
    assert found["alpha"] == pytest.approx(3.0017, abs=5e-5)
    assert found["alpha_hill"] == pytest.approx(2.999, abs=1e-3)
    assert found["tail_count"] == 1000
    assert found["alpha_sigma"] == pytest.approx((found["alpha"] - 1) / math.sqrt(1000), rel=1e-12)


def test_what_has_no_tail_is_skipped() -> None:
    low = (gaussian(128, 8) @ gaussian(8, 256, seed=1)).bfloat16()
    for view, reason in [
        (weight(low), "the tail is rounding"),
        (weight(torch.full((16, 16), 0.2)), "the tail is rounding"),
        (weight(torch.zeros(16, 16)), "the tail is rounding"),
        (weight(torch.linalg.qr(gaussian(64, 64)).Q.float()), "no tail"),
        (weight(gaussian(64, 64) * 1e-5), "0 eigenvalues above 1e-5, needs 8"),
    ]:
        results = list(power_law.run(view))
        assert values(results) == {}
        assert len(reasons(results)) == 1
        assert reason in reasons(results)[0]
        assert "alpha_hill" in reasons(results)[0]


def test_beyond_the_exact_spectrum_it_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrum, "MAX_EXACT_SIDE", 64)
    results = list(power_law.run(weight(gaussian(80, 120))))
    assert values(results) == {}
    assert "no exact spectrum" in reasons(results)[0]


def test_nothing_is_ever_judged() -> None:
    assert all(metric.warn is None and metric.error is None for metric in power_law.manual.metrics)
