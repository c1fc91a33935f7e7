"""The gate: what it makes of stored reports, of what the policy asks for and they lack, and of both kinds together."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from collapse_cli.analyzer import CHECKPOINT_VIEWS
from collapse_cli.analyzers import catalogue
from collapse_cli.core.metric import Metric
from collapse_cli.core.policy import Accept, Override, Policy
from collapse_cli.core.report import Failure, Report, Skip, from_json, to_json
from collapse_cli.errors import InputError, UnknownAnalyzer
from collapse_cli.gate import NOT_RUN, gate
from collapse_cli.runs import Observer, ScanOptions, scan
from tests.diagnosed_reports import with_diagnoses
from tests.reports import LAW, RANK, deep, empty, failed, nothing_accepted, partial, ratio, report, subject

#: Analyzers of a checkpoint that the hand-made report lacks of the family it has.
LACKING = [
    one.name
    for one in catalogue(plugins=False).analyzers
    if one.manual.family == "spectrum"
    and one.view in CHECKPOINT_VIEWS
    and one.name not in ("effective-rank", "power-law")
]
ILL = subject("a", measurements=(ratio("w", 0.01), ratio("w#q", 0.2)))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    return tmp_path / "r.json"


def gated(path: Path, given: Report, policy: Policy = Policy(), options: ScanOptions = ScanOptions()) -> Report:
    path.write_text(to_json(given), encoding="utf-8")
    return gate([path], policy, options)


@pytest.mark.parametrize("make", [partial, failed, deep, nothing_accepted, empty], ids=lambda make: make.__name__)
def test_under_the_same_policy_the_verdict_is_that_of_the_scan(stored: Path, make: type[Report]) -> None:
    given = with_diagnoses(make())
    again = gated(stored, given)
    assert (again.subjects, again.verdict, again.exit_code) == (given.subjects, given.verdict, given.exit_code)
    assert again.manuals == given.manuals
    assert (again.provenance.torch, again.provenance.device) == ("2.13.0", "cpu")


def test_what_the_report_says_of_itself_is_not_believed(stored: Path) -> None:
    given = report(ILL)
    forged = replace(
        given,
        subjects=(replace(given.subjects[0], findings=()),),
        verdict=replace(given.verdict, outcome="pass", findings={"error": 0, "warning": 0, "info": 0}),
        exit_code=0,
    )
    assert gated(stored, forged).exit_code == 1
    assert gated(stored, given, Policy(limits=(Override("*", "mine", warn=False, error=False),))).exit_code == 0


@pytest.mark.parametrize(
    ("policy", "code", "missing"),
    [
        (Policy(), 1, []),
        (Policy(select=("effective-rank",)), 1, []),
        (Policy(select=("stable-rank",)), 2, ["stable-rank"]),
        (Policy(select=("effective-rank", "stable-rank")), 2, ["stable-rank"]),
        (Policy(select=("effective-rank", "stable-rank"), allow_partial=True), 1, ["stable-rank"]),
        (Policy(select=("stable-*",)), 3, []),
        (Policy(select=("all",)), 1, []),
        (Policy(select=("spectrum",)), 2, LACKING),
        (Policy(select=("spectrum",), ignore=tuple(LACKING)), 1, []),
        (Policy(select=("isotropy",)), 3, []),
        (Policy(ignore=("effective-rank",)), 3, []),
        (Policy(ignore=("all",)), 3, []),
    ],
    ids=str,
)
def test_what_the_policy_asks_for_by_name_or_family_must_have_run(
    stored: Path, policy: Policy, code: int, missing: list[str]
) -> None:
    again = gated(stored, report(ILL), policy)
    assert again.exit_code == code
    assert [one.analyzer for one in again.subjects[0].failures] == missing
    assert {one.error for one in again.subjects[0].failures} <= {NOT_RUN}


def test_an_analyzer_of_dumps_is_asked_of_dumps(stored: Path) -> None:
    dump = replace(ILL, kind="dump")
    assert gated(stored, report(dump), Policy(select=("isotropy",))).exit_code == 2
    assert gated(stored, report(dump), Policy(select=("stable-rank",))).exit_code == 3


def test_a_gated_report_is_gated_again_as_if_it_were_the_first(stored: Path, tmp_path: Path) -> None:
    once = gated(stored, report(ILL), Policy(select=("effective-rank", "stable-rank")))
    assert gated(tmp_path / "again.json", once).exit_code == 1
    assert gated(tmp_path / "again.json", once, Policy(select=("stable-rank",))).exit_code == 2


def test_what_one_policy_missed_another_does_not(stored: Path, tmp_path: Path) -> None:
    (tmp_path / "more.json").write_text(to_json(report(replace(ILL, id="b"), manuals=(RANK, LAW))))
    (tmp_path / "less.json").write_text(to_json(report(ILL, manuals=(RANK,))))
    both = gate([tmp_path / "less.json", tmp_path / "more.json"], Policy(select=("effective-rank", "power-law")))
    assert [[one.error for one in subject.failures] for subject in both.subjects] == [[NOT_RUN], []]
    again = gated(stored, both)
    assert (again.exit_code, again.subjects[0].failures) == (1, ())


def test_what_is_not_selected_neither_fails_nor_is_partial(stored: Path) -> None:
    crashed = replace(ILL, status="partial", failures=(Failure("power-law", "w", "NotConverged", "x"),))
    given = report(crashed)
    assert gated(stored, given).exit_code == 2
    again = gated(stored, given, Policy(ignore=("power-law",)))
    assert (again.exit_code, again.subjects[0].status, again.subjects[0].failures) == (1, "complete", ())


def test_a_subject_that_is_partial_for_no_stated_reason_stays_so(stored: Path) -> None:
    assert gated(stored, report(replace(ILL, status="partial"))).exit_code == 2


def test_a_stored_subject_of_which_nothing_was_measured_is_empty(stored: Path) -> None:
    unmeasured = replace(ILL, measurements=(), findings=(), skips=(Skip("effective-rank", "w", "too small"),))
    again = gated(stored, report(unmeasured))
    assert (again.subjects[0].status, again.exit_code) == ("empty", 3)


@pytest.mark.parametrize(
    ("options", "sites"),
    [
        (ScanOptions(sites=("w",)), ["w", "w#q"]),
        (ScanOptions(sites=("*#q",)), ["w#q"]),
        (ScanOptions(ignore_sites=("*#q",)), ["w"]),
        (ScanOptions(sites=("w",), ignore_sites=("w",)), []),
        (ScanOptions(exclude=("a",)), None),
        (ScanOptions(include=("b",)), None),
        (ScanOptions(subject_id="mine"), ["w", "w#q"]),
    ],
    ids=str,
)
def test_flags_that_choose_what_is_looked_at_choose_here_too(
    stored: Path, options: ScanOptions, sites: list[str] | None
) -> None:
    again = gated(stored, report(ILL), options=options)
    if sites is None:
        assert (again.subjects, again.exit_code) == ((), 3)
        return
    assert [one.site for one in again.subjects[0].measurements] == sites
    assert again.exit_code == (3 if not sites else 1 if "w" in sites else 0)
    assert again.subjects[0].id == (options.subject_id or "a")


def test_an_unread_tensor_counts_only_if_it_is_wanted(stored: Path) -> None:
    torn = replace(ILL, status="partial", skips=(Skip(None, "lost", "its shard is missing"),))
    assert gated(stored, report(torn)).exit_code == 2
    assert gated(stored, report(torn), options=ScanOptions(sites=("w*",))).exit_code == 1


def test_a_word_may_name_what_only_the_report_knows(stored: Path) -> None:
    own = replace(LAW, name="my-plugin", family="mine", metrics=(Metric("x", "1", "X."),))
    given = report(ILL, manuals=(RANK, own))
    assert gated(stored, given, Policy(select=("effective-rank", "my-plugin"))).exit_code == 1
    with pytest.raises(UnknownAnalyzer, match='no analyzer, family or pattern "my-plugin"'):
        gated(stored, report(ILL), Policy(select=("my-plugin",)))


def test_an_unreadable_report_is_a_failed_subject_and_the_others_are_judged(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(to_json(report(ILL))[:-100])
    (tmp_path / "good.json").write_text(to_json(report(ILL)))
    ended: list[str] = []
    watch = Observer(ends=lambda one: ended.append(one.failures[0].message))
    again = gate([tmp_path / "bad.json", tmp_path / "good.json"], Policy(), ScanOptions(base=tmp_path), watch)
    assert [(one.id, one.status) for one in again.subjects] == [("bad.json", "failed"), ("a", "complete")]
    assert again.exit_code == 2
    assert again.provenance.analyzers == ("effective-rank", "power-law")
    assert from_json(to_json(again)) == again


def test_reports_with_different_manuals_are_judged_each_by_its_own_and_that_is_told(tmp_path: Path) -> None:
    mild = replace(RANK, metrics=(replace(RANK.metrics[0], warn=None, error=None), Metric("other", "1", "Other.")))
    (tmp_path / "1.json").write_text(to_json(report(ILL)))
    (tmp_path / "2.json").write_text(to_json(report(replace(ILL, id="b"), manuals=(mild,))))
    again = gate([tmp_path / "1.json", tmp_path / "2.json"])
    assert [len(one.findings) for one in again.subjects] == [2, 0]
    assert again.provenance.notices == (
        "the reports carry different manuals of effective-rank: each was judged by its own",
    )
    assert again.provenance.analyzers == ("effective-rank",)
    assert [metric.name for metric in again.manuals[0].metrics] == ["effective_rank_ratio", "other"]


def test_a_folder_of_a_batch_is_read_and_any_other_is_measured(tmp_path: Path) -> None:
    (tmp_path / "out" / "subjects").mkdir(parents=True)
    (tmp_path / "out" / "subjects" / "a.json").write_text(to_json(report(ILL)))
    assert gate([tmp_path / "out"]).exit_code == 3, "reports alone are no model"
    (tmp_path / "out" / "summary.json").write_text("{}")
    assert [one.id for one in gate([tmp_path / "out"]).subjects] == ["a"]


def test_reports_and_checkpoints_are_gated_together_in_the_order_given(tmp_path: Path) -> None:
    save_file({"fc.weight": torch.ones(32, 24)}, tmp_path / "bad.safetensors")
    over = Accept("effective-rank/*", "known", "2020-01-01")
    policy = Policy(select=("effective-rank",), accepted=(over,))
    options = ScanOptions(device="cpu", base=tmp_path)
    (tmp_path / "r.json").write_text(to_json(scan([tmp_path / "bad.safetensors"], policy, options)))
    warned: list[str] = []
    paths = [tmp_path / "r.json", tmp_path / "bad.safetensors", tmp_path / "r.json"]
    again = gate(paths, policy, options, Observer(warnings=warned.append))
    assert len(again.subjects) == 3
    first, *others = again.subjects
    assert all(one.findings == first.findings for one in others), "measured now and stored before it says the same"
    assert first.findings
    assert (again.exit_code, len(warned)) == (1, 1), "what is to be said of the policy is said once"
    assert [one for one in again.provenance.notices if one.startswith("policy: ")] == [f"policy: {warned[0]}"]


def test_what_was_said_of_an_older_policy_is_not_repeated(stored: Path) -> None:
    given = report(ILL)
    said = ('policy: accept "x" ended', "a: a notice of the measuring")
    again = gated(stored, replace(given, provenance=replace(given.provenance, notices=said)))
    assert again.provenance.notices == said[1:]


def test_a_release_that_is_no_report_is_an_error(stored: Path, tmp_path: Path) -> None:
    stored.write_text(to_json(report(ILL)))
    with pytest.raises(InputError, match="cannot read the report"):
        gate([stored], compare=tmp_path / "v0.json")
