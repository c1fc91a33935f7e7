"""Code Quality: the fields that GitLab reads, and no two entries that it would show as one."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from collapse_cli.core.report import Failure, Report
from collapse_cli.render import RENDERERS, Look
from tests.reports import RANK, REPORTS, finding, partial, ratio, report, subject, suppressed


def issues(given: Report, look: Look = Look()) -> list[dict[str, Any]]:
    text = RENDERERS["gitlab"](given, look)
    assert text.startswith("[")
    return json.loads(text)


@pytest.mark.parametrize("name", REPORTS)
def test_every_entry_has_what_gitlab_reads(name: str) -> None:
    found = issues(REPORTS[name]())
    for one in found:
        assert set(one) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert one["description"].startswith(f"{one['check_name']}: ")
        assert one["severity"] in ("info", "minor", "major")
        assert one["location"]["lines"] == {"begin": 1}
        path = one["location"]["path"]
        assert path
        assert not path.startswith(("/", "./", "../"))
        assert len(one["fingerprint"]) == 64
    assert len({one["fingerprint"] for one in found}) == len(found)


def test_nothing_to_say_is_an_empty_array() -> None:
    assert RENDERERS["gitlab"](report(subject(measurements=(ratio("x", 0.9),))), Look()) == "[]\n"


def test_a_finding_keeps_its_fingerprint_and_a_failure_has_one_too() -> None:
    failure, error = issues(partial())
    assert error["fingerprint"] == partial().subjects[0].findings[0].fingerprint
    assert (error["severity"], failure["severity"]) == ("major", "major")
    assert failure["check_name"] == "power-law/failed"
    assert issues(partial())[0]["fingerprint"] == failure["fingerprint"]


def test_equal_entries_get_fingerprints_of_their_own() -> None:
    twice = (Failure("power-law", "w", "NotConverged", "no"),) * 3
    found = issues(replace(report(manuals=(RANK,)), subjects=(subject(findings=(finding(),) * 2, failures=twice),)))
    assert len({one["fingerprint"] for one in found}) == 5


def test_suppressed_findings_are_left_out_or_informative() -> None:
    assert all("effective_rank_ratio" not in one["check_name"] for one in issues(suppressed()))
    shown = [one for one in issues(suppressed(), Look(show_suppressed=True)) if "ratio" in one["check_name"]]
    assert [one["severity"] for one in shown] == ["info"]
    assert shown[0]["description"].endswith("(suppressed: known)")
