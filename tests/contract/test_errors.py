"""The drawn tree of errors is the real one; every error says where, what, expected, got and what to do."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from collapse_cli import errors
from collapse_cli.errors import CollapseError

CLASSES = [member for _, member in inspect.getmembers(errors, inspect.isclass) if issubclass(member, CollapseError)]
PARTS = {"what": "went wrong", "where": "a.bin", "expected": "should be 3", "got": "it is 4", "hint": "copy it again"}


def drawn() -> dict[str, str]:
    """Class → parent, as the drawing in the module's docstring has it."""
    tree: dict[str, str] = {}
    path: list[str] = []
    for line in errors.__doc__.split("```")[1].strip().splitlines():
        found = re.match(r"^([│├└─\s]*)(\w+)", line)
        assert found is not None
        depth = len(found[1]) // 4
        path[depth:] = [found[2]]
        if depth:
            tree[found[2]] = path[depth - 1]
    return tree


def test_the_drawn_tree_is_the_real_tree() -> None:
    real = {one.__name__: one.__base__.__name__ for one in CLASSES if one is not CollapseError}
    assert drawn() == real


def test_every_error_is_exported_and_nothing_else_is() -> None:
    assert sorted(errors.__all__) == sorted(one.__name__ for one in CLASSES)


def test_the_drawing_states_the_exit_code_of_its_branch() -> None:
    stated = re.findall(r"(\w+)\s+exit (\d)", errors.__doc__)
    assert stated
    for name, code in stated:
        branch = getattr(errors, name)
        assert {one.exit_code for one in CLASSES if issubclass(one, branch)} == {int(code)}


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_has_a_docstring_of_its_own_and_a_code_that_is_not_findings(kind: type[CollapseError]) -> None:
    assert kind.__dict__.get("__doc__", "").strip()
    assert kind.exit_code == 2, "1 means findings, 3 that nothing was analysed"


@pytest.mark.parametrize("kind", CLASSES)
def test_a_message_has_all_its_parts_on_one_line_and_the_hint_apart(kind: type[CollapseError]) -> None:
    error = kind(**PARTS)
    assert str(error).endswith("went wrong should be 3, it is 4")
    assert "a.bin" in str(error)
    assert "\n" not in str(error)
    assert error.hint == "copy it again"
    assert str(kind("went wrong")) == "went wrong"


@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_the_way_out_of_a_worker_process(kind: type[CollapseError]) -> None:
    error = kind(**PARTS)
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert (str(back), vars(back)) == (str(error), vars(error))


def test_the_example_of_the_docstring_is_what_an_error_says() -> None:
    error = errors.UnreadableCheckpoint(
        'tensor "layers.3.w"',
        where="runs/7/model.safetensors",
        expected="should end at byte 4,194,304",
        got="the file ends at 4,100,000",
        hint="the file is truncated; copy it again",
    )
    assert str(error) in errors.__doc__
    assert f"hint: {error.hint}" in errors.__doc__
