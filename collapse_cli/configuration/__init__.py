"""The configuration file: `collapse.toml`, or `[tool.collapse]` of a `pyproject.toml`; found, checked, understood.

The nearest one upwards from the working directory is in force and nothing is merged. It is never looked for in the
folder of a subject: a downloaded model must not bring its own accepted findings.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from collapse_cli.configuration.checks import Known, mistakes
from collapse_cli.configuration.keys import KEYS
from collapse_cli.configuration.lines import line_of, lines_of
from collapse_cli.configuration.place import NAME, Document, document, nearest
from collapse_cli.core.policy import Accept, Allowance, Comparison, Override
from collapse_cli.errors import BadPolicy

__all__ = ["NAME", "Configuration", "Document", "Known", "document", "nearest", "understood"]


@final
@dataclass(frozen=True, slots=True)
class Configuration:
    """What a file says: the values of flags, with paths as seen from the working directory, limits, acceptances.

    `folder` is what subject ids are relative to, `lines` where each key stands, `digest` the SHA-256 of the keys and
    their values in canonical JSON, so that neither comments nor the rest of a `pyproject.toml` are in it.
    """

    file: Path | None = None
    digest: str | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    limits: tuple[Override, ...] = ()
    accepted: tuple[Accept, ...] = ()
    comparison: Comparison = field(default_factory=Comparison)
    lines: Mapping[str, int] = field(default_factory=dict)

    @property
    def folder(self) -> Path | None:
        """The folder of the file; None without one."""
        return None if self.file is None else self.file.parent


def understood(found: Document | None, known: Known) -> Configuration:
    """The configuration that a document holds; without a document, one that says nothing.

    Raises:
        BadPolicy: all of its mistakes, each with its line.
    """
    if found is None:
        return Configuration()
    lines = lines_of(found.text)
    wrong = [(line_of((*found.root, *place), lines), text) for place, text in mistakes(found.table, known)]
    if wrong:
        raise _error(found.path, wrong)
    table = found.table
    comparison = table.get("compare", {})
    return Configuration(
        file=found.path,
        digest=f"sha256:{hashlib.sha256(_canonical(table)).hexdigest()}",
        values={key.name: _value(key.kind, table[key.name], found.path) for key in KEYS if key.name in table},
        limits=tuple(Override(**_tuples(entry)) for entry in table.get("limits", ())),
        accepted=tuple(Accept(**_tuples(entry | {"until": str(entry["until"])})) for entry in table.get("accept", ())),
        comparison=Comparison(
            comparison.get("tolerance", Comparison().tolerance),
            tuple(Allowance(**_tuples(entry)) for entry in comparison.get("rules", ())),
        ),
        lines={name: line_of((*found.root, name), lines) or 0 for name in table},
    )


def _error(path: Path, wrong: list[tuple[int | None, str]]) -> BadPolicy:
    ordered = sorted(wrong, key=lambda one: one[0] or 0)
    said = " ".join(
        (f"line {line}: {text}" if line else text).rstrip(".") + ("" if text.endswith("?") else ".")
        for line, text in ordered
    )
    count = f"{len(ordered)} mistakes. " if len(ordered) > 1 else ""
    return BadPolicy(
        count + said.removesuffix("."), where=path.as_posix(), hint="`collapse schema config` states all keys"
    )


def _canonical(table: Mapping[str, Any]) -> bytes:
    return json.dumps(table, sort_keys=True, separators=(",", ":"), default=str).encode("utf-8", "surrogatepass")


def _tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}


def _value(kind: str, value: Any, file: Path) -> Any:
    """The value as its flag would have it."""
    if kind == "file":
        return _from_here(value, file)
    if kind == "files":
        return [_output(word, file) for word in value]
    return str(value) if kind == "size" else value


def _output(word: str, file: Path) -> str:
    """`FILE` or `FMT=FILE`; a format is a word of letters."""
    form, equals, path = word.partition("=")
    if equals and form.isalpha():
        return f"{form}={_from_here(path, file)}"
    return _from_here(word, file)


def _from_here(path: str, file: Path) -> str:
    return os.path.join(file.parent, path) if file.parent != Path() else path  # noqa: PTH118 - keeps "./" and "" as is
