"""Planted dead gains, constant channels and unused statistics are counted exactly."""

import math

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.units.normalization_scale import normalization_scale
from collapse_cli.core.site import Role
from tests.views import at, block, reasons, values

NAME = "model.layers.0"


def batch_norm(**changes: torch.Tensor) -> dict[Role, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    members = {
        "gain": torch.ones(64),
        "bias": torch.zeros(64),
        "mean": torch.randn(64, generator=generator),
        "var": 0.5 + 1.5 * torch.rand(64, generator=generator),
        "count": torch.tensor([1000.0]),
    } | changes
    return {Role(f"norm.{name}"): tensor for name, tensor in members.items()}


def test_healthy_batch_norm():
    members = batch_norm()
    found = values(normalization_scale.run(block(members)))
    spread = found.pop("variance_spread")
    assert found == {
        "dead_gain_share": 0.0,
        "gain_max_ratio": 1.0,
        "constant_channel_share": 0.0,
        "unused_statistics": 0.0,
    }
    low, high = np.percentile(members[Role.NORM_VAR].double().numpy(), [1, 99])
    assert spread == pytest.approx(math.log10(high / low), rel=1e-9)
    assert spread == pytest.approx(0.6, abs=0.1)


def test_an_eighth_of_the_channels_off():
    members = batch_norm()
    members[Role.NORM_GAIN][:8] = -1e-6
    members[Role.NORM_VAR][:8] = 0.0
    found = values(normalization_scale.run(block(members)))
    assert found["dead_gain_share"] == found["constant_channel_share"] == 0.125
    assert found["gain_max_ratio"] == 1.0
    assert found["variance_spread"] > 30


def test_most_channels_off():
    gain = torch.full((64,), 1e-6)
    gain[5] = -2.0
    found = at(normalization_scale.run(block({Role.NORM_GAIN: gain, Role.NORM_BIAS: torch.zeros(64)})))
    assert found["dead_gain_share", NAME].value == pytest.approx(63 / 64)


def test_the_ratio_names_its_channel():
    gain = torch.ones(64)
    gain[17] = -40.0
    found = at(normalization_scale.run(block({Role.NORM_GAIN: gain})))
    ratio = found["gain_max_ratio", NAME]
    assert (ratio.value, ratio.evidence["channel"]) == (40.0, 17)


def test_a_stored_offset_is_added():
    stored = torch.zeros(64)
    stored[:4] = -1.0
    found = values(normalization_scale.run(block({Role.NORM_GAIN: stored}, {"norm_offset": 1.0})))
    assert found["dead_gain_share"] == pytest.approx(4 / 64)


UNTAKEN = {"mean": torch.zeros(64), "var": torch.ones(64)}


@pytest.mark.parametrize(
    ("changes", "expected", "reason"),
    [
        (UNTAKEN | {"bias": torch.full((64,), 0.01)}, 1.0, "mean 0, variance 1"),
        (UNTAKEN | {"gain": torch.linspace(0.9, 1.1, 64)}, 1.0, "mean 0, variance 1"),
        (UNTAKEN | {"gain": torch.linspace(0.9, 1.1, 64), "count": torch.tensor([0.0])}, 1.0, "no batch was counted"),
        ({"mean": torch.zeros(64)}, 0.0, "in use"),
        ({"var": torch.ones(64)}, 0.0, "in use"),
        # converted checkpoints hold statistics and a counter that nobody set
        ({"count": torch.tensor([0.0])}, 0.0, "in use"),
    ],
)
@pytest.mark.parametrize("counted", [True, False])
def test_unused_statistics(changes, expected, reason, counted):
    members = batch_norm(**changes)
    if not counted and "count" not in changes:
        del members[Role.NORM_COUNT]
    found = at(normalization_scale.run(block(members)))["unused_statistics", NAME]
    assert (found.value, found.evidence["reason"]) == (expected, reason)
    limit = normalization_scale.manual.metric("unused_statistics").warn
    assert limit.is_crossed(found.value, found.null) == bool(expected)


@pytest.mark.parametrize("gain", [torch.ones(64), torch.zeros(64), None])
def test_a_layer_that_is_all_as_initialised_was_not_trained(gain):
    members = batch_norm(**UNTAKEN, count=torch.tensor([0.0]))
    members[Role.NORM_GAIN] = gain
    if gain is None:
        del members[Role.NORM_GAIN], members[Role.NORM_BIAS]
    results = list(normalization_scale.run(block(members)))
    assert "unused_statistics" not in values(results)
    assert "unused_statistics: the whole layer is as initialised" in reasons(results)


def test_configured_epsilon():
    members = batch_norm()
    members[Role.NORM_VAR][:16] = 5e-4
    assert values(normalization_scale.run(block(members, {"eps": 1e-3})))["constant_channel_share"] == 0.25
    assert values(normalization_scale.run(block(members)))["constant_channel_share"] == 0.0


def test_gains_of_zero_are_dead_once_anything_has_moved():
    zero = torch.zeros(64)
    assert reasons(normalization_scale.run(block({Role.NORM_GAIN: zero, Role.NORM_BIAS: zero}))) == [
        "design: zero-initialised gain, nothing else of the layer has moved"
    ]
    moved = {Role.NORM_GAIN: zero, Role.NORM_BIAS: torch.ones(64)}
    assert values(normalization_scale.run(block(moved)))["dead_gain_share"] == 1.0
    found = values(normalization_scale.run(block(batch_norm(gain=zero))))
    assert (found["dead_gain_share"], found["gain_max_ratio"]) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("members", "facts", "reason"),
    [
        ({Role.NORM_GAIN: torch.ones(8)}, {}, "8 channels < 16"),
        ({Role.LAYER_SCALE: torch.ones(64)}, {}, "design: layer scale"),
        ({Role.NORM_BIAS: torch.ones(64)}, {}, "companion tensor missing: norm.gain"),
        ({Role.NORM_GAIN: torch.ones(64)}, {"skip": "why"}, "why"),
    ],
)
def test_what_does_not_apply_is_skipped(members, facts, reason):
    results = list(normalization_scale.run(block(members, facts)))
    assert (values(results), reasons(results)) == ({}, [reason])


def test_statistics_without_gain_are_measured():
    members = batch_norm()
    del members[Role.NORM_GAIN], members[Role.NORM_BIAS]
    assert "gain_max_ratio" not in values(normalization_scale.run(block(members)))
    assert values(normalization_scale.run(block(members)))["unused_statistics"] == 0.0


def test_every_message_can_be_filled():
    for result in normalization_scale.run(block(batch_norm())):
        metric = normalization_scale.manual.metric(result.metric)
        if metric.warn:
            assert metric.message.format(
                value=result.value, null=result.null, bound=metric.warn.bound, **result.evidence
            )
