"""Words of flags as values."""

import pytest

from collapse_cli.cli.options import byte_count, words
from collapse_cli.cli.request import Mapping, choice, mapping
from collapse_cli.core.site import Role
from collapse_cli.errors import BadPolicy


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("4GiB", 4 * 2**30),
        ("4gib", 4 * 2**30),
        ("500MB", 500_000_000),
        ("1.5k", 1_500),
        ("2e9", 2_000_000_000),
        ("1Ki", 1_024),
        ("17", 17),
        (" 3 TB ", 3 * 10**12),
    ],
)
def test_sizes(text: str, count: int) -> None:
    assert byte_count(text) == count


@pytest.mark.parametrize("text", ["", "GB", "3Q", "-1", "0", "inf", "nan", "1e400", "4 potatoes"])
def test_what_is_no_size_is_an_error(text: str) -> None:
    with pytest.raises(BadPolicy, match="--max-memory"):
        byte_count(text)


def test_no_size_is_no_bound() -> None:
    assert byte_count(None) is None


def test_lists_are_repeated_or_separated_by_commas() -> None:
    assert words(["a,b", " c ", ",,"]) == ("a", "b", "c")
    assert words(None) == ()


def test_a_role_is_given_to_a_pattern_that_may_hold_an_equals_sign() -> None:
    assert mapping(("codebook=vq.table", "head=x=y", "encoder.1/features=h", "labels=y")) == Mapping(
        {"vq.table": Role.CODEBOOK, "x=y": Role.HEAD},
        {"codebook": "vq.table", "encoder.1/features": "h", "labels": "y"},
    )


def test_a_wrong_word_lists_the_right_ones_and_guesses() -> None:
    with pytest.raises(BadPolicy) as caught:
        choice("--color", "alwys", ("auto", "always", "never"))
    assert str(caught.value) == '--color "alwys" should be one of auto, always, never'
    assert caught.value.hint == 'did you mean "always"?'
