"""Findings that are accepted until a day, and what is said of the entries."""

from dataclasses import replace
from datetime import date

import pytest

from collapse_cli.acceptance import accepted, remarks
from collapse_cli.core.finding import Suppression
from collapse_cli.core.policy import Accept, Policy
from collapse_cli.core.report import Subject
from collapse_cli.judge import judge
from tests.reports import RANK, ratio, subject

KNOWN = Accept("effective-rank/*", "padding row", "2027-01-01")
DAY = date(2026, 6, 1)


def ill(identity: str = "a", *sites: str) -> Subject:
    measured = tuple(ratio(site, 0.01) for site in sites or ("w", "head.weight"))
    return judge(subject(identity, measurements=measured), [RANK], Policy())


def hidden(entry: Accept, today: date = DAY, identity: str = "a") -> list[str]:
    return [one.measurement.site for one in accepted(ill(identity), (entry,), today).findings if one.suppressed]


@pytest.mark.parametrize(
    ("changes", "sites"),
    [
        ({}, ["w", "head.weight"]),
        ({"sites": ("head*",)}, ["head.weight"]),
        ({"sites": ("x", "w")}, ["w"]),
        ({"subjects": ("a",)}, ["w", "head.weight"]),
        ({"subjects": ("b*",)}, []),
        ({"rule": "*"}, ["w", "head.weight"]),
        ({"rule": "effective-rank/effective_rank"}, []),
    ],
)
def test_an_entry_accepts_what_rule_subject_and_site_mean(changes: dict[str, object], sites: list[str]) -> None:
    assert hidden(replace(KNOWN, **changes)) == sites


@pytest.mark.parametrize(("today", "count"), [(date(2027, 1, 1), 2), (date(2027, 1, 2), 0), (date(2020, 1, 1), 2)])
def test_the_day_itself_is_the_last_one(today: date, count: int) -> None:
    assert len(hidden(KNOWN, today)) == count


def test_a_suppressed_finding_says_by_what_why_and_until_when() -> None:
    finding = accepted(ill(), (replace(KNOWN, until="2020-01-01"), KNOWN), DAY).findings[0]
    assert finding.suppressed == Suppression("accept", "padding row", "2027-01-01")


def told(entry: Accept, *subjects: Subject, ran: tuple[str, ...] = ("effective-rank",)) -> list[str]:
    shown = [accepted(one, (entry,), DAY) for one in subjects]
    return remarks([(shown, ran)], (entry,), DAY)


def test_what_is_over_is_told_with_the_findings_that_are_back() -> None:
    over = replace(KNOWN, until="2026-05-31")
    words = 'accept "effective-rank/*" (padding row) ended on 2026-05-31: '
    assert told(over, ill()) == [words + "2 findings are back"]
    assert told(over, ill("a", "w")) == [words + "1 finding is back"]
    assert told(over, subject("a")) == [words + "remove it"]
    renewed = [accepted(ill(), (over, KNOWN), DAY)]
    assert remarks([(renewed, ("effective-rank",))], (over, KNOWN), DAY) == [words + "remove it"]


def test_what_matches_nothing_is_told_where_it_could_have_matched() -> None:
    said = ['accept "effective-rank/*" (padding row) matches no finding: remove it']
    assert told(KNOWN, ill()) == []
    assert told(KNOWN, subject("a")) == said
    assert told(KNOWN, subject("a"), ran=("power-law",)) == [], "its analyzer did not run"
    assert told(replace(KNOWN, subjects=("b",)), subject("a")) == [], "its subject was not given"
    assert told(KNOWN, subject("a", status="failed")) == [], "its subject could not be read"
    assert told(KNOWN, subject("a"), ill("b")) == []
