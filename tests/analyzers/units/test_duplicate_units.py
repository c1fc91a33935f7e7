"""Planted copies are counted exactly; the null of the largest cosine is the published one."""

import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.units.duplicate_units import duplicate_units
from tests.views import at, reasons, values, weight


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def noisy_copies(noise: float) -> torch.Tensor:
    rows = gaussian(64, 256)
    return torch.cat((rows, rows + noise * gaussian(64, 256, seed=1)))


def test_healthy_matrix():
    found = at(duplicate_units.run(weight(gaussian(128, 256))))
    assert found["duplicate_share", "w"].value == found["opposite_share", "w"].value == 0.0
    assert found["mergeable_share", "w"].value == 0.0
    largest = found["max_cosine", "w"]
    assert largest.null == pytest.approx(0.227, abs=5e-4)
    assert largest.value == pytest.approx(0.23, abs=0.03)


@pytest.mark.parametrize(("noise", "most"), [(0.01, 1.0), (0.05, 0.1)])
def test_copies_with_noise(noise, most):
    """The cosine of a row with itself plus noise is 1/√(1 + noise²), .99995 and .9988; merging finds both."""
    rows = noisy_copies(noise)
    found = values(duplicate_units.run(weight(rows)))
    first, second = (half / np.linalg.norm(half, axis=1, keepdims=True) for half in np.split(rows.double().numpy(), 2))
    pairs = (first * second).sum(1)
    assert found["duplicate_share"] == (pairs >= 0.999).mean() <= most
    assert found["max_cosine"] == pytest.approx(pairs.max(), abs=1e-12)
    assert pairs.mean() == pytest.approx(1 / math.sqrt(1 + noise**2), abs=1e-4)
    assert found["mergeable_share"] == 0.5


def test_scale_does_not_hide_a_copy_and_a_mirror_image_is_no_copy():
    rows = gaussian(60, 32)
    rows[40:45] = 7.0 * rows[:5]
    rows[50:53] = -0.1 * rows[10:13]
    found = values(duplicate_units.run(weight(rows)))
    assert found["duplicate_share"] == pytest.approx(10 / 60)
    assert found["opposite_share"] == pytest.approx(6 / 60)


def test_dead_rows_are_left_out():
    rows = gaussian(60, 32)
    rows[:20] = 0.0
    rows[20:25] = 1e-7 * torch.ones(32)
    found = at(duplicate_units.run(weight(rows)))
    assert found["duplicate_share", "w"].value == 0.0
    assert found["duplicate_share", "w"].evidence["dead_rows"] == 25
    assert found["max_cosine", "w"].evidence["rows"] == 35


def test_one_direction_in_all_rows():
    rows = torch.linspace(1, 2, 40)[:, None] * torch.ones(40, 20)
    found = values(duplicate_units.run(weight(rows)))
    assert found["duplicate_share"] == 1.0
    assert found["max_cosine"] == pytest.approx(1.0, abs=1e-12)
    equal = values(duplicate_units.run(weight(torch.ones(40, 20))))
    assert equal["mergeable_share"] == pytest.approx(39 / 40)


def test_what_cannot_be_measured_is_said(monkeypatch):
    assert reasons(duplicate_units.run(weight(torch.zeros(20, 20)))) == ["0 rows with any strength < 16"]
    assert reasons(duplicate_units.run(weight(gaussian(32, 1, 7, 7)))) == ["one input channel per filter (depthwise)"]
    assert reasons(duplicate_units.run(weight(gaussian(8200, 16)))) == ["merging: 8200 rows > 8192"]


def test_every_message_can_be_filled():
    for result in duplicate_units.run(weight(noisy_copies(0.01))):
        metric = duplicate_units.manual.metric(result.metric)
        if metric.warn:
            text = metric.message.format(
                value=result.value, null=result.null, bound=metric.warn.bound, **result.evidence
            )
            assert "128 of 128" in text
