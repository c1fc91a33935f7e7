"""On which line of a TOML text a key stands: `tomllib` does not say, and a mistake without a line is hard to find."""

import re
from collections.abc import Mapping

__all__ = ["Place", "line_of", "lines_of"]

#: Keys and indices from the root of the document.
Place = tuple[str | int, ...]

_PART = r"""(?:"(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)"""
_PATH = rf"{_PART}(?:\s*\.\s*{_PART})*"
_ARRAY = re.compile(rf"\s*\[\[\s*({_PATH})\s*\]\]")
_TABLE = re.compile(rf"\s*\[\s*({_PATH})\s*\]")
_KEY = re.compile(rf"\s*({_PATH})\s*=")
#: Whatever opens, closes or hides brackets in a value.
_TOKEN = re.compile(r"""\"""|'''|"(?:[^"\\]|\\.)*"|'[^']*'|\#.*|[\[\]{}]""")


def lines_of(text: str) -> dict[Place, int]:
    """The line, counted from 1, of every table and key of a valid document; what is inside a value is not looked at."""
    found: dict[Place, int] = {}
    counts: dict[Place, int] = {}
    table: Place = ()
    depth, quote = 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        rest = line
        if not depth and not quote:
            table, rest = _opened(line, number, table, found, counts)
        depth, quote = _nesting(rest, depth, quote)
    return found


def _opened(
    line: str, number: int, table: Place, found: dict[Place, int], counts: dict[Place, int]
) -> tuple[Place, str]:
    """The table that holds from this line on, and what of the line is a value."""
    if match := _ARRAY.match(line):
        path = _placed(_parts(match[1]), counts)
        counts[path] = counts.get(path, 0) + 1
        table = (*path, counts[path] - 1)
        found[table] = number
        return table, ""
    if match := _TABLE.match(line):
        table = _placed(_parts(match[1]), counts)
        found.setdefault(table, number)
        return table, ""
    if match := _KEY.match(line):
        place = table
        for part in _parts(match[1]):
            place = (*place, part)
            found.setdefault(place, number)
        return table, line[match.end() :]
    return table, ""


def _placed(parts: list[str], counts: Mapping[Place, int]) -> Place:
    """The path of a header: below an array of tables it means the last one."""
    place: Place = ()
    for index, part in enumerate(parts):
        place = (*place, part)
        if place in counts and index < len(parts) - 1:
            place = (*place, counts[place] - 1)
    return place


def _parts(path: str) -> list[str]:
    parts = re.findall(_PART, path)
    return [part[1:-1] if part[0] in "\"'" else part for part in parts]


def _nesting(rest: str, depth: int, quote: str) -> tuple[int, str]:
    """How many brackets and which triple quotes are open at the end of a line."""
    position = 0
    while position < len(rest):
        if quote:
            end = rest.find(quote, position)
            if end < 0:
                return depth, quote
            position, quote = end + 3, ""
            continue
        match = _TOKEN.search(rest, position)
        if match is None:
            break
        position = match.end()
        word = match[0]
        if word in ('"""', "'''"):
            quote = word
        elif word in "[{":
            depth += 1
        elif word in "]}":
            depth -= 1
    return depth, quote


def line_of(place: Place, lines: Mapping[Place, int]) -> int | None:
    """The line of a place, or of the nearest one around it that has a line."""
    for length in range(len(place), 0, -1):
        if place[:length] in lines:
            return lines[place[:length]]
    return None
