"""Measurements × limits × policy → findings, verdict, exit code."""

from dataclasses import replace

import pytest

from collapse_cli.core.finding import Severity, Suppression, fingerprint
from collapse_cli.core.manual import Confidence, Manual
from collapse_cli.core.metric import Limit, Measurement, Metric
from collapse_cli.core.policy import Override, Policy
from collapse_cli.core.report import Coverage, Status, Subject
from collapse_cli.judge import exit_code, judge, verdict

BELOW = Limit("below", 0.3, "test")
FAR_BELOW = Limit("below", 0.1, "test")


def manual(metric: Metric, confidence: Confidence = "established") -> Manual:
    return Manual("rank", "spectrum", "Rank", confidence, "text", (metric,), "remedy", ())


def subject(*measurements: Measurement, status: Status = "complete") -> Subject:
    return Subject("s", "s", "checkpoint", "memory", None, 0, status, Coverage(1, 1, 1), measurements=measurements)


def severities(
    metric: Metric, *measurements: Measurement, policy: Policy = Policy(), **manual_words: object
) -> list[str]:
    judged = judge(subject(*measurements), [manual(metric, **manual_words)], policy)  # type: ignore[arg-type]
    return [finding.severity.value for finding in judged.findings]


def measured(value: float, null: float | None = None, **evidence: object) -> Measurement:
    return Measurement("rank", "ratio", "w", value, null, dict(evidence))


METRIC = Metric("ratio", "1", "The ratio.", better="higher", warn=BELOW, error=FAR_BELOW)


@pytest.mark.parametrize(
    ("value", "expected"), [(0.5, []), (0.3, []), (0.29, ["warning"]), (0.1, ["warning"]), (0.09, ["error"])]
)
def test_a_bound_itself_is_not_beyond_the_limit(value: float, expected: list[str]) -> None:
    assert severities(METRIC, measured(value)) == expected


def test_an_inclusive_bound_is() -> None:
    metric = replace(METRIC, warn=None, error=Limit("below", 1, "definition", inclusive=True))
    assert severities(metric, measured(1.0)) == ["error"]
    assert severities(metric, measured(1.0 + 1e-12)) == []


@pytest.mark.parametrize(
    ("value", "null", "expected"),
    [(3.0, 10.0, []), (2.9, 10.0, ["warning"]), (0.9, 10.0, ["error"]), (2.9, None, []), (0.0, 0.0, [])],
)
def test_a_limit_on_the_null_bounds_the_ratio_and_needs_a_null(
    value: float, null: float | None, expected: list[str]
) -> None:
    metric = replace(METRIC, warn=replace(BELOW, of="null"), error=replace(FAR_BELOW, of="null"))
    assert severities(metric, measured(value, null)) == expected


def test_a_positive_value_against_a_null_of_zero_crosses_a_limit_above() -> None:
    metric = replace(METRIC, better="lower", warn=Limit("above", 3, "test", of="null"), error=None)
    assert severities(metric, measured(0.1, 0.0)) == ["warning"]


def test_an_intent_that_is_not_declared_informs_and_does_not_judge() -> None:
    metric = replace(METRIC, error=replace(FAR_BELOW, intent=frozenset({"representation"})), warn=None)
    assert severities(metric, measured(0.0)) == ["info"]
    assert severities(metric, measured(0.0), policy=Policy(intent="representation")) == ["error"]
    assert severities(metric, measured(0.0), policy=Policy(intent="classifier")) == []


def test_an_experimental_analyzer_never_gives_an_error() -> None:
    assert severities(METRIC, measured(0.0), confidence="experimental") == ["warning"]


def test_the_users_limits_replace_those_of_the_analyzer_later_ones_win() -> None:
    mine = Override("rank/*", "mine", warn=0.8)
    assert severities(METRIC, measured(0.7), policy=Policy(limits=(mine,))) == ["warning"]
    off = Override("rank/ratio", "mine", sites=("w",), warn=False, error=False)
    assert severities(METRIC, measured(0.0), policy=Policy(limits=(mine, off))) == []
    elsewhere = replace(off, sites=("v",))
    assert severities(METRIC, measured(0.0), policy=Policy(limits=(elsewhere,))) == ["error"]


def test_a_limit_of_the_users_has_the_scale_and_the_intent_of_the_metrics_own() -> None:
    of_null = replace(METRIC, warn=None, error=replace(FAR_BELOW, of="null", intent=frozenset({"classifier"})))
    mine = Policy(limits=(Override("rank/ratio", "mine", error=0.5),))
    assert severities(of_null, measured(4.0, 10.0), policy=mine) == ["info"]
    assert severities(of_null, measured(4.0, 10.0), policy=replace(mine, intent="classifier")) == ["error"]
    assert severities(of_null, measured(6.0, 10.0), policy=mine) == []
    bare = replace(METRIC, warn=None, error=None, better="lower")
    assert severities(bare, measured(0.6), policy=mine) == ["error"]
    assert severities(bare, measured(0.4), policy=mine) == []
    finding = judge(subject(measured(0.6)), [manual(bare)], mine).findings[0]
    assert finding.limit == Limit("above", 0.5, "mine")


