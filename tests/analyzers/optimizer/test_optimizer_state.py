"""State of the optimizer: simulated Adam, tiny and absent gradients, other optimizers."""

from typing import Any

import pytest
import torch

from collapse_cli.analyzers.optimizer.optimizer_state import DEAD_MOMENT_SHARE, RMS_OVER_EPS, optimizer_state
from collapse_cli.core.site import Role
from collapse_cli.kernels.views import Block
from tests.views import at, block, reasons, values

SITE = "model.layers.0"
FACTS: dict[str, Any] = {"kind": "adam", "betas": [0.9, 0.999], "eps": 1e-8, "parameter": "fc.weight"}


def _adam(first: torch.Tensor, second: torch.Tensor, step: float = 3000.0, **facts: Any) -> Block:
    members = {Role.OPTIMIZER_M: first, Role.OPTIMIZER_V: second, Role.OPTIMIZER_STEP: torch.tensor(step)}
    return block(members, {**FACTS, **facts})


def _simulated(steps: int, *, constant: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Moments of Adam after gradients of unit variance."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.zeros(32, 64), torch.zeros(32, 64)
    for _ in range(steps):
        gradient = torch.ones(32, 64) if constant else torch.randn(32, 64, generator=generator)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
    return first, second


def test_pure_noise_after_three_thousand_steps() -> None:
    results = at(optimizer_state.run(_adam(*_simulated(3000))))
    assert results["eps_dominated_share", SITE].value == 0.0
    assert results["rms_over_eps", SITE].value == pytest.approx(8.0, abs=0.01)
    assert results["dead_moment_share", SITE].value == 0.0
    rms = results["update_rms", SITE]
    assert rms.null == pytest.approx(0.2294, abs=1e-4)
    assert rms.value == pytest.approx(0.2306, rel=0.03)
    rank = results["update_effective_rank", SITE]
    assert rank.value == pytest.approx(rank.null, rel=0.02)


def test_a_constant_gradient_moves_by_the_whole_rate_from_the_first_step() -> None:
    for steps in (1, 20):
        first, second = _simulated(steps, constant=True)
        results = values(optimizer_state.run(_adam(first, second, float(steps))))
        assert results["update_rms"] == pytest.approx(1.0, abs=1e-4)
        assert results["update_effective_rank"] == pytest.approx(1.0, abs=1e-6)
        assert results["rms_over_eps"] == pytest.approx(8.0, abs=1e-4)


def test_gradients_far_below_epsilon() -> None:
    # √v̂ = 1e-10 and ε = 1e-8: two decades below
    first = 1e-10 * torch.ones(32, 64)
    results = at(optimizer_state.run(_adam(first, torch.full((32, 64), 1e-20), 20000.0)))
    assert results["eps_dominated_share", SITE].value == 1.0
    measurement = results["rms_over_eps", SITE]
    assert measurement.value == pytest.approx(-2.0, abs=1e-5)
    assert results["update_rms", SITE].value == pytest.approx(1e-10 / 1.01e-8, rel=1e-5)
    assert RMS_OVER_EPS.warn is not None
    assert RMS_OVER_EPS.warn.is_crossed(measurement.value, None)
    text = RMS_OVER_EPS.message.format(value=measurement.value, null=None, bound=-1.0, **measurement.evidence)
    assert "10^-2 of ε = 1e-08 (1e-10)" in text


def test_untouched_rows_are_counted_and_no_finding() -> None:
    first, second = _simulated(50)
    first[4:12], second[4:12] = 0.0, 0.0
    dead = at(optimizer_state.run(_adam(first, second, 50.0)))["dead_moment_share", SITE]
    assert dead.value == 8 / 32
    assert (dead.evidence["dead_rows"], dead.evidence["first_dead_rows"]) == (8, list(range(4, 12)))
    assert DEAD_MOMENT_SHARE.error is not None
    assert not DEAD_MOMENT_SHARE.error.is_crossed(dead.value, 0.0)
    second[...] = 0.0
    dead = at(optimizer_state.run(_adam(first, second, 50.0)))["dead_moment_share", SITE]
    assert DEAD_MOMENT_SHARE.error.is_crossed(dead.value, 0.0)
    text = DEAD_MOMENT_SHARE.message.format(value=1.0, null=0.0, bound=1.0, **dead.evidence)
    assert "all 2048 entries after 50 steps" in text


def test_the_top_hundredth() -> None:
    second = torch.full((10, 40), 1.0)
    second[0, :4] = 99.0
    found = values(optimizer_state.run(_adam(torch.ones(10, 40), second)))
    assert found["moment_top_share"] == pytest.approx(0.5, rel=1e-9)


def test_vectors_have_no_rank_and_are_not_judged_against_epsilon() -> None:
    results = list(optimizer_state.run(_adam(torch.ones(128), torch.full((128,), 1e-24))))
    assert values(results)["eps_dominated_share"] == 1.0
    assert {reason.split(":")[0] for reason in reasons(results)} == {"rms_over_eps", "update_effective_rank"}


def test_what_the_file_does_not_say_is_assumed_and_said_so() -> None:
    first, second = _simulated(10, constant=True)
    members = {Role.OPTIMIZER_M: first, Role.OPTIMIZER_V: second}
    results = at(optimizer_state.run(block(members, {"kind": "adam"})))
    rms = results["update_rms", SITE]
    assert rms.evidence["assumed"] == ["betas", "eps", "no bias correction"]
    assert rms.value == pytest.approx((1 - 0.9**10) / (1 - 0.999**10) ** 0.5, rel=1e-3)
    stepped = at(optimizer_state.run(block(members, {"kind": "adam", "step": 10})))["update_rms", SITE]
    assert stepped.value == pytest.approx(1.0, abs=1e-4)


def test_lion_and_momentum_have_no_second_moment() -> None:
    results = list(optimizer_state.run(block({Role.OPTIMIZER_M: torch.ones(16, 16)}, {"kind": "lion"})))
    assert not values(results)
    assert reasons(results)[0].endswith("no second moment (lion)")
    assert "update_rms" in reasons(results)[0]


def test_adafactor_is_counted_but_its_update_is_not_adams() -> None:
    members = {Role.OPTIMIZER_V: torch.ones(16, 16)}
    results = list(optimizer_state.run(block(members, {"kind": "adafactor", "eps": (1e-30, 1e-3)})))
    assert set(values(results)) == {"dead_moment_share", "moment_top_share"}
    assert len(reasons(results)) == 2


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (torch.ones(4, 4), -torch.ones(4, 4), "negative entries"),
        (torch.ones(0, 4), torch.ones(0, 4), "empty second moment"),
        (torch.ones(4, 5), torch.ones(4, 4), "moments of shapes"),
    ],
    ids=["negative", "empty", "other shapes"],
)
def test_moments_that_are_none(first: torch.Tensor, second: torch.Tensor, reason: str) -> None:
    assert any(reason in said for said in reasons(optimizer_state.run(_adam(first, second))))


def test_an_epsilon_of_zero() -> None:
    results = list(optimizer_state.run(_adam(torch.zeros(16, 16), torch.zeros(16, 16), eps=0.0)))
    assert values(results)["update_rms"] == 0.0
    assert values(results)["eps_dominated_share"] == 1.0
    assert any(reason.startswith("rms_over_eps") for reason in reasons(results))


def test_only_adam_corrects_its_bias() -> None:
    """Ten steps of RMSprop: its running mean square is divided by nothing."""
    members = {Role.OPTIMIZER_V: torch.full((16, 16), 1e-12), Role.OPTIMIZER_STEP: torch.tensor(10.0)}
    results = list(optimizer_state.run(block(members, {"kind": "unknown", "eps": 1e-8})))
    assert values(results)["rms_over_eps"] == pytest.approx(2.0, abs=1e-5)
    assert any("not the moments of Adam" in reason for reason in reasons(results))
