"""SARIF: valid, placed where GitHub shows it, and never more than GitHub takes."""

from __future__ import annotations

import gzip
import json
import time
from dataclasses import replace
from typing import Any

import pytest

from collapse_cli.core.finding import Finding, Severity
from collapse_cli.core.manual import Manual
from collapse_cli.core.report import Failure, Part, Report, Skip
from collapse_cli.render import RENDERERS, Look, sarif_format
from tests.reports import (
    ERROR,
    RANK,
    REPORTS,
    WARN,
    deep,
    finding,
    hostile,
    partial,
    ratio,
    report,
    subject,
    suppressed,
)
from tests.sarif import violations


def log(given: Report, look: Look = Look()) -> dict[str, Any]:
    return json.loads(RENDERERS["sarif"](given, look))


def run(given: Report, look: Look = Look()) -> dict[str, Any]:
    (only,) = log(given, look)["runs"]
    return only


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


@pytest.mark.parametrize("name", REPORTS)
def test_a_log_has_the_types_of_the_standard_and_no_empty_string_and_no_null(name: str) -> None:
    whole = log(REPORTS[name](), Look(sarif_anchor="models/READ ME.md", category="nightly"))
    assert violations(whole) == []
    assert whole["version"] == "2.1.0"
    assert not [leaf for leaf in leaves(whole) if leaf is None or leaf == ""]


def test_the_check_of_types_finds_what_is_wrong() -> None:
    whole = log(partial())
    (one,) = whole["runs"]
    one["results"][0]["level"] = "info"
    one["results"][0]["ruleIndex"] = None
    one["extra"] = 1
    del one["tool"]
    assert len(violations(whole)) == 4


