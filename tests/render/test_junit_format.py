"""JUnit: what its readers count, and that nothing unread counts as passed."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from typing import Any

import junitparser
import pytest

from collapse_cli.core.finding import Severity
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import Report, Skip
from collapse_cli.render import RENDERERS, Look, junit_format
from tests.reports import REPORTS, deep, empty, failed, nothing_accepted, partial, ratio, report, subject, suppressed


def read(given: Report, look: Look = Look()) -> Any:
    text = RENDERERS["junit"](given, look)
    return junitparser.JUnitXml.fromroot(junitparser.junitparser.etree.parse(io.BytesIO(text.encode())).getroot())


def results(given: Report, look: Look = Look()) -> dict[tuple[str, str], str]:
    return {
        (case.classname, case.name): type(case.result[0]).__name__ if case.result else "passed"
        for suite in read(given, look)
        for case in suite
    }


@pytest.mark.parametrize("name", REPORTS)
def test_a_reader_of_junit_counts_what_the_file_says_and_there_is_something_to_count(name: str) -> None:
    whole = read(REPORTS[name]())
    stated = (whole.tests, whole.failures, whole.errors, whole.skipped)
    cases = [case for suite in whole for case in suite]
    kinds = Counter(type(case.result[0]).__name__ for case in cases if case.result)
    assert stated == (len(cases), kinds["Failure"], kinds["Error"], kinds["Skipped"])
    assert cases
    names = Counter((case.classname, case.name) for case in cases)
    assert set(names.values()) == {1}, "GitLab reads the first of equal names only"


def test_a_case_is_a_rule_of_a_subject() -> None:
    one = "runs/7/rank_collapse.safetensors"
    assert results(partial()) == {
        (one, "reading"): "passed",
        (one, "effective-rank/effective_rank_ratio"): "Failure",
        (one, "power-law"): "Error",
    }
    (suite,) = read(partial())
    assert suite.name == one
    failing = next(case for case in suite if case.result and case.name.endswith("ratio"))
    assert failing._elem.get("file") == one
    assert failing.result[0].text.startswith(
        "error: layers.1.mlp.up_proj.weight: 0.0166 < 0.05 (null 0.802): Uses 1.06"
    )


@pytest.mark.parametrize(("fail_on", "result"), [("info", "Failure"), ("warning", "Failure"), ("error", "passed")])
def test_only_what_counts_is_a_failure_and_the_rest_is_said_all_the_same(fail_on: str, result: str) -> None:
    whole = report(subject(measurements=(ratio("x", 0.2),)), policy=Policy(fail_on=Severity(fail_on)))
    assert results(whole)[whole.subjects[0].id, "effective-rank/effective_rank_ratio"] == result
    assert "warning: x: 0.2 &lt; 0.3" in RENDERERS["junit"](whole, Look())


def test_a_rule_that_passed_is_listed_and_one_that_is_only_reported_has_not_passed() -> None:
    law = replace(ratio("x", 3.0), analyzer="power-law", metric="power_law_exponent")
    found = results(report(subject("a", measurements=(ratio("x", 0.9), law))))
    assert found == {("a", "reading"): "passed", ("a", "effective-rank/effective_rank_ratio"): "passed"}


def test_what_was_not_read_is_an_error_or_skipped_and_never_passed() -> None:
    assert results(failed())["b.safetensors", "reading"] == "Error"
    assert set(results(nothing_accepted()).values()) == {"Skipped"}
    assert list(results(empty()).values()) == ["Error"]
    torn = report(subject("a", status="partial", skips=(Skip(None, "w", "its shard is missing"),)))
    assert results(torn) == {("a", "reading"): "Skipped"}


def test_the_worst_fifty_sites_are_named_worst_first_and_the_rest_counted() -> None:
    whole = deep(120)
    whole = replace(whole, subjects=(replace(whole.subjects[0], findings=whole.subjects[0].findings[::-1]),))
    (suite,) = read(whole)
    (failure,) = next(case for case in suite if case.result).result
    lines = failure.text.split("\n")
    assert [line.split(": ")[1] for line in lines[:50]] == [f"model.layers.{i}.mlp.up_proj.weight" for i in range(50)]
    assert lines[50:] == ["+70 more: the JSON report has them all"]


def test_suppressed_findings_pass_and_are_said_when_asked_for() -> None:
    assert "Failure" not in results(suppressed()).values()
    assert "Failure" not in results(suppressed(), Look(show_suppressed=True)).values()
    assert "(suppressed: known)" not in RENDERERS["junit"](suppressed(), Look())
    assert "(suppressed: known)" in RENDERERS["junit"](suppressed(), Look(show_suppressed=True))


@pytest.mark.parametrize(("budget", "left"), [(60_000, False), (10_200, True)])
def test_a_file_never_grows_beyond_what_gitlab_takes(monkeypatch: pytest.MonkeyPatch, budget: int, left: bool) -> None:
    monkeypatch.setattr(junit_format, "_BUDGET", budget)
    measured = tuple(ratio(f"w{index}", 0.01) for index in range(60))
    whole = report(*(subject(f"s{index}", measurements=measured) for index in range(40)))
    text = RENDERERS["junit"](whole, Look())
    assert len(text.encode()) <= budget
    assert ("more subjects: the JSON report has them all" in text) is left
    assert "w0: 0.01" in text or left
