"""What a person sees at a terminal."""

import re
from dataclasses import replace

import pytest
from rich.cells import cell_len

from collapse_cli.core.metric import Limit
from collapse_cli.core.policy import Override, Policy
from collapse_cli.core.report import Failure, Skip
from collapse_cli.render import RENDERERS, Look
from tests.reports import LAW, RANK, RATIO, REPORTS, deep, partial, ratio, report, subject

DOCUMENTED = """\
runs/7/rank_collapse.safetensors   safetensors · 4 tensors · 8,832 parameters wanted · F32
analysed 3 of 3 wanted tensors (1 more wanted by no analyzer) · 2 analyzers · cpu · 0.4 s

 family    analyzer        sites  error  warning  skipped  failed
 spectrum  effective-rank      3      1        0        0       0
 spectrum  power-law           0      -        -        1       1
 - not judged   0 clean

 ✖ error   effective-rank/effective_rank_ratio   limit < 0.05   layer 0 █▁ 1
           layers.1.mlp.up_proj.weight   0.0166   random 0.802   Uses 1.06 of 64 directions; a random matrix of this
                                                                 shape uses 51.3.
           → Lower the learning rate of this block; then look for dead inputs.   collapse explain effective-rank
 ✖ failed power-law layers.1.mlp.up_proj.weight: NotConverged: the fit did not converge in 100 steps

Incomplete: 1 error, 1 analysis failed, 1 skipped. Exit 2 (1 with --allow-partial).
"""


def table(given: object, **look: object) -> str:
    return RENDERERS["table"](given, Look(**look))  # type: ignore[arg-type]


def test_the_documented_report() -> None:
    assert table(partial(), width=118) == DOCUMENTED


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_no_line_is_wider_than_the_terminal(name: str, width: int) -> None:
    lines = table(REPORTS[name](), width=width, show_all=True).splitlines()
    assert max((cell_len(line) for line in lines), default=0) <= width


@pytest.mark.parametrize("width", [60, 80, 200])
def test_words_and_names_of_usual_length_stay_whole(width: int) -> None:
    words = table(partial(), width=width).split()
    for word in ("effective-rank/effective_rank_ratio", "layers.1.mlp.up_proj.weight", "directions;", "NotConverged:"):
        assert word in words


def test_three_hundred_ill_layers_are_one_entry_with_the_worst_sites_and_one_remedy() -> None:
    text = table(deep(), width=120)
    assert len(text.splitlines()) < 40
    assert "300 sites" in text
    assert "+288 more, none worse" in text
    assert text.count(RANK.remedy) == 1
    shown = [int(number) for number in re.findall(r"…(\d+)\.mlp", text)]
    assert shown == list(range(12)), "value grows with the layer, so the first twelve are the worst"


def test_the_common_prefix_is_cut_and_the_tail_is_whole() -> None:
    names = [f"model.layers.{index}.mlp.up_proj.weight" for index in (0, 1)]
    text = table(report(subject(measurements=tuple(ratio(name, 0.01) for name in names))), width=120)
    assert [f"…{index}.mlp.up_proj.weight" in text for index in (0, 1)] == [True, True]


def test_a_message_that_all_sites_share_is_said_once() -> None:
    both = report(subject(measurements=(ratio("a", 0.01), ratio("b", 0.01))))
    assert table(both, width=160).count("a random matrix of this shape uses") == 1


def test_a_remedy_is_said_once_however_many_rules_and_severities() -> None:
    both = report(subject(measurements=(ratio("a", 0.01), ratio("b", 0.2))))
    text = table(both, width=160)
    assert "✖ error" in text
    assert "▲ warning" in text
    assert text.count(RANK.remedy) == 1


def test_a_limit_on_the_null_shows_the_null() -> None:
    metric = replace(RATIO, warn=None, error=Limit("below", 0.4, "s", of="null"))
    text = table(
        report(subject(measurements=(ratio("a", 0.01),)), manuals=(replace(RANK, metrics=(metric,)),)), width=160
    )
    assert "limit < 0.4 × null" in text
    assert "random 0.802" in text


def test_what_was_not_judged_is_a_dash_and_not_a_zero() -> None:
    measured = (ratio("a", 0.9), replace(ratio("a", 3.0), analyzer="power-law", metric="power_law_exponent"))
    rows = {
        line.split()[1]: line.split()[2:]
        for line in table(report(subject(measurements=measured))).splitlines()
        if "spectrum" in line
    }
    assert rows == {"effective-rank": ["1", "0", "0", "0", "0"], "power-law": ["1", "-", "-", "0", "0"]}


def test_a_limit_bound_to_an_intent_judges_only_under_it() -> None:
    bound = Limit("below", 0.05, "s", intent=frozenset({"classifier"}))
    manual = replace(RANK, metrics=(replace(RATIO, warn=None, error=bound),))
    for intent, cell in ((None, "-"), ("classifier", "0")):
        whole = report(subject(measurements=(ratio("a", 0.9),)), manuals=(manual,), policy=Policy(intent=intent))
        (row,) = [line.split() for line in table(whole).splitlines() if line.startswith(" spectrum")]
        assert row[3] == cell


def test_findings_of_limits_of_the_users_own_are_counted_though_the_manual_has_none() -> None:
    policy = Policy(limits=(Override("power-law/*", "ours", warn=2.0),))
    measured = replace(ratio("a", 3.0), analyzer="power-law", metric="power_law_exponent")
    text = table(report(subject(measurements=(measured,)), manuals=(LAW,), policy=policy))
    (row,) = [line.split() for line in text.splitlines() if line.startswith(" spectrum")]
    assert row[2:5] == ["1", "-", "1"]


def test_many_failures_are_counted_beyond_the_first() -> None:
    failures = tuple(Failure("power-law", f"layers.{index}", "NotConverged", "no") for index in range(40))
    text = table(report(subject(status="partial", failures=failures)))
    assert text.count("✖ failed") == 12
    assert "+28 more" in text


def test_a_quiet_pass_is_silent_and_a_quiet_failure_is_not() -> None:
    assert table(report(subject(measurements=(ratio("a", 0.9),))), is_quiet=True) == ""
    text = table(partial(), is_quiet=True)
    assert "family" not in text
    assert text.startswith("runs/7/rank_collapse.safetensors\n ✖ error")


def test_an_analyzer_that_measured_nothing_is_not_clean() -> None:
    whole = report(subject(skips=(Skip("effective-rank", "head.weight", "not finite"),)))
    (row,) = [line.split() for line in table(whole).splitlines() if line.startswith(" spectrum")]
    assert row == ["spectrum", "effective-rank", "0", "-", "-", "1", "0"]