def test_the_message_is_the_metrics_sentence_with_the_numbers_in_it() -> None:
    metric = replace(METRIC, message="Uses {used:.1f} of {width}; random uses {null:.1f}, {value:.1%} against {bound}.")
    finding = judge(subject(measured(0.05, 0.5, used=3.21, width=64)), [manual(metric)], Policy()).findings[0]
    assert finding.message == "Uses 3.2 of 64; random uses 0.5, 5.0% against 0.1."
    assert finding.remedy == "remedy"


@pytest.mark.parametrize("template", ["", "{missing} is not there", "{null} is not there either"])
def test_without_its_words_a_message_is_made_of_the_parts(template: str) -> None:
    finding = judge(subject(measured(0.05)), [manual(replace(METRIC, message=template))], Policy()).findings[0]
    assert finding.message == "The ratio: 0.05."


def test_a_template_reaches_values_and_never_attributes() -> None:
    metric = replace(METRIC, message="{value.__class__} {value} {site[0]}")
    message = judge(subject(measured(0.05)), [manual(metric)], Policy()).findings[0].message
    assert message == "{value.__class__} 0.05 {site[0]}"


def test_worst_findings_come_first_then_source_order() -> None:
    measurements = [Measurement("rank", "ratio", f"w{i}", value) for i, value in enumerate((0.2, 0.0, 0.25, 0.05))]
    judged = judge(subject(*measurements), [manual(METRIC)], Policy())
    assert [finding.measurement.site for finding in judged.findings] == ["w1", "w3", "w0", "w2"]


def test_a_fingerprint_names_where_and_what_and_nothing_else() -> None:
    import hashlib

    expected = hashlib.sha256(b"4:rank" + b"5:ratio" + b"1:s" + "2:é".encode()).hexdigest()
    assert fingerprint("rank", "ratio", "s", "é") == expected
    assert fingerprint("a", "bc", "s", "w") != fingerprint("ab", "c", "s", "w")


def outcome(*subjects: Subject, policy: Policy = Policy()) -> tuple[str, int]:
    given = verdict(subjects, policy)
    return given.outcome, exit_code(given, policy)


CLEAN = subject()
BAD = judge(subject(measured(0.0)), [manual(METRIC)], Policy())
DOUBTFUL = judge(subject(measured(0.2)), [manual(METRIC)], Policy())
ACCEPTED = replace(BAD, findings=(replace(BAD.findings[0], suppressed=Suppression("accept", "known")),))
PARTIAL, EMPTY, UNREAD = (subject(status=status) for status in ("partial", "empty", "failed"))


@pytest.mark.parametrize(
    ("subjects", "policy", "expected"),
    [
        ((CLEAN,), Policy(), ("pass", 0)),
        ((DOUBTFUL,), Policy(), ("pass", 0)),
        ((DOUBTFUL,), Policy(fail_on=Severity.WARNING), ("fail", 1)),
        ((BAD,), Policy(), ("fail", 1)),
        ((BAD,), Policy(exit_zero=True), ("fail", 0)),
        ((ACCEPTED,), Policy(), ("pass", 0)),
        ((BAD, PARTIAL), Policy(), ("incomplete", 2)),
        ((BAD, PARTIAL), Policy(allow_partial=True), ("fail", 1)),
        ((CLEAN, PARTIAL), Policy(allow_partial=True), ("pass", 0)),
        ((BAD, PARTIAL), Policy(exit_zero=True), ("incomplete", 2)),
        ((CLEAN, UNREAD), Policy(allow_partial=True), ("incomplete", 2)),
        ((UNREAD,), Policy(), ("incomplete", 2)),
        ((EMPTY, UNREAD), Policy(), ("incomplete", 2)),
        ((EMPTY,), Policy(), ("empty", 3)),
        ((), Policy(), ("empty", 3)),
        ((EMPTY,), Policy(exit_zero=True, allow_partial=True), ("empty", 3)),
        ((CLEAN, EMPTY), Policy(), ("incomplete", 2)),
        ((CLEAN, EMPTY), Policy(allow_partial=True), ("pass", 0)),
    ],
)
def test_exit_codes(subjects: tuple[Subject, ...], policy: Policy, expected: tuple[str, int]) -> None:
    assert outcome(*subjects, policy=policy) == expected


def test_the_verdict_counts() -> None:
    given = verdict((BAD, DOUBTFUL, ACCEPTED), Policy())
    assert given.findings == {"error": 1, "warning": 1, "info": 0}
    assert given.suppressed == {"accept": 1, "baseline": 0}
