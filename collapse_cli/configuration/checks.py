"""Every mistake of a configuration, each with its place: a file is corrected once, not once a mistake."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, final

from collapse_cli.configuration.keys import KEYS, TABLES, Key, Table
from collapse_cli.configuration.lines import Place
from collapse_cli.core.manual import Manual
from collapse_cli.core.metric import Metric

__all__ = ["Known", "Mistake", "mistakes"]

Mistake = tuple[Place, str]

#: Keys that are not flags: tables of their own.
_OF_TABLES = ("limits", "accept", "compare")


@final
@dataclass(frozen=True, slots=True)
class Known:
    """What a configuration may name: manuals, plugins that did not load, and words that other parts know by key."""

    manuals: tuple[Manual, ...]
    broken: tuple[str, ...] = ()
    choices: Mapping[str, Sequence[str]] | None = None

    @property
    def rules(self) -> dict[str, Metric]:
        """Rule → metric."""
        return {f"{manual.name}/{metric.name}": metric for manual in self.manuals for metric in manual.metrics}


def mistakes(table: Mapping[str, Any], known: Known) -> Iterator[Mistake]:
    """What is wrong with a configuration; nothing if it may be used."""
    keys = {key.name: key for key in KEYS}
    for name, value in table.items():
        if name in keys:
            yield from _of_key(keys[name], value, known)
        elif name == "compare":
            yield from _of_comparison(value, known)
        elif name in _OF_TABLES:
            yield from _of_tables(next(one for one in TABLES if one.name == name), (name,), value, known)
        else:
            yield (name,), _unknown("key", name, (*keys, *_OF_TABLES))


def _unknown(what: str, word: str, known: Iterable[str]) -> str:
    close = get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f'unknown {what} "{word}"' + (f'; did you mean "{close[0]}"?' if close else "")


def _of_key(key: Key, value: Any, known: Known) -> Iterator[Mistake]:
    place = (key.name,)
    if key.kind in ("words", "files", "analyzers"):
        if not _is_words(value):
            yield place, f"{key.name} should be a list of words, e.g. {key.example}"
        elif key.kind == "analyzers":
            yield from ((place, wrong) for word in value for wrong in _unselectable(word, known))
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    fits = {
        "switch": isinstance(value, bool),
        "integer": isinstance(value, int) and not isinstance(value, bool),
        "seconds": is_number and value >= 0,
        "size": isinstance(value, str) or (is_number and value > 0),
        "text": isinstance(value, str),
        "file": isinstance(value, str) and value != "",
    }
    allowed = key.choices or tuple((known.choices or {}).get(key.name, ()))
    if not fits[key.kind]:
        yield place, f"{key.name} should be {_EXPECTED[key.kind]}, e.g. {key.example}"
    elif allowed and value not in allowed:
        close = get_close_matches(str(value), allowed, n=1)
        guess = f'; did you mean "{close[0]}"?' if close else ""
        yield place, f'{key.name} "{value}" should be one of {", ".join(allowed)}{guess}'


_EXPECTED = {
    "switch": "true or false",
    "integer": "a whole number",
    "seconds": "seconds",
    "size": "a size",
    "text": "a word",
    "file": "a path",
}


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) and word for word in value)


def _unselectable(word: str, known: Known) -> Iterator[str]:
    names = [name for manual in known.manuals for name in (manual.name, manual.family)]
    if word == "all" or word in known.broken or any(fnmatchcase(name, word) for name in names):
        return
    close = get_close_matches(word, names, n=1)
    guess = f'; did you mean "{close[0]}"?' if close else "; `collapse list` shows them all"
    yield f'no analyzer, family or pattern "{word}"{guess}'


def _of_comparison(value: Any, known: Known) -> Iterator[Mistake]:
    if not isinstance(value, dict):
        yield ("compare",), "compare should be a table: [compare]"
        return
    for name, inner in value.items():
        place = ("compare", name)
        if name == "tolerance":
            if not _is_share(inner):
                yield place, "tolerance should be a number from 0 on, e.g. 0.05"
        elif name == "rules":
            yield from _of_tables(next(one for one in TABLES if one.name == "compare.rules"), place, inner, known)
        else:
            yield place, _unknown("key", name, ("tolerance", "rules"))


def _of_tables(table: Table, place: Place, value: Any, known: Known) -> Iterator[Mistake]:
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        yield place, f"{table.name} should be tables: [[{table.name}]]"
        return
    for index, entry in enumerate(value):
        here = (*place, index)
        for name in entry:
            if name not in table.keys:
                yield (*here, name), _unknown("key", name, table.keys)
        for name in table.required:
            if name not in entry:
                yield here, f'{table.name} {"needs" if table.name == "accept" else "need"} a "{name}"'
        for name, inner in entry.items():
            yield from (((*here, name), wrong) for wrong in _of_entry(name, inner, known))
        if table.name == "limits":
            yield from ((here, wrong) for wrong in _of_limit(entry, known))


def _of_entry(name: str, value: Any, known: Known) -> Iterator[str]:
    if name == "rule":
        yield from _of_rule(value, known)
    elif name in ("sites", "subjects"):
        if not _is_words(value):
            yield f'{name} should be a list of names or globs, e.g. ["*.weight"]'
    elif name in ("warn", "error"):
        if value is not False and not _is_finite(value):
            yield f"{name} should be a number, or false for no such limit"
    elif name == "tolerance":
        if value is not False and not _is_share(value):
            yield "tolerance should be a number from 0 on, or false for no comparison"
    elif name in ("source", "reason"):
        if not isinstance(value, str) or not value.strip():
            yield f"{name} should say something"
    elif name == "until" and not _is_day(value):
        yield "until should be a day, e.g. 2027-01-01"


def _of_rule(value: Any, known: Known) -> Iterator[str]:
    rules = known.rules
    if not isinstance(value, str):
        yield 'rule should be a rule or a glob over rules, e.g. "dead-units/*"'
        return
    analyzer = value.partition("/")[0]
    if any(fnmatchcase(rule, value) for rule in rules) or analyzer in known.broken:
        return
    close = get_close_matches(value, list(rules), n=1)
    names = {rule.partition("/")[0] for rule in rules}
    where = (
        f"`collapse explain {analyzer}` lists its metrics" if analyzer in names else "`collapse list` names them all"
    )
    guess = f'; did you mean "{close[0]}"?' if close else f"; {where}"
    if "/" not in value and any(fnmatchcase(rule.partition("/")[0], value) for rule in rules):
        guess = f'; did you mean "{value}/*"?'
    yield f'no rule "{value}"{guess}'


def _of_limit(entry: Mapping[str, Any], known: Known) -> Iterator[str]:
    if "warn" not in entry and "error" not in entry:
        yield 'limits need "warn" or "error"'
        return
    warn, error, rule = entry.get("warn"), entry.get("error"), entry.get("rule")
    if warn is None or error is None or not (_is_finite(warn) and _is_finite(error) and isinstance(rule, str)):
        return
    sides = {_side(metric) for name, metric in known.rules.items() if fnmatchcase(name, rule)}
    if (sides == {"below"} and error > warn) or (sides == {"above"} and error < warn):
        yield f"error {error} is milder than warn {warn}: findings lie {sides.pop()} the limit"


def _side(metric: Metric) -> str:
    limit = metric.error or metric.warn
    if limit is not None:
        return limit.side
    return "below" if metric.better == "higher" else "above"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_share(value: Any) -> bool:
    return _is_finite(value) and value >= 0


def _is_day(value: Any) -> bool:
    if isinstance(value, str):
        try:
            return date.fromisoformat(value).isoformat() == value
        except ValueError:
            return False
    return isinstance(value, date) and not isinstance(value, datetime)
