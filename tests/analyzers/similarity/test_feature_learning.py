import math

import numpy as np
import pytest
import torch
from scipy.linalg import orth

from collapse_cli.analyzers.similarity.feature_learning import feature_learning
from collapse_cli.engine.comparison import Lineup, analyse_together
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump
from collapse_cli.sources.memory import memory_checkpoint
from collapse_cli.sources.paired import paired_dump
from tests.views import at, reasons, values


def of_dumps(x: np.ndarray, y: np.ndarray):  # type: ignore[no-untyped-def]
    pair = paired_dump(memory_dump({"features": x}, metadata={}), memory_dump({"features": y}, metadata={}))
    analysis = analyse_dump(pair, [feature_learning])
    assert not analysis.failures
    return analysis


def of_weights(a: torch.Tensor, b: torch.Tensor):  # type: ignore[no-untyped-def]
    members = tuple(memory_checkpoint({"fc1.weight": weight}) for weight in (a, b))
    analysis = analyse_together(Lineup("pair", members, ("A", "B")), [feature_learning])
    assert not analysis.failures
    return analysis


def test_unmoved_rotated_unrelated_and_lazy_features() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 1000, 20))
    assert values(of_dumps(x, x.copy()).measurements) == {"feature_change": 0, "kernel_change": pytest.approx(0)}
    turn = orth(rng.normal(size=(20, 20)))
    turned = values(of_dumps(x, x @ turn).measurements)
    assert turned["feature_change"] == pytest.approx(np.linalg.norm(x @ turn - x) / np.linalg.norm(x), rel=1e-9)
    assert turned["feature_change"] > 1
    assert turned["kernel_change"] == pytest.approx(0, abs=1e-9)
    other = values(of_dumps(x, y).measurements)
    assert other["feature_change"] == pytest.approx(math.sqrt(2), abs=0.02)
    assert other["kernel_change"] == pytest.approx(1, abs=0.02)
    lazy = values(of_dumps(x, x + 1e-3 * y).measurements)
    assert lazy["feature_change"] == pytest.approx(1e-3, rel=0.02)
    assert lazy["kernel_change"] < 1e-5


def test_the_null_is_that_of_rows_paired_at_random() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(800, 10)) + 3
    y = 2 * x + rng.normal(size=x.shape)
    null = at(of_dumps(x, y).measurements)["feature_change", "output"].null
    drawn = np.mean([np.linalg.norm(rng.permutation(y) - x) ** 2 for _ in range(200)])
    assert null == pytest.approx(math.sqrt(drawn) / np.linalg.norm(x), rel=1e-3)


def test_spectral_update_is_that_of_the_singular_values() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 60, 40, generator=generator, dtype=torch.float64)
    found = at(of_weights(a, a + 0.1 * b).measurements)["spectral_update", "fc1.weight"]
    expected = 0.1 * float(torch.linalg.svdvals(b)[0] / torch.linalg.svdvals(a)[0])
    assert found.value == pytest.approx(expected, rel=2e-3)
    assert not found.evidence["within_rounding"]
    recast = at(of_weights(a.float(), a.float().bfloat16()).measurements)["spectral_update", "fc1.weight"]
    assert recast.evidence["within_rounding"]
    assert values(of_weights(a, a.clone()).measurements)["spectral_update"] == 0


def test_what_cannot_be_had_is_skipped() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 6))
    assert reasons(of_dumps(x[:30], x[:30]).skips) == ["30 rows < 50"]
    assert "feature_change: width 6 → 4" in reasons(of_dumps(x, x[:, :4]).skips)
    assert reasons(of_dumps(x, x).skips) == []
    zero = of_weights(torch.zeros(8, 8), torch.ones(8, 8))
    assert "spectral_update: all zero at the start" in reasons(zero.skips)
    assert [s.site for s in zero.skips if "width_exponent" in s.reason] == ["#model"]


def test_rows_whose_labels_agree_by_chance_only_are_not_paired() -> None:
    rng = np.random.default_rng(3)
    x, labels = rng.normal(size=(300, 6)), rng.integers(0, 5, size=300)
    for other, is_paired in ((labels, True), (rng.permutation(labels), False)):
        dumps = [memory_dump({"features": x, "labels": y}, metadata={}) for y in (labels, other)]
        analysis = analyse_dump(paired_dump(*dumps), [feature_learning])
        assert not analysis.failures
        assert any("rows not paired" in reason for reason in reasons(analysis.skips)) is not is_paired
