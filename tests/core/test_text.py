"""Names made harmless."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collapse_cli.core.text import inert, json_safe, plain, tail


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("model.layers.0.weight", "model.layers.0.weight"),
        ("größe.重み", "größe.重み"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb\r", r"a\nb\r"),
        ("\u202eabc", r"\u202eabc"),
        ("\x9b31m", r"\x9b31m"),
        ("\u2028x", r"\u2028x"),
        ("half\udc80", r"half\udc80"),
        ("\U000e0041", r"\U000e0041"),
        ("::error::x", r"\x3a:error::x"),
        ("  ::error::x", r"  \x3a:error::x"),
        ("a::b", "a::b"),
        ("##[error]x", r"\x23#[error]x"),
        ("a ##vso[task]", r"a \x23#vso[task]"),
        ("###[x]", r"#\x23#[x]"),
        ("#[x]", "#[x]"),
        ("w#head=3", "w#head=3"),
    ],
)
def test_what_would_act_is_shown_escaped_and_the_rest_as_it_is(name: str, shown: str) -> None:
    assert plain(name) == shown


def test_formulas_are_neutralised() -> None:
    assert [inert(text) for text in ("=1", "+1", "-1", "@a", "\t=1", "a=1", "")] == [
        *("'=1", "'+1", "'-1", "'@a", r"\t=1", "a=1", ""),
    ]


def test_the_end_of_a_long_name_stays() -> None:
    assert tail("model.layers.17.weight", 10) == "…17.weight"
    assert len(tail("x" * 65_536 + "tail", 40)) == 40
    assert tail("x" * 65_536 + "tail", 40).endswith("tail")
    assert tail("short", 40) == "short"


@given(st.text(st.characters(exclude_categories=())))
def test_json_means_the_same_and_holds_nothing_that_acts(text: str) -> None:
    safe = json_safe(json.dumps(text, ensure_ascii=False))
    assert json.loads(safe) == text
    assert plain(safe).replace(r"\x23", "#").replace(r"\x3a", ":") == safe
    safe.encode("utf-8")
