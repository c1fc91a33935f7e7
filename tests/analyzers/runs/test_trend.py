"""The trend of a run of reports: which series there are, how they are named, and what is found."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from collapse_cli.analyzers import catalogue
from collapse_cli.analyzers.runs.trend import SHOWN, trend
from collapse_cli.core.metric import Measurement
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import Coverage, Subject
from collapse_cli.core.site import Role, Site
from collapse_cli.engine.options import Analysis
from collapse_cli.engine.run import analyse_run
from collapse_cli.judge import judge
from collapse_cli.kernels.opposed_trends import RULES

MANUALS = [analyzer.manual for analyzer in catalogue(plugins=False).analyzers]
Columns = dict[tuple[str, str], Sequence[float | None]]


def subject(place: int, measurements: Sequence[Measurement]) -> Subject:
    sites = tuple(Site(name, (8, 8), "F32") for name in dict.fromkeys(m.site for m in measurements))
    return Subject(
        id=f"ckpt-{place}", path="", kind="checkpoint", format="memory", digest=None, bytes=0, status="complete",
        coverage=Coverage(1, 1, 1), sites=sites, measurements=tuple(measurements),
    )  # fmt: skip


def run(
    columns: Columns, members: int, *, null: float | None = None, steps: tuple[float, ...] = (), **metadata: Any
) -> Analysis:
    """A run in which the rule at the site has those values; None where a member lacks it."""
    subjects = [
        subject(
            place,
            [
                Measurement(*rule.split("/"), site, values[place], null)  # type: ignore[arg-type]
                for (site, rule), values in columns.items()
                if values[place] is not None
            ],
        )
        for place in range(members)
    ]
    said = tuple({key: str(values[place]) for key, values in metadata.items()} for place in range(members))
    at = steps or tuple(100.0 * (place + 1) for place in range(members))
    return analyse_run(subjects, MANUALS, [trend], steps=at, metadata=said)


def values(analysis: Analysis) -> dict[tuple[str, str], Measurement]:
    return {(m.metric, m.site): m for m in analysis.measurements}


def findings(analysis: Analysis) -> list[tuple[str, str, str]]:
    judged = judge(
        Subject("run", "", "run", "report", None, 0, "complete", Coverage(1, 1, 1), measurements=analysis.measurements),
        [trend.manual],
        Policy(),
    )
    return [(f.measurement.metric, f.measurement.site, f.message) for f in judged.findings]


RANK = "effective-rank/effective_rank_sigma"
WIGGLE = [0.01 * math.sin(2.3 * place * place) for place in range(40)]


def falling(first: float, slope: float, members: int = 10) -> list[float]:
    return [first + slope * place + WIGGLE[place] for place in range(members)]


def test_series_are_named_by_site_and_rule_and_lie_at_their_site() -> None:
    analysis = run({("a.weight", RANK): falling(50, -1)}, 10, null=60.0)
    found = values(analysis)
    name = f"a.weight#rule={RANK}"
    assert {site for _, site in found} == {name}
    assert [site.name for site in analysis.sites] == ["a.weight", "#run"]
    slope = found["slope", name]
    assert slope.value == pytest.approx(-0.01, rel=0.01)
    assert slope.evidence["step"] == [100.0 * place for place in range(1, 11)]
    assert slope.evidence["value"] == pytest.approx(falling(50, -1))
    assert found["trend_p", name].value < 0.01
    assert found["adverse_trend", name].value > 100
    assert found["decline_from_best", name].value == pytest.approx(9 / 50, rel=0.01)
    assert not findings(analysis)


def test_the_good_direction_is_not_adverse_and_metrics_without_direction_have_no_decline() -> None:
    energy = "effective-rank/energy_rank_90"  # neither a direction nor a limit
    entropy = "attention-entropy/entropy"  # a limit and no direction
    columns: Columns = {("a", RANK): falling(5, 1), ("a", energy): falling(5, 1), ("a", entropy): falling(5, 1)}
    found = values(run(columns, 10))
    assert found["adverse_trend", f"a#rule={RANK}"].value == 0
    assert found["decline_from_best", f"a#rule={RANK}"].value == 0
    assert ("slope", f"a#rule={energy}") not in found
    assert ("slope", f"a#rule={entropy}") in found
    assert ("decline_from_best", f"a#rule={entropy}") not in found


def test_a_run_of_seven_has_slopes_alone() -> None:
    analysis = run({("a", RANK): falling(50, -7, 7)}, 7, null=60.0)
    assert {m.metric for m in analysis.measurements} == {"slope"}
    assert [s.reason for s in analysis.skips] == ["everything but slope: run too short: 7 of 8"]


def test_a_limit_that_is_crossed_is_a_finding_with_the_step_since_when() -> None:
    """The error limit of dead rows is taken from its manual; the series is below it until step 600."""
    rule = "dead-units/dead_row_share"
    limit = next(m for m in MANUALS if m.name == "dead-units").metric("dead_row_share").error
    assert limit is not None
    low, high = limit.bound / 4, limit.bound * 1.5
    analysis = run({("a", rule): [low] * 5 + [high] * 5}, 10)
    found = values(analysis)["limit_approach", f"a#rule={rule}"]
    assert found.value == pytest.approx((1.5 - 0.25) / (1 - 0.25))
    assert found.evidence["beyond_since"] == 600
    ((metric, site, message),) = findings(analysis)
    assert (metric, site) == ("limit_approach", f"a#rule={rule}")
    assert "since step 600" in message
    kept = run({("a", rule): [low] * 5 + [limit.bound * 0.99] * 5}, 10)
    assert 0.9 < values(kept)["limit_approach", f"a#rule={rule}"].value < 1
    assert not findings(kept)
    # never sound: nothing was lost in this run
    assert ("limit_approach", f"a#rule={rule}") not in values(run({("a", rule): [high] * 5 + [2 * high] * 5}, 10))


def test_limits_against_the_null_and_the_crossing_of_the_line() -> None:
    limit = next(m for m in MANUALS if m.name == "effective-rank").metric("effective_rank_sigma").error
    assert limit is not None
    assert limit.of == "null"
    bound = limit.bound * 60.0
    line = [50 - (50 - bound) / 20 * place + 1e-6 * WIGGLE[place] for place in range(10)]
    found = values(run({("a", RANK): line}, 10, null=60.0))
    # the line starts at step 100 and meets the limit 20 members later
    assert found["crossing_step", f"a#rule={RANK}"].value == pytest.approx(2100, rel=1e-3)
    assert found["limit_approach", f"a#rule={RANK}"].value == pytest.approx(9 / 20, rel=1e-3)
    assert ("crossing_step", f"a#rule={RANK}") not in values(run({("a", RANK): falling(50, 1)}, 10, null=60.0))


def test_series_of_few_members_are_counted_and_gaps_are_said() -> None:
    columns: Columns = {
        ("whole", RANK): falling(50, -1),
        ("gap", RANK): [None, *falling(50, -1)[1:]],
        ("renamed", RANK): [None] * 7 + falling(50, -1)[7:],
        ("still", RANK): [3.0] * 10,
    }
    analysis = run(columns, 10)
    found = values(analysis)
    assert found["slope", f"gap#rule={RANK}"].evidence["members"] == "9 of 10"
    assert found["slope", f"gap#rule={RANK}"].evidence["step"][0] == 200
    assert ("slope", f"renamed#rule={RANK}") not in found
    assert ("renamed", "1 series in 3 of 10 members at most, fewer than 8") in {
        (s.site, s.reason) for s in analysis.skips
    }
    assert ("#run", "1 of 3 series do not move") in {(s.site, s.reason) for s in analysis.skips}


def test_p_is_adjusted_over_the_sites_of_a_metric() -> None:
    columns: Columns = {("a", RANK): falling(50, -1)} | {
        (f"s{place}", RANK): WIGGLE[place : place + 10] for place in range(9)
    }
    one = values(run({("a", RANK): falling(50, -1)}, 10))["trend_p", f"a#rule={RANK}"]
    ten = values(run(columns, 10))["trend_p", f"a#rule={RANK}"]
    assert one.evidence["unadjusted_p"] == ten.evidence["unadjusted_p"] == one.value
    assert ten.value == pytest.approx(10 * one.value)


def test_of_many_series_the_clearest_and_the_found_are_told() -> None:
    rule = "dead-units/dead_row_share"
    noise: Columns = {
        (f"s{place}", RANK): [math.sin(place * 1.7 + 2.1 * t * t) for t in range(8)] for place in range(SHOWN + 50)
    }
    analysis = run({**noise, ("late", rule): [0.0] * 7 + [1.0], ("steep", RANK): falling(50, -3, 8)}, 8)
    told = [m.site for m in analysis.measurements if m.metric == "slope"]
    assert len(told) == SHOWN
    assert {f"late#rule={rule}", f"steep#rule={RANK}"} <= set(told)
    assert f"52 of {SHOWN + 52:,} series, the least clear, are not told" in {s.reason for s in analysis.skips}


def test_the_rules_name_metrics_that_exist() -> None:
    there = {f"{manual.name}/{metric.name}" for manual in MANUALS for metric in manual.metrics}
    named = {rule for one in RULES for move in one.moves for rule, _ in move if not rule.startswith("metadata/")}
    assert named <= there
    assert len({rule.name for rule in RULES}) == len(RULES) == 9


Case = tuple[Columns, dict[str, list[float]]]


def pair(lead: str, other: str, *, rising: str = "") -> Case:
    """Two series of one site that fall, but the one that rises."""
    series = {rule: falling(0.1, 0.08) if rule == rising else falling(3, -0.2) for rule in (lead, other)}
    return {("l", rule): values for rule, values in series.items()}, {}


def beside_loss(lead: str, name: str, slope: float = -0.2) -> Case:
    """A measured series, and a loss that falls."""
    return {("l", lead): falling(5, slope)}, {name: falling(3, -0.2)}


CASES: dict[str, Callable[[], Case]] = {
    "rank down, loss down": lambda: beside_loss("rankme/rankme", "train_loss"),
    "kNN or probe down, loss down": lambda: beside_loss("layer-probe/knn_accuracy", "loss"),
    "new classes down, base classes up": lambda: (
        {},
        {"new_accuracy": falling(2, -0.1), "base-accuracy": falling(1, 0.2)},
    ),
    "largest logit up, loss down": lambda: beside_loss("logit-scale/max_logit", "val/loss", 1.0),
    "attention entropy down, norm of Q·K up": lambda: pair(
        "attention-entropy/entropy", "attention-entropy/entropy_floor"
    ),
    "load entropy or live units down, loss down": lambda: beside_loss("dead-latents/dead_share", "loss", 0.08),
    "pass@N down, confidence up": lambda: pair(
        "confidence/pass_at_n", "confidence/overconfidence", rising="confidence/overconfidence"
    ),
    "recall or spread down, precision up": lambda: pair(
        "precision-recall/recall", "precision-recall/precision", rising="precision-recall/precision"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rules_of_opposed_trends(name: str) -> None:
    columns, metadata = CASES[name]()
    analysis = run(columns, 10, **metadata)
    (found,) = [m for m in analysis.measurements if m.metric == "opposed_trend"]
    assert found.evidence["rule"] == name
    assert found.value > 3
    assert found.evidence["value_1"]
    assert ("opposed_trend", found.site) in {finding[:2] for finding in findings(analysis)}
    # the same moves one after the other reversed: no rule
    still = {key: list(reversed(series)) for key, series in columns.items()}
    turned = run(still, 10, **{key: list(reversed(series)) for key, series in metadata.items()})
    assert [m.value for m in turned.measurements if m.metric == "opposed_trend"] == [0.0]


def test_flat_accuracy_beside_a_growing_scale() -> None:
    rule = "logit-scale/logit_spread"
    followed = next(m for m in MANUALS if m.name == "logit-scale").metric("logit_spread")
    flat, rising = WIGGLE[:10], falling(0.1, 0.05)
    found = run({("l", rule): falling(1, 1)}, 10, val_accuracy=flat)
    opposed = [m.value for m in found.measurements if m.metric == "opposed_trend"]
    assert followed.better is None
    assert opposed
    assert opposed[0] > 3
    assert [
        m.value
        for m in run({("l", rule): falling(1, 1)}, 10, val_accuracy=rising).measurements
        if m.metric == "opposed_trend"
    ] == [0.0]


def test_a_long_run_has_curves_of_128_points_with_both_ends() -> None:
    series = [50.0 - place + math.sin(place) for place in range(300)]
    slope = values(run({("a", RANK): series}, 300))["slope", f"a#rule={RANK}"]
    assert len(slope.evidence["step"]) == len(slope.evidence["value"]) == 128
    assert (slope.evidence["step"][0], slope.evidence["step"][-1]) == (100.0, 30000.0)
    assert slope.evidence["value"][-1] == series[-1]


def test_steps_that_do_not_ascend_and_enormous_numbers() -> None:
    analysis = run({("a", RANK): falling(50, -1)}, 10, steps=(1.0,) * 10)
    assert [s.reason for s in analysis.skips] == ["the steps of the members do not ascend"]
    huge = run(
        {
            ("a", "power-law/alpha"): [(-1.0) ** place * 1e300 for place in range(10)],
            ("a", RANK): [1e-300 * place for place in range(10)],
        },
        10,
    )
    assert not huge.failures


def test_the_site_of_the_run_is_no_tensor() -> None:
    analysis = run({}, 8, train_loss=falling(3, -0.2))
    assert [(site.name, site.role) for site in analysis.sites] == [("#run", Role.OTHER)]
    assert ("slope", "#run#rule=metadata/train_loss") in values(analysis)
