"""Planted dead units are counted exactly, on every side of a chain."""

import pytest
import torch

from collapse_cli.analyzers.units.dead_units import dead_units
from collapse_cli.core.site import Role
from tests.views import at, block, reasons, values, weight


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_healthy_matrix():
    found = values(dead_units.run(weight(gaussian(256, 512))))
    assert found["dead_row_share"] == found["dead_column_share"] == 0.0
    assert found["strength_gini"] == pytest.approx(0.0176, rel=0.1)  # 1/√(2π·512), 256 rows


def test_a_tenth_of_the_rows_at_a_millionth():
    matrix = gaussian(256, 512)
    matrix[10:36] *= 1e-6
    matrix[:, 3] = 0.0
    found = at(dead_units.run(weight(matrix)))
    rows = found["dead_row_share", "w"]
    assert rows.value == pytest.approx(26 / 256)
    assert rows.evidence["first"] == list(range(10, 18))
    assert found["dead_column_share", "w"].value == pytest.approx(1 / 512)


def test_a_convolution_is_read_by_channel():
    kernel = gaussian(32, 20, 3, 3)
    kernel[:, :, 1:, :] = 0.0  # causal: two rows of taps are masked
    kernel[:, 4] = 0.0
    dead = at(dead_units.run(weight(kernel, role=Role.CONV)))["dead_column_share", "w"]
    assert (dead.value, dead.evidence["columns"], dead.evidence["first"]) == (1 / 20, 20, [4])
    few = list(dead_units.run(weight(gaussian(32, 3, 7, 7), role=Role.CONV)))
    assert "dead_column_share" not in values(few)
    assert reasons(few) == ["dead_column_share: 3 input channels < 16"]


def test_of_a_head_only_the_columns_are_judged():
    found = values(dead_units.run(weight(gaussian(32, 64), role=Role.HEAD)))
    assert set(found) == {"dead_column_share"}


def test_an_all_zero_matrix_is_dead():
    found = values(dead_units.run(weight(torch.zeros(16, 20))))
    assert found == {"dead_row_share": 1.0, "dead_column_share": 1.0, "strength_gini": 0.0}


def test_depthwise_filters_are_skipped():
    assert reasons(dead_units.run(weight(gaussian(32, 1, 7, 7)))) == ["one input channel per filter (depthwise)"]


def test_gated_mlp_counts_each_side_and_their_union():
    up, gate, down = gaussian(64, 32), gaussian(64, 32, seed=1), gaussian(32, 64, seed=2)
    up[0:4] *= 1e-5
    gate[2:7] *= 1e-5
    down[:, 20:22] *= 1e-5
    found = at(dead_units.run(block({Role.MLP_IN: up, Role.MLP_GATE: gate, Role.MLP_OUT: down}, name="mlp")))
    dead = found["dead_unit_share", "mlp"]
    assert dead.value == pytest.approx(9 / 64)
    assert (dead.evidence["dead_in"], dead.evidence["dead_gate"], dead.evidence["dead_out"]) == (4, 5, 2)
    assert found["constant_unit_share", "mlp"].value == 0.0


def test_a_dead_unit_with_a_living_bias_is_constant():
    first, second, bias = gaussian(64, 32), gaussian(16, 64, seed=1), gaussian(64, seed=2)
    first[:6] = 0.0
    bias[4:6] = 0.0
    found = values(dead_units.run(block({Role.LINEAR: (first, second), Role.LINEAR_BIAS: bias})))
    assert found["dead_unit_share"] == pytest.approx(6 / 64)
    assert found["constant_unit_share"] == pytest.approx(4 / 64)


def test_a_linear_layer_may_end_in_a_head():
    second = gaussian(10, 64)
    second[:, :3] = 0.0
    found = values(dead_units.run(block({Role.LINEAR: gaussian(64, 32), Role.HEAD: second})))
    assert found["dead_unit_share"] == pytest.approx(3 / 64)


def test_convolutions_are_read_by_channel_and_the_batch_norm_is_folded_in():
    first, second = gaussian(32, 16, 3, 3), gaussian(24, 32, 3, 3, seed=1)
    gain, variance, shift = torch.ones(32), torch.ones(32), torch.ones(32)
    gain[:3] = 0.0  # alive weights behind a gain of zero
    first[8] *= 1e-6
    variance[8] = 1e-12  # the norm cannot bring it back: ε is larger than its variance
    second[:, 30] = 0.0
    first[12] *= 1e-4
    variance[12] = 1e-3  # 1e-4/√1e-3: about 1/300 of the median, alive
    roles = {Role.CONV: (first, second), Role.NORM_GAIN: gain, Role.NORM_VAR: variance, Role.NORM_BIAS: shift}
    found = at(dead_units.run(block(roles, name="conv")))
    dead = found["dead_unit_share", "conv"]
    assert (dead.evidence["dead_in"], dead.evidence["dead_out"], dead.evidence["first"]) == (4, 1, [0, 1, 2, 8, 30])
    assert found["constant_unit_share", "conv"].value == pytest.approx(4 / 32)


@pytest.mark.parametrize(
    ("roles", "reason"),
    [
        ({Role.MLP_IN: gaussian(64, 32)}, "companion tensor missing: mlp.out"),
        ({Role.MLP_OUT: gaussian(64, 32)}, "companion tensor missing: mlp.in"),
        ({Role.LINEAR: gaussian(64, 32)}, "companion tensor missing: the next layer"),
        ({Role.LINEAR: (gaussian(64, 32), gaussian(10, 60))}, "64 units, but the next layer reads 60"),
        ({Role.LINEAR: (gaussian(8, 32), gaussian(10, 8))}, "8 units < 16"),
        ({Role.CONV: (gaussian(32, 16, 3, 3), gaussian(32, 1, 3, 3))}, "one input channel per filter (depthwise)"),
    ],
)
def test_chains_that_cannot_be_followed_are_skipped_with_a_reason(roles, reason):
    assert reasons(dead_units.run(block(roles))) == [reason]


def test_a_flattened_convolution_is_read_through_all_its_places():
    second = gaussian(20, 32 * 4)
    second[:, 8:12] = 0.0  # the four places of channel 2
    found = at(dead_units.run(block({Role.CONV: gaussian(32, 16, 3, 3), Role.HEAD: second}, name="conv")))
    assert found["dead_unit_share", "conv"].evidence["first"] == [2]


def test_a_reason_among_the_facts_is_passed_on():
    assert reasons(dead_units.run(block({Role.MLP_IN: gaussian(64, 32)}, {"skip": "why"}))) == ["why"]


def test_every_message_can_be_filled():
    results = list(dead_units.run(weight(gaussian(32, 32))))
    results += list(dead_units.run(block({Role.MLP_IN: gaussian(32, 16), Role.MLP_OUT: gaussian(16, 32)})))
    for result in results:
        metric = dead_units.manual.metric(result.metric)
        if metric.warn:
            assert metric.message.format(
                value=result.value, null=result.null, bound=metric.warn.bound, **result.evidence
            )
