"""The accepted present state: the file, the ratchet, and what is gone."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse_cli.baseline import created, json_schema, known, pruned, read, stale, written
from collapse_cli.cli.output import write_whole
from collapse_cli.core.finding import Severity, Suppression
from collapse_cli.core.manual import Manual
from collapse_cli.core.metric import Limit, Measurement, Metric
from collapse_cli.core.policy import Baseline, Policy
from collapse_cli.core.report import Failure, Subject
from collapse_cli.errors import BadPolicy
from collapse_cli.judge import judge
from tests.reports import HOSTILE, RANK, ratio, subject

SHARE = Metric("share", "1", "The share.", "lower", Limit("above", -1.0, "x"), Limit("above", 0.9, "x"))
UNITS = Manual("dead-units", "units", "t", "established", "x", (SHARE,), "r", ())
RAN = ("effective-rank", "dead-units")


def share(value: float, site: str = "w") -> Measurement:
    return replace(SHARE.at(site, value), analyzer="dead-units")


def judged(*measured: Measurement, identity: str = "a", **changes: object) -> Subject:
    return judge(subject(identity, measurements=measured, **changes), [RANK, UNITS], Policy())


@pytest.mark.parametrize(
    ("stored", "now", "is_hidden"),
    [
        (0.04, 0.04, True),
        (0.04, 0.0381, True),
        (0.04, 0.0379, False),
        (0.04, 0.049, True),
        (0.0, 0.0, True),
        (-0.01, -0.0104, True),
        (-0.01, -0.0106, False),
    ],
)
def test_the_ratchet_below_a_limit(stored: float, now: float, is_hidden: bool) -> None:
    found = known(judged(ratio("w", now)), created([judged(ratio("w", stored))])).findings[0]
    assert (found.suppressed is not None) is is_hidden


@pytest.mark.parametrize(
    ("stored", "now", "is_hidden"),
    [(0.5, 0.5, True), (0.5, 0.52, True), (0.5, 0.53, False), (0.5, 0.1, True), (0.0, 0.0, True), (0.0, 1e-9, False)],
)
def test_the_ratchet_above_a_limit_has_no_play_at_zero(stored: float, now: float, is_hidden: bool) -> None:
    found = known(judged(share(now)), created([judged(share(stored))])).findings[0]
    assert (found.suppressed is not None) is is_hidden


def test_what_got_worse_says_from_what_to_what() -> None:
    found = known(judged(ratio("w", 0.017)), created([judged(ratio("w", 0.031))])).findings[0]
    assert found.suppressed is None
    assert found.message.endswith("(regressed: baseline 0.031, now 0.017)")


def test_a_higher_severity_is_not_hidden_though_the_value_is_within_the_ratchet() -> None:
    before = created([judged(share(0.89))])
    found = known(judged(share(0.905)), before).findings[0]
    assert (found.severity, found.suppressed) == (Severity.ERROR, None)
    assert found.message.endswith("(regressed: baseline warning at 0.89, now 0.905)")
    milder = known(judged(share(0.85)), created([judged(share(0.95))])).findings[0]
    assert milder.suppressed == Suppression("baseline", "known: baseline 0.95")


def test_a_tolerance_of_the_file_replaces_the_usual_one() -> None:
    before = replace(created([judged(share(0.5))]), tolerance=0.5)
    assert known(judged(share(0.74)), before).findings[0].suppressed
    assert not known(judged(share(0.76)), before).findings[0].suppressed


def test_what_is_accepted_keeps_its_reason_and_is_not_written() -> None:
    whole = judged(ratio("w", 0.01), ratio("v", 0.01))
    taken = replace(whole.findings[0], suppressed=Suppression("accept", "why", "2030-01-01"))
    some = replace(whole, findings=(taken, whole.findings[1]))
    assert [entry.site for entry in created([some]).entries] == ["v"]
    assert known(some, created([whole])).findings[0].suppressed == taken.suppressed


def test_a_baseline_made_under_a_baseline_is_the_same() -> None:
    whole = judged(ratio("w", 0.01), share(0.3))
    first = created([whole])
    assert created([known(whole, first)]) == first


VALUES = st.floats(-1e6, 1e6, allow_nan=False).filter(lambda value: value == 0 or abs(value) > 1e-6)


@settings(deadline=None)  # pydantic is loaded in the first example
@given(st.lists(st.tuples(st.sampled_from("abc"), st.text(min_size=1, max_size=4), VALUES), max_size=6))
def test_a_file_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, float]]
) -> None:
    unique = {(identity, site): value for identity, site, value in rows}
    subjects = [judged(share(abs(value), site), identity=identity) for (identity, site), value in unique.items()]
    before = created(subjects)
    path = tmp_path_factory.mktemp("b") / "b.json"
    path.write_text(written(before), encoding="utf-8")
    assert read(path) == before


def test_no_name_is_too_hostile_for_a_file(tmp_path: Path) -> None:
    before = created(judged(*(share(0.5, name) for name in HOSTILE), identity=identity) for identity in HOSTILE)
    write_whole(tmp_path / "b.json", written(before))
    assert read(tmp_path / "b.json") == before
    assert written(before).count("\n") == len(HOSTILE) ** 2 + 6


def test_the_file_is_sorted_one_entry_a_line() -> None:
    whole = [judged(ratio(site, 0.01), share(0.2, site), identity=identity) for identity in "ba" for site in "zy"]
    lines = written(created(whole)).splitlines()
    assert lines[:4] == ["{", '"schema_version": "1.0",', '"tolerance": 0.05,', '"entries": [']
    entries = [json.loads(line.rstrip(",")) for line in lines[4:-2]]
    assert list(entries[0]) == ["fingerprint", "rule", "subject", "site", "value", "side", "severity"]
    places = [(one["subject"], one["rule"], one["site"]) for one in entries]
    assert places == sorted(places)
    assert len(places) == 8
    assert written(created(reversed(whole))) == written(created(whole))
    jsonschema.validate(json.loads(written(created(whole))), json_schema())
    assert written(created([])) == '{\n"schema_version": "1.0",\n"tolerance": 0.05,\n"entries": []\n}\n'


ENTRY = json.loads(written(created([judged(share(0.5))])))
BROKEN = {
    "no json": ("{", "is not a baseline, it is not JSON"),
    "a list": ("[]", 'should be an object with "schema_version" and "entries"'),
    "a report": ('{"schema_version": "1.0", "subjects": []}', 'should be an object with'),
    "newer": (json.dumps(ENTRY | {"schema_version": "2.0"}), "schema_version should be 1.x, it is 2.0"),
    "tolerance": (json.dumps(ENTRY | {"tolerance": -1}), "tolerance should be 0 or more, it is -1.0"),
    "no tolerance": ('{"schema_version": "1.0", "entries": []}', "tolerance: Field required"),
    "nan": (json.dumps(ENTRY).replace("0.5", "NaN"), "the value of dead-units/share at w is not finite"),
    "severity": (json.dumps(ENTRY).replace('"warning"', '"bad"'), "entries.0.severity: Input should be"),
    "edited": (json.dumps(ENTRY).replace('"w"', '"v"'), "the fingerprint of dead-units/share at v is not that of"),
    "deep": ("[" * 100_000, "is not a baseline"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_baseline_is_an_error_that_says_why(tmp_path: Path, name: str) -> None:
    text, words = BROKEN[name]
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(BadPolicy) as caught:
        read(tmp_path / "b.json")
    assert words in str(caught.value)


def test_a_missing_baseline_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadPolicy, match="there is no such baseline") as caught:
        read(tmp_path / "b.json")
    assert "collapse baseline create" in caught.value.hint


ILL = judged(ratio("w", 0.01), ratio("v", 0.02), share(0.3))
BEFORE = created([ILL, judged(ratio("w", 0.01), identity="other")])
WELL = replace(ILL, findings=(), measurements=(ratio("w", 0.9), ratio("v", 0.9), share(-2.0)))


def gone(now: Subject, ran: tuple[str, ...] = RAN, baseline: Baseline = BEFORE) -> list[str]:
    return [f"{entry.rule.partition('/')[2]} {entry.site}" for entry in stale(baseline, [now], ran)]


def test_an_entry_is_stale_when_its_finding_is_gone_from_a_subject_that_was_given() -> None:
    assert gone(ILL) == []
    assert gone(WELL) == ["share w", "effective_rank_ratio v", "effective_rank_ratio w"]
    assert gone(replace(WELL, id="elsewhere")) == []


def test_what_was_not_measured_is_not_gone() -> None:
    nothing = replace(WELL, measurements=())
    assert gone(nothing) == ["share w", "effective_rank_ratio v", "effective_rank_ratio w"], "the sites are gone"
    assert gone(nothing, ran=("dead-units",)) == ["share w"]
    failure = (Failure("dead-units", "w", "NotConverged", "x"),)
    assert gone(replace(nothing, status="partial", failures=failure)) == []
    assert gone(replace(nothing, status="failed")) == []
    only = replace(WELL, status="partial", failures=failure, measurements=(ratio("w", 0.9),))
    assert gone(only) == ["effective_rank_ratio w"]


def test_an_accepted_finding_is_not_gone() -> None:
    taken = tuple(replace(one, suppressed=Suppression("accept", "x", "2030-01-01")) for one in ILL.findings)
    assert gone(replace(ILL, findings=taken)) == []


def test_pruning_drops_what_is_gone_tightens_what_improved_and_leaves_the_rest() -> None:
    now = judged(ratio("w", 0.04), ratio("v", 0.019), share(-2.0))
    after = pruned(BEFORE, [now], RAN)
    assert [(entry.rule, entry.site) for entry in after.gone] == [("dead-units/share", "w")]
    assert [(entry.site, entry.value) for entry in after.tightened] == [("w", 0.04)]
    left = {(entry.subject, entry.site): entry.value for entry in after.baseline.entries}
    assert left == {("a", "w"): 0.04, ("a", "v"): 0.02, ("other", "w"): 0.01}, "a worse value is not taken over"
    assert pruned(after.baseline, [now], RAN).baseline == after.baseline


def test_pruning_takes_over_a_milder_severity() -> None:
    after = pruned(created([judged(share(0.95))]), [judged(share(0.6))], RAN)
    assert [(entry.value, entry.severity) for entry in after.baseline.entries] == [(0.6, Severity.WARNING)]
