import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from collapse_cli.analyzers.logits.logit_scale import logit_scale
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump
from tests.views import at, reasons, values


def analysed(*logits: torch.Tensor):  # type: ignore[no-untyped-def]
    analysis = analyse_dump(memory_dump(*({"logits": part} for part in logits), metadata={}), [logit_scale])
    assert not analysis.failures
    return analysis


def test_zero_logits_are_log_c_and_diverged_ones_their_level() -> None:
    zero = at(analysed(torch.zeros(100, 1000)).measurements)
    assert zero["log_z_mean", "output"].value == pytest.approx(6.9078, abs=5e-5)
    assert zero["log_z_mean", "output"].null == pytest.approx(math.log(1000), rel=1e-12)
    assert zero["log_z_rms", "output"].null == pytest.approx(math.log(1000), rel=1e-12)
    found = values(analysed(torch.full((100, 1000), -50.0)).measurements)
    assert found["log_z_mean"] == pytest.approx(-43.09, abs=0.005)
    assert found["log_z_rms"] == pytest.approx(43.09, abs=0.005)
    assert (found["max_logit"], found["logit_spread"], found["top_margin"]) == (50.0, 0.0, 0.0)


def test_random_rows_agree_with_scipy() -> None:
    logits = 2.0 * torch.randn(301, 40, generator=torch.Generator().manual_seed(0)) + 5.0
    found = at(analysed(logits).measurements)
    rows = logits.double().numpy()
    log_z = logsumexp(rows, 1)
    assert found["log_z_mean", "output"].value == pytest.approx(log_z.mean(), rel=1e-12)
    assert found["log_z_rms", "output"].value == pytest.approx(np.sqrt((log_z**2).mean()), rel=1e-12)
    assert found["log_z_mean", "output"].evidence["z_loss"] == pytest.approx(1e-4 * (log_z**2).mean(), rel=1e-12)
    assert found["max_logit", "output"].value == np.abs(rows).max()
    assert found["logit_spread", "output"].value == pytest.approx(np.median(rows.std(1)), rel=1e-3)
    ordered = np.sort(rows, 1)
    assert found["top_margin", "output"].value == pytest.approx(np.median(ordered[:, -1] - ordered[:, -2]), rel=1e-3)


def test_gaussian_logits_stand_at_their_null() -> None:
    # log C + s²/2 = 12.82; a row of 50,000 has a standard deviation of √(e⁴/50,000) = .033 about it
    logits = 2.0 * torch.randn(100, 50_000, generator=torch.Generator().manual_seed(1))
    found = at(analysed(logits).measurements)["log_z_mean", "output"]
    assert found.value == pytest.approx(12.82, abs=0.03)
    assert found.evidence["gaussian_log_z"] == pytest.approx(12.82, abs=0.02)


def test_masked_classes_are_no_logits() -> None:
    logits = torch.zeros(120, 8)
    logits[:, 5:] = -torch.inf
    logits[:10, 1:] = -torch.inf
    logits[10] = torch.nan
    found = at(analysed(logits).measurements)
    first = found["log_z_mean", "output"]
    assert first.value == pytest.approx(math.log(5), rel=1e-12)
    assert first.null == pytest.approx(math.log(5), rel=1e-12)
    assert (first.evidence["rows"], first.evidence["short_rows"], first.evidence["masked"]) == (109, 10, 327)
    assert found["max_logit", "output"].value == 0.0


@pytest.mark.parametrize("logits", [torch.zeros(99, 4), torch.zeros(500, 1), torch.full((500, 4), torch.nan)])
def test_too_few_rows_are_said(logits: torch.Tensor) -> None:
    analysis = analysed(logits)
    assert not analysis.measurements
    assert "< 100" in reasons(analysis.skips)[0]


def test_streamed_and_whole_agree() -> None:
    logits = torch.randn(300, 6, generator=torch.Generator().manual_seed(2))
    whole = values(analysed(logits).measurements)
    assert values(analysed(logits[:77], logits[77:]).measurements) == pytest.approx(whole, rel=1e-12)
