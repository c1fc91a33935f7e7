"""Reports on disk: recognised by content, checked, and refused in words where they are not what they say."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

from collapse_cli.core.report import SCHEMA_VERSION, Report, from_json
from collapse_cli.errors import InputError

__all__ = ["batch_reports", "is_report", "read_report"]

#: What the first key of a report may be, whoever sorted or indented it since.
_OPENING = re.compile(
    rb'\A(?:\xef\xbb\xbf)?\s*\{\s*"(?:schema_version|tool|provenance|manuals|subjects|verdict|exit_code)"'
)
#: Bytes of a file in which its first key is looked for.
_HEAD = 4096
_BASELINE = re.compile(rb'"schema_version"\s*:\s*"[^"]*"\s*,\s*"tolerance"')


def is_report(path: Path) -> bool:
    """Whether a file claims to be a stored report; a truncated one, and one of a newer version, do."""
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
    except OSError:
        # opening it as a checkpoint will say why it cannot be read
        return False
    return _OPENING.match(head) is not None


def batch_reports(folder: Path) -> list[Path] | None:
    """The reports in a folder that `collapse batch` wrote, by name; None for any other folder."""
    inner = folder / "subjects"
    if not (folder / "summary.json").is_file() or not inner.is_dir():
        return None
    return sorted(inner.rglob("*.json"))


def read_report(path: Path) -> Report:
    """The report of a file, fit to be judged again.

    Raises:
        InputError: it cannot be read, is no report, has a newer schema, or measures what its manuals do not declare.
    """
    where = path.as_posix()
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError("cannot read the report", where=where, got=error.strerror or str(error)) from error
    if _BASELINE.search(text[:_HEAD]):
        raise InputError("is a baseline, not a report", where=where, hint=f"--baseline {where}")
    _check_version(text, where)
    try:
        report = from_json(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"is not a report of schema {SCHEMA_VERSION}", where=where, got=_reason(error)) from error
    _check_measurements(report, where)
    return report


def _check_version(text: bytes, where: str) -> None:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(
            "is not a whole report",
            where=where,
            got=_reason(error),
            hint="the file is truncated or edited; write it anew",
        ) from error
    version = whole.get("schema_version") if isinstance(whole, dict) else None
    found = re.fullmatch(r"(\d+)\.\d+", version) if isinstance(version, str) else None
    if found is None:
        raise InputError("schema_version", where=where, expected=f"should be there, such as {SCHEMA_VERSION}")
    mine = SCHEMA_VERSION.partition(".")[0]
    if found[1] != mine:
        is_newer = len(found[1]) > len(mine) or found[1] > mine
        raise InputError(
            "schema_version",
            where=where,
            expected=f"should be {mine}.x",
            got=f"it is {version}",
            hint="it was written by a newer collapse: update this one" if is_newer else "measure the model again",
        )


def _reason(error: Exception) -> str:
    first: Sequence[dict[str, object]] = getattr(error, "errors", lambda: ())()
    if not first:
        return str(error) or type(error).__name__
    place = first[0]["loc"]
    shown = ".".join(str(part) for part in place) if isinstance(place, tuple) else ""
    return f"{shown}: {first[0]['msg']}"


def _check_measurements(report: Report, where: str) -> None:
    """What no manual declares would be judged by nothing, and pass for clean."""
    declared = {f"{manual.name}/{metric.name}" for manual in report.manuals for metric in manual.metrics}
    for subject in report.subjects:
        seen = set()
        for one in subject.measurements:
            place = f"{one.rule} at {one.site} of {subject.id}"
            if one.rule not in declared:
                raise InputError(f"measures {one.rule}, which none of its manuals declares", where=where)
            if not (math.isfinite(one.value) and math.isfinite(one.null or 0.0)):
                raise InputError(f"the value of {place} is not finite", where=where)
            if (one.rule, one.site) in seen:
                raise InputError(f"measures {place} twice", where=where)
            seen.add((one.rule, one.site))
