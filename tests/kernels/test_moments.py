"""Moments of Adam: counts, the update against torch's own step, blocks against the whole."""

import math

import pytest
import torch

from collapse_cli.kernels import moments
from collapse_cli.kernels.moments import AdamSettings


def test_the_update_is_the_step_that_torch_takes() -> None:
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.zeros(12, 9, dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], lr=1.0, betas=(0.8, 0.95), eps=1e-3)
    for _ in range(5):
        before = parameter.detach().clone()
        parameter.grad = torch.randn(12, 9, generator=generator, dtype=torch.float64)
        optimizer.step()
    step = before - parameter.detach()
    state = optimizer.state[parameter]
    settings = AdamSettings((0.8, 0.95), 1e-3, 5)
    size, update = moments.adam_update(state["exp_avg"], state["exp_avg_sq"], settings)
    assert size == pytest.approx(float(step.square().mean().sqrt()), rel=1e-12)
    assert torch.allclose(update.double() * step.abs().max(), step, atol=1e-6)


def test_counts_shares_and_rows() -> None:
    second = torch.full((20, 10), 4e-6)
    second[3] = 0.0
    second[5, 5] = 0.0
    second[6:8] = 1e-20
    second[9, 0] = 1.0
    found = moments.second_moment(second, AdamSettings((0.9, 0.999), 1e-8, 0))
    assert found.dead == pytest.approx(11 / 200)
    assert found.dominated == pytest.approx(31 / 200)
    assert (found.dead_rows, found.first_dead_rows) == (1, (3,))
    assert found.median_root == pytest.approx(2e-3, rel=1e-6)
    assert found.top_share == pytest.approx((1.0 + 4e-6) / float(second.double().sum()), rel=1e-6)


def test_bias_correction_of_a_young_state() -> None:
    # one step of gradient g leaves v = (1 − β₂)g², of which √v̂ is |g|
    settings = AdamSettings((0.9, 0.999), 1e-8, 1)
    found = moments.second_moment(torch.full((4, 4), 0.001 * 9e-16), settings)
    assert found.median_root == pytest.approx(3e-8, rel=1e-5)
    assert found.dominated == 0.0
    assert moments.second_moment(torch.full((4, 4), 0.001 * 0.9e-16), settings).dominated == 1.0


def test_blocks_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    first = torch.randn(30, 7, generator=generator)
    second = torch.rand(30, 7, generator=generator)
    settings = AdamSettings((0.9, 0.999), 1e-8, 50)
    whole = moments.second_moment(second, settings), moments.adam_update(first, second, settings)
    monkeypatch.setattr(moments, "_BLOCK_ENTRIES", 32)
    parts = moments.second_moment(second, settings), moments.adam_update(first, second, settings)
    assert parts[0].median_root == whole[0].median_root
    assert parts[0].top_share == pytest.approx(whole[0].top_share, rel=1e-12)
    assert parts[1][0] == pytest.approx(whole[1][0], rel=1e-12)
    assert torch.equal(parts[1][1], whole[1][1])


def test_no_denominator_no_update() -> None:
    size, update = moments.adam_update(torch.zeros(8, 8), torch.zeros(8, 8), AdamSettings((0.9, 0.999), 0.0, 3))
    assert size == 0.0
    assert moments.update_rank(update) == 0.0


def test_update_rank_of_equal_directions() -> None:
    update = torch.zeros(10, 12)
    update[range(4), range(4)] = 0.5
    assert moments.update_rank(update) == pytest.approx(4.0, rel=1e-9)
    update[0, 0] = 1.0
    shares = [4 / 7, 1 / 7, 1 / 7, 1 / 7]
    assert moments.update_rank(update) == pytest.approx(math.exp(-sum(s * math.log(s) for s in shares)), rel=1e-9)
