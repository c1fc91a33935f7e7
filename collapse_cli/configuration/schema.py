"""The JSON Schema of a configuration file, for editors that complete and check while one types."""

from collections.abc import Mapping, Sequence
from typing import Any

from collapse_cli.configuration.keys import KEYS, TABLES, Key

__all__ = ["json_schema"]

_WORDS = {"type": "array", "items": {"type": "string", "minLength": 1}}
_NUMBER_OR_FALSE = {"oneOf": [{"type": "number"}, {"const": False}]}
_KINDS: dict[str, dict[str, Any]] = {
    "text": {"type": "string"},
    "words": _WORDS,
    "analyzers": _WORDS,
    "files": _WORDS,
    "switch": {"type": "boolean"},
    "integer": {"type": "integer"},
    "seconds": {"type": "number", "minimum": 0},
    "size": {"oneOf": [{"type": "string"}, {"type": "number", "exclusiveMinimum": 0}]},
    "file": {"type": "string", "minLength": 1},
}
_SHARE = {"type": "number", "minimum": 0}
_OF_ENTRIES: dict[str, dict[str, Any]] = {
    "rule": {"type": "string", "description": "<analyzer>/<metric>, or a glob over rules."},
    "sites": _WORDS | {"description": "Globs; absent: every site."},
    "subjects": _WORDS | {"description": "Globs over subject ids; absent: every subject."},
    "warn": _NUMBER_OR_FALSE,
    "error": _NUMBER_OR_FALSE,
    "source": {"type": "string", "minLength": 1, "description": "Where the number comes from."},
    "reason": {"type": "string", "minLength": 1},
    "until": {"type": "string", "format": "date", "description": "The last day on which it is accepted."},
    "tolerance": {"oneOf": [_SHARE, {"const": False}]},
}


def json_schema(choices: Mapping[str, Sequence[str]] | None = None) -> dict[str, Any]:
    """Every key with its type; `choices` are the words of keys whose values other parts of the program know."""
    tables = {table.name: _table(table.keys, table.required, table.says) for table in TABLES}
    properties = {key.name: _property(key, choices or {}) for key in KEYS}
    properties["limits"] = {"type": "array", "items": tables["limits"]}
    properties["accept"] = {"type": "array", "items": tables["accept"]}
    properties["compare"] = {
        "type": "object",
        "properties": {
            "tolerance": _SHARE | {"description": "Share by which a metric may get worse from release to release."},
            "rules": {"type": "array", "items": tables["compare.rules"]},
        },
        "additionalProperties": False,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "collapse.toml",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _property(key: Key, choices: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    allowed = key.choices or tuple(choices.get(key.name, ()))
    return _KINDS[key.kind] | ({"enum": list(allowed)} if allowed else {}) | {"description": key.says}


def _table(keys: Sequence[str], required: Sequence[str], says: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "type": "object",
        "description": says[:1].upper() + says[1:] + ".",
        "properties": {name: _OF_ENTRIES[name] for name in keys},
        "required": list(required),
        "additionalProperties": False,
    }
    if "warn" in keys:
        found["anyOf"] = [{"required": ["warn"]}, {"required": ["error"]}]
    return found
