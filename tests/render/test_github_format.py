"""Annotations: escaped as the runner wants it, ten of a level, and never a silent rest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from collapse_cli.core.report import Failure, Report
from collapse_cli.render import RENDERERS, Look
from tests.reports import deep, empty, failed, nothing_accepted, partial, ratio, report, subject, suppressed


def lines(given: Report, look: Look = Look()) -> list[str]:
    return RENDERERS["github"](given, look).splitlines()


def test_a_finding_is_one_command_with_title_file_line_and_remedy() -> None:
    error, failure = lines(partial())
    assert error == (
        "::error title=effective-rank/effective_rank_ratio,file=runs/7/rank_collapse.safetensors,line=1::"
        "runs/7/rank_collapse.safetensors: layers.1.mlp.up_proj.weight: 0.0166 < 0.05 (null 0.802): "
        "Uses 1.06 of 64 directions; a random matrix of this shape uses 51.3.%0A"
        "→ Lower the learning rate of this block; then look for dead inputs."
    )
    assert failure.startswith("::error title=power-law%3A failed,file=runs/7/rank_collapse.safetensors,line=1::")


@pytest.mark.parametrize(
    ("name", "in_property", "in_text"),
    [("50%", "50%25", "50%25"), ("a,b", "a%2Cb", "a,b"), ("a:b", "a%3Ab", "a:b"), ("a\nb\r", "a\\nb\\r", "a\\nb\\r")],
)
def test_percent_colon_comma_and_line_breaks_are_escaped_where_they_act(
    name: str, in_property: str, in_text: str
) -> None:
    (line,) = lines(report(subject(name, measurements=(ratio(name, 0.01),))))
    assert f",file={in_property},line=1::{in_text}: {in_text}: 0.01 < 0.05" in line


def test_of_more_than_ten_of_a_level_the_tenth_says_how_many_there_are_besides() -> None:
    measured = (*(ratio(f"e{i}", 0.01) for i in range(31)), *(ratio(f"w{i}", 0.2) for i in range(10)))
    found = lines(report(subject(measurements=measured)))
    errors = [line for line in found if line.startswith("::error ")]
    assert len(errors) == 10
    assert errors[-1].startswith("::error title=collapse%3A +22 more errors::+22 more of this level")
    assert [line.partition(" ")[0] for line in found] == ["::error"] * 10 + ["::warning"] * 10
    assert len(lines(deep(10))) == 10
    assert "more" not in lines(deep(10))[-1].partition("::")[2].partition(",")[0]


def test_what_could_not_be_read_comes_first_and_a_mild_skip_is_no_annotation() -> None:
    (first,) = lines(failed())
    assert first.startswith(
        "::error title=collapse%3A not analysed,file=b.safetensors,line=1::b.safetensors: failed: Un"
    )


@pytest.mark.parametrize("given", [empty(), nothing_accepted()])
def test_nothing_analysed_is_an_error_and_no_silence(given: Report) -> None:
    (line,) = lines(given)
    assert line.startswith("::error ")


def test_a_pass_says_nothing_and_suppressed_findings_are_notices_when_asked_for() -> None:
    whole = suppressed()
    whole = replace(whole, subjects=(replace(whole.subjects[0], status="complete", failures=()),))
    assert lines(whole) == []
    (line,) = lines(whole, Look(show_suppressed=True))
    assert line.startswith("::notice title=effective-rank/effective_rank_ratio,")
    assert line.endswith("(suppressed: known)")


def test_many_failures_leave_room_for_findings() -> None:
    many = tuple(Failure("power-law", f"w{index}", "NotConverged", "no") for index in range(40))
    found = lines(report(subject(status="partial", measurements=(ratio("x", 0.01),), failures=many)))
    assert len(found) == 10
    assert found[0].startswith("::error title=effective-rank/effective_rank_ratio,")
