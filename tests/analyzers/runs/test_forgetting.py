"""Forgetting of a run of tasks, and unlearning, against tables, definitions and PyTorch's own divergence."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch.nn import functional

from collapse_cli.analyzers.runs.forgetting import forgetting
from collapse_cli.core.metric import Measurement
from collapse_cli.engine.dump_series import analyse_dump_series
from collapse_cli.engine.options import Options
from collapse_cli.kernels import retention
from collapse_cli.sources.dump import memory_dump

TABLE = [[0.9, 0.1, 0.1], [0.6, 0.9, 0.1], [0.5, 0.7, 0.9]]


def stages(table: Sequence[Sequence[float]], rows: int = 100) -> list[dict[str, torch.Tensor]]:
    """Members that answer the first so many rows of each task right; labels are classes 0…9."""
    tasks = len(table[0])
    labels, groups = torch.arange(rows * tasks) % 10, torch.arange(rows * tasks) // rows
    members = []
    for shares in table:
        is_right = torch.arange(rows).repeat(tasks) < (rows * torch.tensor(shares)[groups]).round()
        logits = functional.one_hot((labels + ~is_right) % 10, 10).float()
        members.append({"logits": logits, "labels": labels, "groups": groups + 5})
    return members


def run(members: Sequence[dict[str, Any]], *said: dict[str, str], batch: int = 4096) -> Any:
    dumps = [memory_dump(one, metadata=said[place] if said else {}) for place, one in enumerate(members)]
    return analyse_dump_series(
        dumps,
        [forgetting],
        Options(),
        labels=tuple(f"stage {place}" for place in range(len(dumps))),
        steps=tuple(10.0 * place for place in range(len(dumps))),
    )


def values(analysis: Any) -> dict[str, Measurement]:
    return {m.metric: m for m in analysis.measurements}


def test_the_table_of_three_tasks() -> None:
    found = values(run(stages(TABLE)))
    assert found["forgetting"].value == pytest.approx(0.30, abs=1e-12)
    assert found["backward_transfer"].value == pytest.approx(-0.30, abs=1e-12)
    assert found["forward_transfer"].value == pytest.approx(0.0, abs=1e-12)
    assert found["forgetting"].evidence["worst_task"] == 5
    assert found["forgetting"].evidence["accuracy"] == pytest.approx([0.5, 0.7, 0.9])


def test_nothing_is_lost_where_the_table_is_constant_below_the_diagonal() -> None:
    found = values(run(stages([[0.9, 0.1, 0.1], [0.9, 0.9, 0.1], [0.9, 0.9, 0.9]])))
    assert found["forgetting"].value == found["backward_transfer"].value == 0


def test_metadata_says_which_stage_taught_which_task() -> None:
    turned = [stages([row[::-1] for row in TABLE])[place] for place in range(3)]
    found = values(run(turned, {"task": "7"}, {"task": "6"}, {"task": "5"}))
    assert found["backward_transfer"].value == pytest.approx(-0.30, abs=1e-12)
    unmatched = run(stages([*TABLE, TABLE[-1]]))
    assert {m.metric for m in unmatched.measurements} == {"forgetting"}
    assert "3 tasks and 4 members do not match" in " ".join(s.reason for s in unmatched.skips)


def test_the_bias_of_the_best_of_several_is_that_of_binomials() -> None:
    rng = np.random.default_rng(0)
    for share, rows, count in ((0.5, 20, 4), (0.9, 100, 2), (0.2, 30, 9)):
        drawn = rng.binomial(rows, share, size=(200_000, count)).max(1).mean() / rows - share
        assert retention.maximisation_bias(share, rows, count) == pytest.approx(drawn, abs=1e-3)
        at = np.arange(rows + 1)
        exact = (1 - scipy.stats.binom.cdf(at, rows, share)[:-1] ** count).sum() / rows - share
        assert retention.maximisation_bias(share, rows, count) == pytest.approx(exact, rel=1e-9)
    assert retention.maximisation_bias(1.0, 20, 4) == retention.maximisation_bias(0.5, 20, 0) == 0
    assert retention.maximisation_bias(0.4, 50, 1) == pytest.approx(0, abs=1e-12)
    found = values(run(stages(TABLE)))["forgetting"]
    # the means of the stages that knew the task: (.9 + .6 + .5)/3 of two, (.9 + .7)/2 of one
    assert found.null == pytest.approx(retention.maximisation_bias(2 / 3, 100, 2) / 2, rel=1e-6)


def test_laws_of_retention() -> None:
    ages = list(range(8))
    power, exponential = [0.9 * (1 + age) ** -0.7 for age in ages], [0.9 * math.exp(-0.3 * age) for age in ages]
    assert retention.retention_advantage(ages, power, 1e-3) > 4
    assert retention.retention_advantage(ages, exponential, 1e-3) < -4

    def residual(at: list[float], shares: list[float]) -> float:
        return float(np.polyfit(at, np.log(shares), 1, full=True)[1][0])

    noisy = [share * (1 + 0.05 * math.sin(5 * age)) for age, share in zip(ages, power, strict=True)]
    logs = [math.log(1 + age) for age in ages]
    expected = 8 * math.log(residual([float(age) for age in ages], noisy) / residual(logs, noisy))
    assert retention.retention_advantage(ages, noisy, 1e-3) == pytest.approx(expected, rel=1e-9)
    table = [[0.9 * (1 + stage - task) ** -0.7 if task <= stage else 0.1 for task in range(6)] for stage in range(6)]
    law = values(run(stages(table, 1000)))["retention_law"]
    assert law.value > 4
    assert law.evidence["reads"] == "power law"
    assert "retention_law: run too short: 3 of 5" in {s.reason for s in run(stages(TABLE)).skips}


def unlearning(kept: float, forgotten: float, members: int = 7) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    start, noise = (torch.randn(200, 6, generator=generator, dtype=torch.float64) for _ in range(2))
    groups = torch.arange(200) % 4
    scale = torch.where(groups[:, None] == 2, forgotten, kept)
    return [{"logits": start + place * scale * noise, "groups": groups} for place in range(members)]


SAID = {"forget_groups": "2"}


def test_divergences_are_those_of_pytorch() -> None:
    members = unlearning(0.02, 0.3)
    found = values(run(members, *[SAID] * 7))
    first, last = members[0]["logits"].log_softmax(1), members[-1]["logits"].log_softmax(1)
    rows = functional.kl_div(last, first, log_target=True, reduction="none").sum(1)
    chosen = members[0]["groups"] == 2
    assert found["forget_kl"].value == pytest.approx(float(rows[chosen].mean()), rel=1e-9)
    assert found["retain_kl"].value == pytest.approx(float(rows[~chosen].mean()), rel=1e-9)
    assert found["collateral"].value == pytest.approx(float(rows[~chosen].mean() / rows[chosen].mean()), rel=1e-9)
    assert found["collateral"].value < 0.1
    assert found["forget_kl"].evidence["step"] == [10.0, 20.0, 30.0, 40.0, 50.0, 60.0]
    assert found["forget_kl"].evidence["by_step"][-1] == found["forget_kl"].value


def test_damage_without_aim_is_a_finding() -> None:
    members = unlearning(0.3, 0.3)
    members = [
        {**one, "logits": one["logits"][:4].repeat(50, 1), "groups": torch.arange(200) // 100 * 2} for one in members
    ]
    found = values(run(members, *[SAID] * 7))["collateral"]
    assert found.value == pytest.approx(1.0, rel=1e-9)
    warn = forgetting.manual.metric("collateral").warn
    assert warn is not None
    assert warn.is_crossed(1.0, 1.0)


def test_growth_of_the_divergence() -> None:
    steps = [1.0, 2, 3, 4, 5, 6]
    assert retention.growth_advantage(steps, [0.5 * step for step in steps]) < -4
    assert retention.growth_advantage(steps, [0.1 + math.log(step) for step in steps]) > 4
    assert values(run(unlearning(0.02, 0.3), *[SAID] * 7))["kl_growth"].evidence["members"] == 6


def test_tiny_divergences_keep_their_digits_and_masks_make_infinite_ones_a_skip() -> None:
    members = unlearning(0.0, 1e-7, 2)
    found = values(run(members, SAID, SAID))["forget_kl"].value
    chosen = members[0]["groups"] == 2
    p = members[0]["logits"][chosen].softmax(1)
    move = (members[1]["logits"] - members[0]["logits"])[chosen]
    # to second order half the variance of the move under p
    variance = (p * move.square()).sum(1) - (p * move).sum(1).square()
    assert found == pytest.approx(float(variance.mean() / 2), rel=1e-4)
    masked = [dict(one) for one in unlearning(0.1, 0.1, 2)]
    masked[1]["logits"] = masked[1]["logits"].index_fill(1, torch.tensor([3]), -torch.inf)
    assert "masked by −∞" in " ".join(s.reason for s in run(masked, SAID, SAID).skips)
    both = [
        dict(one, logits=one["logits"].index_fill(1, torch.tensor([3]), -torch.inf)) for one in unlearning(0.1, 0.3, 2)
    ]
    assert math.isfinite(values(run(both, SAID, SAID))["forget_kl"].value)


def test_what_does_not_apply_is_a_skip() -> None:
    def reasons(analysis: Any) -> str:
        return " ".join(s.reason for s in analysis.skips)

    assert "run too short: 1 of 2" in reasons(run(stages(TABLE)[:1]))
    assert "no labels" in reasons(run([{k: v for k, v in one.items() if k != "labels"} for one in stages(TABLE)]))
    assert "0 tasks with 20 labelled rows" in reasons(run(stages(TABLE, 10)))
    assert "no whole numbers" in reasons(run(unlearning(1, 1, 2), *[{"forget_groups": "all"}] * 2))
    assert "0 rows to forget or to keep" in reasons(run(unlearning(1, 1, 2), *[{"forget_groups": "9"}] * 2))
    shorter = unlearning(0.1, 0.1, 2)
    shorter[1] = {name: tensor[:150] for name, tensor in shorter[1].items()}
    assert "rows not paired: stage 0 and stage 1" in reasons(run(shorter, SAID, SAID))
    still = run(unlearning(0.0, 0.0, 2), SAID, SAID)
    assert "nothing moved where it should" in reasons(still)
    assert values(still)["forget_kl"].value == 0