def test_a_result_has_rule_level_message_one_place_and_a_stable_name() -> None:
    (found,) = partial().subjects[0].findings
    only = run(partial())
    (result,) = only["results"]
    assert result["ruleId"] == "effective-rank/effective_rank_ratio"
    assert only["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    assert result["level"] == "error"
    assert result["message"]["text"].startswith("layers.1.mlp.up_proj.weight: 0.0166 < 0.05 (null 0.802): Uses 1.06 of")
    assert result["partialFingerprints"] == {"primaryLocationLineHash": f"{found.fingerprint}:1"}
    (place,) = result["locations"]
    assert place["physicalLocation"]["artifactLocation"] == {"uri": "runs/7/rank_collapse.safetensors"}
    assert place["physicalLocation"]["region"] == {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 1}
    assert place["logicalLocations"] == [{"fullyQualifiedName": "layers.1.mlp.up_proj.weight", "kind": "tensor"}]


def test_only_rules_that_fired_are_there_with_what_github_shows_of_them() -> None:
    (rule,) = run(partial())["tool"]["driver"]["rules"]
    assert rule["id"] == "effective-rank/effective_rank_ratio"
    assert rule["shortDescription"]["text"] == "Effective rank: effective rank ratio"
    assert rule["fullDescription"]["text"].startswith("Share of the available directions")
    assert "fewer than one direction in twenty" in rule["help"]["markdown"]
    assert "fewer than one direction in twenty" in " ".join(rule["help"]["text"].split())
    assert rule["defaultConfiguration"] == {"level": "error"}
    assert rule["properties"] == {
        "precision": "high",
        "problem.severity": "error",
        "tags": ["model", "spectrum", "established"],
    }
    assert "rules" not in run(suppressed())["tool"]["driver"]


@pytest.mark.parametrize(
    ("changes", "level", "problem", "precision"),
    [
        ({"confidence": "experimental"}, "warning", "warning", "low"),
        ({"warn": WARN, "error": None}, "warning", "warning", "high"),
        ({"warn": None, "error": replace(ERROR, intent=frozenset({"classifier"}))}, "note", "recommendation", "high"),
    ],
    ids=["experimental", "warns only", "bound to an intent"],
)
def test_the_level_of_a_rule_is_the_worst_that_its_own_limits_give(
    changes: dict[str, Any], level: str, problem: str, precision: str
) -> None:
    confidence = changes.pop("confidence", "established")
    manual = replace(RANK, confidence=confidence, metrics=(replace(RANK.metrics[0], **changes),))
    (rule,) = run(with_finding(finding(), manual))["tool"]["driver"]["rules"]
    assert rule["defaultConfiguration"]["level"] == level
    assert (rule["properties"]["problem.severity"], rule["properties"]["precision"]) == (problem, precision)


def with_finding(one: Finding, *manuals: Manual) -> Report:
    whole = report(manuals=manuals)
    return replace(whole, subjects=(subject(findings=(one,)),))


def test_a_finding_whose_manual_is_missing_or_endless_still_has_a_whole_rule() -> None:
    (rule,) = run(with_finding(finding()))["tool"]["driver"]["rules"]
    assert rule["help"]["text"]
    endless = replace(RANK, title="long " * 400, text="endless " * 400)
    (rule,) = run(with_finding(finding(), endless))["tool"]["driver"]["rules"]
    assert len(rule["shortDescription"]["text"]) == len(rule["fullDescription"]["text"]) == 1_024


@pytest.mark.parametrize(
    ("severity", "level"), [(Severity.ERROR, "error"), (Severity.WARNING, "warning"), (Severity.INFO, "note")]
)
def test_levels(severity: Severity, level: str) -> None:
    assert [one["level"] for one in run(with_finding(finding(severity), RANK))["results"]] == [level]


def test_the_worst_come_first_across_subjects() -> None:
    mild, bad = subject("a", measurements=(ratio("x", 0.2),)), subject("b", measurements=(ratio("x", 0.01),))
    assert [one["level"] for one in run(report(mild, bad))["results"]] == ["error", "warning"]


def test_results_stand_on_the_anchor_and_then_name_their_subject() -> None:
    (result,) = run(partial(), Look(sarif_anchor="models/READ ME.md"))["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "models/READ%20ME.md"
    assert result["message"]["text"].startswith("runs/7/rank_collapse.safetensors: layers.1.mlp.up_proj.weight: ")


@pytest.mark.parametrize(
    ("category", "identity"),
    [("default", "collapse/default/"), ("nightly/gpu", "collapse/nightly/gpu/"), ("/", "collapse/default/")],
)
def test_the_category_names_the_run(category: str, identity: str) -> None:
    assert run(partial(), Look(category=category))["automationDetails"]["id"] == identity


@pytest.mark.parametrize("look", [Look(), Look(show_suppressed=True)])
def test_suppressed_findings_are_left_out_and_counted(look: Look) -> None:
    only = run(suppressed(), look)
    assert only["results"] == []
    assert only["properties"]["suppressed"] == {"accept": 0, "baseline": 1}


def test_what_failed_is_a_notification_of_an_execution_without_success() -> None:
    only = run(partial())
    (invocation,) = only["invocations"]
    assert invocation["executionSuccessful"] is False
    assert invocation["exitCode"] == 2
    (note,) = invocation["toolExecutionNotifications"]
    assert note["level"] == "error"
    assert note["descriptor"] == {"id": "power-law"}
    assert "layers.1.mlp.up_proj.weight: power-law failed: NotConverged: the fit did not" in note["message"]["text"]
    assert run(deep(1))["invocations"] == [{"executionSuccessful": True, "exitCode": 1}]


def test_30_000_findings_become_the_worst_5_000_and_the_log_says_so_within_ten_seconds() -> None:
    names = [f"layers.{index}.weight" for index in range(30_000)]
    # one error in seven, spread over the whole report: all of them must survive
    measured = tuple(ratio(name, 0.01 if index % 7 == 0 else 0.2) for index, name in enumerate(names))
    whole = report(subject(measurements=measured))
    started = time.process_time()
    text = RENDERERS["sarif"](whole, Look())
    assert time.process_time() - started < 10
    assert len(gzip.compress(text.encode())) < 10_000_000
    (only,) = json.loads(text)["runs"]
    levels = [one["level"] for one in only["results"]]
    assert levels == ["error"] * 4_286 + ["warning"] * 714
    assert only["properties"]["leftOut"] == 25_000
    (note,) = only["invocations"][0]["toolExecutionNotifications"]
    assert note["message"]["text"].startswith("25,000 of 30,000 findings are left out, the mildest: 25,000 warnings;")


def test_a_log_that_gzip_cannot_make_small_enough_is_halved_until_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sarif_format, "_BUDGET", 20_000)
    text = RENDERERS["sarif"](deep(1_000), Look())
    (only,) = json.loads(text)["runs"]
    assert len(gzip.compress(text.encode())) <= 20_000
    assert 0 < len(only["results"]) < 1_000
    assert only["properties"]["leftOut"] == 1_000 - len(only["results"])
    assert "findings are left out" in only["invocations"][0]["toolExecutionNotifications"][0]["message"]["text"]


def test_notifications_are_counted_beyond_a_thousand() -> None:
    failed = tuple(Failure("power-law", f"w{index}", "NotConverged", "no") for index in range(3_000))
    notes = run(report(subject(status="partial", failures=failed)))["invocations"][0]["toolExecutionNotifications"]
    assert len(notes) == 1_001
    assert notes[-1]["message"]["text"].startswith("+2,000 more")


@pytest.mark.parametrize(
    ("identity", "path", "uri"),
    [
        ("models/a.safetensors", "../models/a.safetensors", "models/a.safetensors"),
        ("models/a.safetensors", "/home/me/models/a.safetensors", "models/a.safetensors"),
        ("my model", "./models/a.safetensors", "models/a.safetensors"),
        ("/elsewhere/a.pt", "/elsewhere/a.pt", "elsewhere/a.pt"),
        ("../../a.pt", "../../a.pt", "a.pt"),
        ("c:/a b.pt", "c:/a b.pt", "c%3A/a%20b.pt"),
        (".", ".", "."),
    ],
)
def test_a_place_is_relative_to_the_repository(identity: str, path: str, uri: str) -> None:
    whole = report(subject(identity, path=path, measurements=(ratio("x", 0.01),)))
    (result,) = run(whole)["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == uri


def test_a_comparison_stands_on_its_newest_side() -> None:
    parts = (Part("a.safetensors", "/x/a.safetensors", None), Part("b.safetensors", "/x/b.safetensors", None))
    whole = report(subject("a..b", path="/x/b.safetensors", kind="pair", parts=parts, measurements=(ratio("x", 0.01),)))
    (result,) = run(whole)["results"]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "b.safetensors"


def test_the_same_finding_twice_has_two_names() -> None:
    twice = replace(report(manuals=(RANK,)), subjects=(subject(findings=(finding(), finding())),))
    marks = [one["partialFingerprints"]["primaryLocationLineHash"] for one in run(twice)["results"]]
    assert [mark.rpartition(":")[2] for mark in marks] == ["1", "2"]


def test_no_name_becomes_a_link() -> None:
    assert "](" not in "".join(one["message"]["text"] for one in run(hostile())["results"])


def test_every_result_points_at_its_own_rule() -> None:
    other = replace(finding(), measurement=replace(finding().measurement, metric="another", site="w"))
    whole = replace(report(manuals=(RANK,)), subjects=(subject(findings=(finding(), other, finding())),))
    only = run(whole)
    names = [rule["id"] for rule in only["tool"]["driver"]["rules"]]
    assert names == ["effective-rank/effective_rank_ratio", "effective-rank/another"]
    assert [names[one["ruleIndex"]] for one in only["results"]] == [one["ruleId"] for one in only["results"]]
    assert [one["ruleIndex"] for one in only["results"]] == [0, 1, 0]


def test_a_tensor_that_was_not_read_is_a_warning() -> None:
    torn = report(subject(status="partial", skips=(Skip(None, "w", "its shard is missing"),)))
    (note,) = run(torn)["invocations"][0]["toolExecutionNotifications"]
    assert note["level"] == "warning"
    assert note["message"]["text"].endswith(": w: not analysed: its shard is missing")
