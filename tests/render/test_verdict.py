"""Numbers and limits in words."""

import pytest

from collapse_cli.core.metric import Limit
from collapse_cli.core.policy import Policy
from collapse_cli.render.spark import spark
from collapse_cli.render.verdict import counted, limit_words, number, number_of, verdict_line
from tests.reports import empty, partial, ratio, report, subject


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.016634, "0.0166"),
        (0.0, "0"),
        (1.0, "1"),
        (51.349, "51.3"),
        (1234.5, "1,234"),
        (-98765.4, "-98,765"),
        (2.5e6, "2.5e+06"),
        (3.14159e-7, "3.14e-07"),
    ],
)
def test_numbers_have_three_digits_and_whole_ones_are_whole(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value", "limit", "shown"),
    [
        (0.01663, Limit("below", 0.05, "s"), "0.0166 < 0.05 (null 0.802)"),
        (0.0499999, Limit("below", 0.05, "s"), "0.0499999 < 0.05 (null 0.8016)"),
        (0.3206, Limit("below", 0.4, "s", of="null"), "0.3206 < 0.4 × null (null 0.8016)"),
        (1.0, Limit("below", 1.0, "s", inclusive=True), "1 <= 1 (null 0.802)"),
        (7.0, Limit("above", 2.0, "s"), "7 > 2 (null 0.802)"),
        (7.0, Limit("above", 0.9999, "s"), "7 > 0.9999 (null 0.802)"),
    ],
)
def test_a_comparison_shows_digits_enough_to_be_true(value: float, limit: Limit, shown: str) -> None:
    assert number_of(ratio("x", value), limit) == shown


def test_a_limit_on_the_null_says_so() -> None:
    assert limit_words(Limit("above", 2.0, "s", of="null")) == "limit > 2 × null"
    assert limit_words(Limit("below", 0.05, "s")) == "limit < 0.05"


def test_plurals() -> None:
    assert [counted(1, "analysis"), counted(2, "analysis"), counted(1_000, "site")] == [
        "1 analysis",
        "2 analyses",
        "1,000 sites",
    ]


def test_the_verdict_names_the_code_and_what_allow_partial_would_change() -> None:
    assert verdict_line(partial()).endswith("Exit 2 (1 with --allow-partial).")
    assert verdict_line(empty()) == "Nothing was analysed: no findings. Exit 3."
    assert verdict_line(report(subject())) == "Pass: no findings. Exit 0."
    found = report(subject(measurements=(ratio("head.weight", 0.01), ratio("a", 0.2))))
    assert verdict_line(found) == "Fail: 1 error, 1 warning. Exit 1."
    waived = report(*found.subjects, policy=Policy(exit_zero=True))
    assert verdict_line(waived) == "Fail: 1 error, 1 warning. Exit 0."


def test_a_curve_is_proportional_to_its_values() -> None:
    assert spark([0.0, 0.5, 1.0]) == "▁▅█"
    assert spark([1.0, 1.0, 1.0]) == "███"
    assert spark([1.0, 1.0], ceiling=50.0) == "▁▁", "what is flat and low looks so"
    assert spark([-1.0, 1.0]) == "▁█"
    assert spark([0.0, 0.0]) == "▁▁"
    assert spark([1.7e308, -1.7e308]) == "█▁"
    assert spark([]) == ""
    assert len(spark(list(range(300)))) == 24
    assert spark([float(n) for n in range(300)])[-1] == "█"
