"""What got worse since a release: direction, tolerance, noise; and what could not be compared."""

from dataclasses import replace

import pytest

from collapse_cli.core.finding import Severity
from collapse_cli.core.manual import Confidence, Manual
from collapse_cli.core.metric import Limit, Measurement, Metric
from collapse_cli.core.policy import Allowance, Comparison, Policy
from collapse_cli.core.report import Subject
from collapse_cli.judge import judge
from collapse_cli.regression import Release, counterparts, regressed, remarks
from tests.reports import report, subject

UP = Metric("value", "1", "The value.", better="higher")


def manual(metric: Metric = UP, confidence: Confidence = "established") -> Manual:
    return Manual("probe", "probe", "t", confidence, "x", (metric,), "try this", ())


def measured(value: float, site: str = "w", **evidence: object) -> Measurement:
    return replace(UP.at(site, value, **evidence), analyzer="probe")


def changes(
    old: Measurement,
    new: Measurement,
    *,
    metric: Metric = UP,
    confidence: Confidence = "established",
    policy: Policy = Policy(),
) -> Subject:
    manuals = [manual(metric, confidence)]
    before, now = subject(measurements=(old,)), judge(subject(measurements=(new,)), manuals, policy)
    return regressed(now, before, manuals, policy, release="v1.json")


def is_regressed(old: float, new: float, *, metric: Metric = UP, policy: Policy = Policy(), **evidence: object) -> bool:
    found = changes(measured(old, **evidence), measured(new, **evidence), metric=metric, policy=policy).findings
    return any("regressed" in one.message for one in found)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (0.8, 0.8, False),
        (0.8, 0.77, False),
        (0.8, 0.75, True),
        (0.8, 9.0, False),
        (-0.8, -0.83, False),
        (-0.8, -0.85, True),
        (0.0, -0.04, False),
        (0.0, -0.06, True),
    ],
)
def test_higher_is_better_and_five_percent_are_allowed(old: float, new: float, expected: bool) -> None:
    assert is_regressed(old, new) is expected
    lower = replace(UP, better="lower")
    assert is_regressed(-old, -new, metric=lower) is expected


BELOW, ABOVE = Limit("below", -100.0, "x"), Limit("above", 100.0, "x")
BOUND = replace(ABOVE, intent=frozenset({"classifier"}))


@pytest.mark.parametrize(
    ("metric", "intent", "expected"),
    [
        (replace(UP, better=None), None, (False, False)),
        (replace(UP, better=None, warn=BELOW), None, (True, False)),
        (replace(UP, better=None, error=ABOVE), None, (False, True)),
        (replace(UP, better="higher", error=ABOVE), None, (True, False)),
        (replace(UP, better=None, error=BOUND), None, (False, False)),
        (replace(UP, better=None, error=BOUND), "generative", (False, False)),
        (replace(UP, better=None, error=BOUND), "classifier", (False, True)),
    ],
)
def test_the_direction_is_the_metrics_or_the_limits_for_its_intent(
    metric: Metric, intent: str | None, expected: tuple[bool, bool]
) -> None:
    policy = Policy(intent=intent)
    found = is_regressed(1.0, 0.5, metric=metric, policy=policy), is_regressed(1.0, 1.5, metric=metric, policy=policy)
    assert found == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    # a change of 0.2 against 2·√2·s: s = 0.0707 is the edge
    [(0.0, True), (0.0700, True), (0.0715, False), (1.0, False), ("0.5", True), (None, True), (-1.0, True)],
)
def test_a_change_within_two_standard_errors_of_the_difference_is_noise(error: object, expected: bool) -> None:
    assert is_regressed(1.0, 0.8, standard_error=error) is expected


def test_both_errors_count_and_one_alone_is_none() -> None:
    one, other = measured(1.0, standard_error=0.03), measured(0.8, standard_error=0.09)
    # 2·√(0.03² + 0.09²) = 0.1897 < 0.2
    assert changes(one, other).findings
    assert not changes(one, measured(0.8, standard_error=0.096)).findings
    assert changes(one, measured(0.8)).findings


def test_a_metric_in_standard_errors_has_an_error_of_one_whatever_else_is_stated() -> None:
    z = replace(UP, unit="standard errors")
    assert not is_regressed(9.0, 6.3, metric=z, standard_error=1e-3)
    assert is_regressed(9.0, 6.0, metric=z, standard_error=1e3)


def test_a_rule_may_have_its_own_tolerance_or_none() -> None:
    def with_rules(*rules: Allowance, tolerance: float = 0.05) -> bool:
        return is_regressed(1.0, 0.8, policy=Policy(comparison=Comparison(tolerance, rules)))

    assert with_rules()
    assert not with_rules(tolerance=0.25)
    assert not with_rules(Allowance("probe/*", 0.3))
    assert not with_rules(Allowance("probe/value", False))
    assert with_rules(Allowance("probe/value", False, ("v*",)))
    assert with_rules(Allowance("probe/*", False), Allowance("probe/value", 0.1, ("w",))), "later entries win"


def test_a_regression_is_a_finding_with_the_old_value_the_bound_and_the_remedy() -> None:
    found = changes(measured(0.42), measured(0.3)).findings[0]
    assert found.message == "The value: regressed: 0.42 in v1.json, now 0.3."
    assert (found.severity, found.remedy) == (Severity.ERROR, "try this")
    assert found.limit == Limit("below", 0.399, "0.42 in v1.json, tolerance 0.05")
    assert changes(measured(0.42), measured(0.3), confidence="experimental").findings[0].severity is Severity.WARNING
    close = changes(measured(0.42), measured(0.4199999), policy=Policy(comparison=Comparison(0.0))).findings[0]
    assert close.limit.is_crossed(0.4199999, None), "a rounded bound is still crossed"
    assert close.message == "The value: regressed: 0.42 in v1.json, now 0.4199999."


def test_a_finding_that_is_there_is_made_worse_and_stays_one() -> None:
    metric = replace(UP, warn=Limit("below", 0.5, "x"), error=Limit("below", 0.1, "x"))
    (found,) = changes(measured(0.6), measured(0.3), metric=metric).findings
    assert (found.severity, found.limit.bound) == (Severity.ERROR, 0.5)
    assert found.message == "The value: 0.3. (regressed: 0.6 in v1.json, now 0.3)"


def release(*subjects: Subject) -> Release:
    return Release("v1.json", report(*subjects, manuals=(manual(),)))


def test_subjects_are_matched_by_id_and_one_with_one_whatever_their_names() -> None:
    a, b = subject("a"), subject("b")
    assert counterparts([a], release(b)) == {"a": b}
    assert counterparts([a, b], release(b)) == {"b": b}
    assert counterparts([a], release(b, subject("c"))) == {}


def test_what_could_not_be_compared_is_told() -> None:
    now = [subject("a"), subject("b", measurements=(measured(1.0),))]
    old = release(subject("c"), subject("b", measurements=(measured(1.0), measured(1.0, "v"), measured(1.0, "u"))))
    assert remarks(now, old) == [
        "a is not in v1.json: not compared",
        "c of v1.json was not given: not compared",
        "b no longer has what v1.json measured: probe/value at v and 1 more",
    ]
