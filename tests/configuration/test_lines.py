"""Where keys stand: against `tomllib`, which knows which keys there are, and against the text of the line."""

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collapse_cli.configuration.lines import Place, line_of, lines_of

TRICKY = '''\
# a = 1
intent = "a # b [[limits]]"   # [table]
select = [
  "x = 1",  # ]
  "]", 'literal ["',
]
"quoted.key" = 'y'
tool.collapse.seed = 1
inline = { a = 1, b = [ { c = 2 } ] }
text = """
[[limits]]
ignore = 1
""" # after
raw = \'\'\'one line "\'\'\'

[[limits]]
rule = "r"
[[limits]]
rule = "s"
[[limits.inner]]
deep = 1
  [ compare ]
  tolerance = 0.1
[[compare . rules]]
rule = "t"
'''


def places(value: Any, place: Place = ()) -> Iterator[Place]:
    """Every key of a document, and every table of an array of tables."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*place, name)
            yield from places(inner, (*place, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            if isinstance(inner, dict):
                yield from places(inner, (*place, index))


def test_every_key_is_on_the_line_that_holds_it() -> None:
    lines, rows = lines_of(TRICKY), TRICKY.split("\n")
    inside = {("inline", "a"), ("inline", "b"), ("inline", "b", 0, "c")}
    # an array of tables has the lines of its tables
    arrays = {("limits",), ("compare", "rules"), ("limits", 1, "inner")}
    for place in places(tomllib.loads(TRICKY)):
        if place not in inside | arrays:
            assert str(place[-1]) in rows[lines[place] - 1], place
    assert lines["limits", 0] == rows.index("[[limits]]", 11) + 1
    assert lines["limits", 1] == lines["limits", 0] + 2
    assert line_of(("inline", "b", 0, "c"), lines) == lines["inline",]
    assert line_of(("nowhere",), lines) is None


KEY = st.text("abc-_0", min_size=1, max_size=3)
SCALAR = st.sampled_from(["1", "true", '"x"', '"[{"', "'\"'", "[\n 1,\n 2]", '"""\n[a]\nb = 1\n"""', "{ z = [1] }"])


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), KEY, SCALAR), max_size=8))
def test_a_key_is_found_whatever_the_values_before_it_look_like(entries: list[tuple[bool, str, str]]) -> None:
    text, table, expected = "", (), {}
    for index, (is_table, name, value) in enumerate(entries):
        line = text.count("\n") + 1
        if is_table:
            count = sum(place[:1] == (f"t{name}",) and len(place) == 2 for place in expected)
            table = (f"t{name}", count)
            expected[table] = line
            text += f"[[t{name}]]  # [\n"
        else:
            expected[(*table, f"{name}{index}")] = line
            text += f"{name}{index} = {value}  # {name} = [\n"
    tomllib.loads(text)
    assert lines_of(text) == expected


@pytest.mark.parametrize("text", ["", "\n\n", "a", "[", "]]", "= 1", '"""', "[[", "a = [", "\x00"])
def test_what_is_no_toml_is_no_crash(text: str) -> None:
    lines_of(text)
