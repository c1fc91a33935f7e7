"""Findings that do not count, in the formats that people read: hidden, unless asked for, and never obeyed."""

import unicodedata
from dataclasses import replace

import pytest

from collapse_cli.core.finding import Suppression
from collapse_cli.core.report import Report
from collapse_cli.render import RENDERERS, Look
from tests.reports import HOSTILE, hostile, suppressed

READ_BY_PEOPLE = ("table", "concise", "md")


def hidden() -> Report:
    """Every finding of a hostile report accepted, for hostile reasons."""
    whole = hostile()
    subjects = []
    for reason, subject in zip(HOSTILE, whole.subjects, strict=True):
        known = Suppression("accept", reason, "2030-01-01")
        subjects.append(replace(subject, findings=tuple(replace(one, suppressed=known) for one in subject.findings)))
    return replace(whole, subjects=tuple(subjects))


@pytest.mark.parametrize("form", READ_BY_PEOPLE)
def test_they_are_shown_when_asked_for_and_only_then(form: str) -> None:
    rule = "effective-rank/effective_rank_ratio"
    assert rule not in RENDERERS[form](suppressed(), Look(width=160))
    shown = RENDERERS[form](suppressed(), Look(width=160, show_suppressed=True))
    assert rule in shown
    assert "suppressed" in shown
    assert "known" in shown


@pytest.mark.parametrize("form", READ_BY_PEOPLE)
def test_a_quiet_pass_still_says_that_something_is_hidden(form: str) -> None:
    whole = replace(suppressed(), exit_code=0)
    whole = replace(whole, verdict=replace(whole.verdict, outcome="pass"))
    assert "1 suppressed (1 baseline, 0 accepted)" in RENDERERS[form](whole, Look(width=160, is_quiet=True))


@pytest.mark.parametrize("form", READ_BY_PEOPLE)
def test_no_reason_drives_a_terminal_or_a_runner(form: str) -> None:
    text = RENDERERS[form](hidden(), Look(width=160, show_suppressed=True))
    assert "suppressed" in text
    assert not {one for one in text if one != "\n" and unicodedata.category(one) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}
    assert not [line for line in text.splitlines() if line.lstrip().startswith("::") or "##[" in line]
