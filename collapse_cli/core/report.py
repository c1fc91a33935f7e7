"""The report: the one truth of which every output is a view, and the public JSON contract."""

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, final

from collapse_cli.core.diagnosis import Diagnosis
from collapse_cli.core.finding import Finding, Severity
from collapse_cli.core.manual import Manual
from collapse_cli.core.metric import Measurement
from collapse_cli.core.site import Site
from collapse_cli.core.text import json_safe

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = [
    "SCHEMA_VERSION",
    "Coverage",
    "Failure",
    "Outcome",
    "Part",
    "PolicyRecord",
    "Provenance",
    "Report",
    "Skip",
    "Status",
    "Subject",
    "Tool",
    "Verdict",
    "from_json",
    "json_schema",
    "to_json",
]

#: Additions raise the second number, removals and renames the first.
SCHEMA_VERSION = "1.1"

Outcome = Literal["pass", "fail", "incomplete", "empty"]
Status = Literal["complete", "partial", "failed", "empty"]


@final
@dataclass(frozen=True, slots=True)
class Skip:
    """What was not analysed, and why. Without an analyzer: a wanted site that could not be read."""

    analyzer: str | None
    site: str | None
    reason: str


@final
@dataclass(frozen=True, slots=True)
class Failure:
    """What was tried and could not be done: the subject is partial, or failed when neither is named."""

    analyzer: str | None
    site: str | None
    error: str
    message: str


@final
@dataclass(frozen=True, slots=True)
class Coverage:
    """How many tensors there are, how many some analyzer wants, and how many were read."""

    sites: int
    wanted: int
    read: int


@final
@dataclass(frozen=True, slots=True)
class Part:
    """One side of a pair, or one step of a run."""

    id: str
    path: str
    digest: str | None


@final
@dataclass(frozen=True, slots=True)
class Subject:
    """One checkpoint, dump, pair or run, and everything that was found out about it.

    `diagnoses` group the findings that count by what caused them; a report of schema 1.0 has none.
    """

    id: str
    path: str
    kind: Literal["checkpoint", "dump", "pair", "run"]
    format: str
    digest: str | None
    bytes: int
    status: Status
    coverage: Coverage
    sites: tuple[Site, ...] = ()
    measurements: tuple[Measurement, ...] = ()
    findings: tuple[Finding, ...] = ()
    skips: tuple[Skip, ...] = ()
    failures: tuple[Failure, ...] = ()
    parts: tuple[Part, ...] = ()
    diagnoses: tuple[Diagnosis, ...] = ()

    def finding(self, fingerprint: str) -> Finding | None:
        """The finding of that fingerprint, if there is one."""
        return next((finding for finding in self.findings if finding.fingerprint == fingerprint), None)


@final
@dataclass(frozen=True, slots=True)
class Tool:
    """The program that made the report."""

    name: str
    version: str


@final
@dataclass(frozen=True, slots=True)
class PolicyRecord:
    """The configuration file in force, and the digest of what it said."""

    file: str | None
    digest: str | None


@final
@dataclass(frozen=True, slots=True)
class Provenance:
    """How the report was made: the only volatile part of it.

    `settings` are the other flags that the numbers depend on, as `name=value`: sites, maps, time and memory allowed.
    """

    started: str
    seconds: float
    command: tuple[str, ...]
    python: str
    torch: str | None
    device: str
    seed: int
    intent: str | None
    analyzers: tuple[str, ...]
    policy: PolicyRecord
    plugins: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer: `pass` (exit 0), `fail` (1), `incomplete` (2) or `empty` (3), and what it counts."""

    outcome: Outcome
    fail_on: Severity
    findings: dict[str, int] = field(default_factory=dict)
    suppressed: dict[str, int] = field(default_factory=dict)
    failures: int = 0
    skips: int = 0


@final
@dataclass(frozen=True, slots=True)
class Report:
    """One run of `collapse`, whole: it is re-judged, explained and rendered without the model."""

    schema_version: str
    tool: Tool
    provenance: Provenance
    manuals: tuple[Manual, ...]
    subjects: tuple[Subject, ...]
    verdict: Verdict
    exit_code: int

    def manual(self, analyzer: str) -> Manual | None:
        """The manual of an analyzer, if the report carries it."""
        return next((manual for manual in self.manuals if manual.name == analyzer), None)


@cache
def _adapter() -> "TypeAdapter[Report]":
    from pydantic import TypeAdapter

    return TypeAdapter(Report)


def to_json(report: Report, *, indent: int | None = None) -> str:
    """The report as one JSON object, without NaN and with the keys in the order of the contract."""
    import json

    whole = _adapter().dump_python(report, mode="json")
    return json_safe(json.dumps(whole, indent=indent, allow_nan=False, ensure_ascii=False))


def from_json(text: str | bytes) -> Report:
    """The report that `to_json` wrote, equal to the original.

    Raises:
        ValueError: the text is not JSON, or (pydantic.ValidationError) not a report of this schema.
    """
    import json

    # not validate_json: it refuses half characters, which the name of a file may hold
    return _adapter().validate_python(json.loads(text, parse_constant=_refused))


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a report."""
    return _adapter().json_schema()
