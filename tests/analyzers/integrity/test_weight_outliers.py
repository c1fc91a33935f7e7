import math

import numpy as np
import pytest
import scipy.stats
import torch

from collapse_cli.analyzer import Example
from collapse_cli.analyzers.integrity.weight_outliers import weight_outliers
from tests.contract.examples import judged
from tests.views import at, reasons, values, weight

NAME = "encoder.layer.0.output.dense.weight"


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.tensor(np.random.default_rng(seed).standard_normal(shape), dtype=torch.float32)


def test_a_million_gaussian_entries() -> None:
    found = at(weight_outliers.run(weight(0.05 * draw(1000, 1000))))
    assert found["excess_kurtosis", "w"].value == pytest.approx(0.0, abs=0.015)  # three standard errors
    assert found["excess_kurtosis", "w"].evidence["standard_error"] == pytest.approx(math.sqrt(24e-6))
    assert found["max_over_rms", "w"].value == pytest.approx(4.9, abs=0.4)
    assert found["max_over_rms", "w"].null == pytest.approx(5.0, abs=0.02)
    assert found["max_over_p99", "w"].null == pytest.approx(5.0 / 2.576, abs=0.01)
    assert found["outlier_energy", "w"].value == pytest.approx(0.0126, abs=3e-4)
    assert found["outlier_energy", "w"].null == pytest.approx(0.0127, abs=1e-4)
    for metric in ("max_over_rms", "max_over_p99", "rtn4_error"):
        assert found[metric, "w"].value == pytest.approx(found[metric, "w"].null, rel=0.12), metric


def test_one_entry_of_a_thousand() -> None:
    tensor = draw(1000, 1000)
    tensor[5, 6] = 1000.0
    found = values(weight_outliers.run(weight(tensor)))
    assert found["excess_kurtosis"] == pytest.approx(2.50e5, rel=0.01)
    assert found["max_over_rms"] == pytest.approx(707, abs=1)
    assert found["outlier_energy"] == pytest.approx(0.506, abs=1e-3)
    assert found["max_over_p99"] == pytest.approx(1000 / 2.576, rel=0.01)
    metrics = {finding.measurement.metric for finding in judged(weight_outliers, Example({NAME: tensor})).findings}
    assert {"excess_kurtosis", "max_over_rms", "max_over_p99"} <= metrics


@pytest.mark.parametrize("degrees", [3, 5, 9])
def test_kurtosis_is_that_of_scipy(degrees: int) -> None:
    tensor = torch.tensor(np.random.default_rng(1).standard_t(degrees, (300, 300)))
    found = values(weight_outliers.run(weight(tensor)))["excess_kurtosis"]
    assert found == pytest.approx(scipy.stats.kurtosis(tensor.numpy().ravel(), bias=True), rel=1e-9)


def test_zeros_do_not_fake_outliers() -> None:
    tensor = draw(500, 500)
    tensor[torch.tensor(np.random.default_rng(1).random((500, 500)) < 0.75)] = 0.0
    assert scipy.stats.kurtosis(tensor.numpy().ravel()) == pytest.approx(9.0, abs=0.3)  # 3/ρ − 3 with ρ = ¼
    found = at(weight_outliers.run(weight(tensor)))["excess_kurtosis", "w"]
    assert found.value == pytest.approx(0.0, abs=0.06)
    assert found.evidence["zeros_left_out"]


@pytest.mark.parametrize(
    "tensor",
    [
        pytest.param(draw(64, 64), id="square"),
        pytest.param(torch.tensor(np.random.default_rng(2).standard_t(3, (512, 768)), dtype=torch.float32), id="t3"),
        pytest.param(
            torch.tensor(np.random.default_rng(2).laplace(size=(512, 768)), dtype=torch.float32), id="laplace"
        ),
        pytest.param(draw(512, 512) * torch.logspace(-1.5, 1.5, 512)[:, None], id="row scales over three decades"),
        pytest.param(draw(4096, 1), id="one column"),
        pytest.param(draw(1, 4096), id="one row"),
        pytest.param(draw(64, 32, 3, 3), id="convolution"),
    ],
)
def test_heavy_tails_as_trained_layers_have_them_are_silent(tensor: torch.Tensor) -> None:
    assert not judged(weight_outliers, Example({NAME: tensor})).findings


def test_constant_and_zero() -> None:
    found = list(weight_outliers.run(weight(torch.full((64, 64), 0.1))))
    assert reasons(found) == ["excess_kurtosis: every entry has the same value"]
    assert values(found)["max_over_rms"] == pytest.approx(1.0)
    assert values(found)["max_over_p99"] == pytest.approx(1.0, rel=1 / 64)
    assert values(found)["outlier_energy"] == pytest.approx(4 / 4096, rel=1e-6)
    assert values(found)["rtn4_error"] == pytest.approx(0.0, abs=1e-7)
    assert reasons(weight_outliers.run(weight(torch.zeros(64, 64)))) == ["every entry is zero"]


def test_every_message_can_be_said() -> None:
    one, diagonal = draw(1000, 1000), 0.027 * draw(1000, 1000)
    one[5, 6] = 1e5
    diagonal[torch.arange(1000), torch.arange(1000)] = 1.0
    findings = [f for tensor in (one, diagonal) for f in judged(weight_outliers, Example({NAME: tensor})).findings]
    judging = {metric.name for metric in weight_outliers.manual.metrics if metric.warn is not None}
    assert {finding.measurement.metric for finding in findings} == judging
    assert not any("{" in finding.message for finding in findings)


def test_short_rows_share_no_scale() -> None:
    assert "rtn4_error: 1 columns < 8" in reasons(weight_outliers.run(weight(draw(4096, 1))))[0]
