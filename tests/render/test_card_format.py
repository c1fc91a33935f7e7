"""The section of a model card: verdict, digest, version, key metrics, in few characters."""

from __future__ import annotations

from dataclasses import replace

import pytest

from collapse_cli.core.report import Part, Report
from collapse_cli.render import RENDERERS, Look
from tests.reports import LAW, RANK, REPORTS, deep, partial, ratio, report, subject


def card(given: Report) -> str:
    return RENDERERS["card"](given, Look())


def test_verdict_version_digest_coverage_and_the_worst_value_of_a_key_metric() -> None:
    lines = card(partial()).splitlines()
    assert lines[0] == "## Collapse check"
    assert lines[2].startswith("**Incomplete: 1 error, 1 analysis failed")
    assert lines[4] == "Measured on 2026-03-01 with collapse 0.3.0."
    assert f"| digest | `sha256:{'0' * 64}` |" in lines
    assert "| coverage | partial: analysed 3 of 3 wanted tensors (1 more wanted by no analyzer) |" in lines
    row = "| `effective-rank/effective_rank_ratio` | 0.0166 | `layers.1.mlp.up_proj.weight` | 0.802 | 0.802 | 3 |"
    assert row in lines
    assert "- failed: `power-law` `layers.1.mlp.up_proj.weight` NotConverged: the fit did not" in "\n".join(lines)


def test_an_experimental_metric_is_no_key_metric() -> None:
    law = replace(ratio("x", 3.0), analyzer="power-law", metric="power_law_exponent")
    shown = report(subject(measurements=(law,)), manuals=(RANK, replace(LAW, confidence="established")))
    assert "power_law_exponent" not in card(report(subject(measurements=(law,))))
    assert "| `power-law/power_law_exponent` | 3 | `x` | 3 | 0.802 | 1 |" in card(shown)


def test_a_comparison_states_the_digest_of_each_side() -> None:
    parts = (Part("a.pt", "a.pt", "sha256:aa"), Part("b.pt", "b.pt", "sha256:bb"))
    text = card(report(subject("a..b", kind="pair", digest=None, parts=parts)))
    assert "| of | `a.pt` `sha256:aa` |\n| of | `b.pt` `sha256:bb` |" in text


@pytest.mark.parametrize("name", REPORTS)
def test_a_card_fits_into_a_comment(name: str) -> None:
    assert len(card(REPORTS[name]()).encode()) <= 60_200


def test_what_is_left_out_is_counted() -> None:
    assert "+250 more findings: the JSON report has them all" in card(deep(300))
    many = report(*(subject(f"s{index}", measurements=(ratio("x", 0.9),)) for index in range(30)))
    assert "+10 more subjects: the JSON report has them all" in card(many)


def test_a_card_of_many_long_names_is_cut_and_says_so() -> None:
    measured = tuple(ratio(f"{'long.' * 50}{index}", 0.01) for index in range(40))
    text = card(report(*(subject(f"s{index}", measurements=measured) for index in range(15))))
    assert 50_000 < len(text.encode()) <= 60_200
    assert text.endswith(" more lines: the JSON report has them all\n")
