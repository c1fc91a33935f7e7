"""A report as a few numbers: the expectation is worked out by hand from the measurements."""

from dataclasses import replace

import pytest

from collapse_cli.core.report import from_json, to_json
from collapse_cli.integrations.scalars import HEADLINES, scalars
from tests.reports import LAW, RANK, empty, failed, partial, ratio, report, subject, suppressed

RULE = "collapse/effective-rank/effective_rank_ratio"


def test_median_ratio_to_the_null_and_worst_site_of_a_rule() -> None:
    sites = (ratio("a", 0.8), ratio("b", 0.02), ratio("c", 0.6, 0.5), ratio("d", 0.3, 0.5))
    assert scalars(report(subject(measurements=sites)), ["effective-rank/*"]) == pytest.approx(
        {
            "collapse/errors": 1.0,  # b is below 0.05; d is not below 0.3
            "collapse/warnings": 0.0,
            "collapse/incomplete": 0.0,
            RULE: (0.3 + 0.6) / 2,
            f"{RULE}.over_null": (0.8 / 0.8016 + 0.3 / 0.5) / 2,
            f"{RULE}.over_null.worst": 0.02 / 0.8016,
        },
        rel=1e-12,
    )


def test_one_site_without_a_null_leaves_the_plain_values() -> None:
    sites = (ratio("a", 0.8), replace(ratio("b", 0.4), null=None), replace(ratio("c", 0.5), null=0.0))
    found = scalars(report(subject(measurements=sites)), ["*"])
    assert {key: value for key, value in found.items() if key.startswith(RULE)} == {RULE: 0.5, f"{RULE}.worst": 0.4}


def test_the_worst_of_what_should_be_low_is_the_highest() -> None:
    lower = replace(RANK, metrics=(replace(RANK.metrics[0], better="lower"),))
    sites = (ratio("a", 0.8, 1.0), ratio("b", 0.4, 1.0))
    assert scalars(report(subject(measurements=sites), manuals=(lower,)), ["*"])[f"{RULE}.over_null.worst"] == 0.8
    neither = replace(RANK, metrics=(replace(RANK.metrics[0], better=None),))
    assert f"{RULE}.over_null.worst" not in scalars(report(subject(measurements=sites), manuals=(neither, LAW)), ["*"])


def test_only_the_rules_that_a_glob_matches() -> None:
    assert set(scalars(partial(), ["power-law/*"])) == {"collapse/errors", "collapse/warnings", "collapse/incomplete"}
    assert set(scalars(partial(), ["*/effective_rank_ratio"])) >= {RULE}


def test_what_was_not_analysed_is_not_shown_as_clean() -> None:
    assert [scalars(one())["collapse/incomplete"] for one in (empty, failed, partial)] == [1.0, 1.0, 1.0]


def test_suppressed_findings_do_not_count() -> None:
    assert scalars(suppressed())["collapse/errors"] == 0.0


def test_a_stored_report_gives_the_same_numbers() -> None:
    assert scalars(from_json(to_json(partial())), ["*"]) == scalars(partial(), ["*"])


def test_every_headline_is_a_rule() -> None:
    from collapse_cli.integrations.background import Watch

    Watch(rules=HEADLINES)  # raises for one that is none
