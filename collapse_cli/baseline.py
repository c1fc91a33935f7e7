"""The accepted present state as a file: what is known does not count, unless it gets worse."""

import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from collapse_cli.core.finding import Finding, Suppression, fingerprint
from collapse_cli.core.policy import RATCHET, Baseline, Entry
from collapse_cli.core.report import Subject
from collapse_cli.core.text import json_safe
from collapse_cli.errors import BadPolicy

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["BASELINE_VERSION", "Pruned", "created", "json_schema", "known", "pruned", "read", "stale", "written"]

#: Additions raise the second number, removals and renames the first.
BASELINE_VERSION = "1.0"


@final
@dataclass(frozen=True, slots=True)
class Pruned:
    """A baseline without what is gone, and which of its entries are gone or have become stricter."""

    baseline: Baseline
    gone: tuple[Entry, ...]
    tightened: tuple[Entry, ...]


def created(subjects: Iterable[Subject], tolerance: float = RATCHET) -> Baseline:
    """The findings that the policy does not accept, whatever an earlier baseline says."""
    found = (
        _entry(subject, finding)
        for subject in subjects
        for finding in subject.findings
        if finding.suppressed is None or finding.suppressed.by != "accept"
    )
    return Baseline(BASELINE_VERSION, tolerance, _sorted({entry.fingerprint: entry for entry in found}.values()))


def known(subject: Subject, baseline: Baseline) -> Subject:
    """The subject with the findings suppressed that the baseline holds, and those named that got worse since."""
    entries = {entry.fingerprint: entry for entry in baseline.entries}
    return replace(
        subject,
        findings=tuple(_compared(one, entries.get(one.fingerprint), baseline.tolerance) for one in subject.findings),
    )


def _compared(finding: Finding, entry: Entry | None, tolerance: float) -> Finding:
    if entry is None or finding.suppressed is not None:
        return finding
    value = finding.measurement.value
    if entry.side != finding.limit.side or finding.severity.rank > entry.severity.rank:
        was = f"{entry.severity} at {entry.value:.4g}"
        return replace(finding, message=f"{finding.message} (regressed: baseline {was}, now {value:.4g})")
    if is_worse(value, entry.value, entry.side, tolerance):
        was, now = _apart(entry.value, value)
        return replace(finding, message=f"{finding.message} (regressed: baseline {was}, now {now})")
    return replace(finding, suppressed=Suppression("baseline", f"known: baseline {entry.value:.4g}"))


def is_worse(value: float, stored: float, side: str, tolerance: float) -> bool:
    """Whether a value lies beyond the stored one by more than the tolerance, relative; none at 0."""
    slack = tolerance * abs(stored)
    return value < stored - slack if side == "below" else value > stored + slack


def _apart(old: float, new: float) -> tuple[str, str]:
    """Both numbers with digits enough to tell them apart."""
    digits = next((n for n in range(3, 17) if f"{old:.{n}g}" != f"{new:.{n}g}"), 17)
    return f"{old:.{digits}g}", f"{new:.{digits}g}"


def stale(baseline: Baseline, subjects: Sequence[Subject], ran: Collection[str]) -> tuple[Entry, ...]:
    """The entries whose finding is gone from the subjects given.

    What could not be measured, or belongs to an analyzer that did not run, is not gone.
    """
    given = {subject.id: subject for subject in subjects}
    there = {finding.fingerprint for subject in subjects for finding in subject.findings}
    measured = {(subject.id, one.rule, one.site) for subject in subjects for one in subject.measurements}

    def is_gone(entry: Entry) -> bool:
        subject = given.get(entry.subject)
        if subject is None or subject.status in ("failed", "empty") or entry.fingerprint in there:
            return False
        if (entry.subject, entry.rule, entry.site) in measured:
            return True
        return subject.status == "complete" and entry.rule.partition("/")[0] in ran

    return tuple(entry for entry in baseline.entries if is_gone(entry))


def pruned(baseline: Baseline, subjects: Sequence[Subject], ran: Collection[str]) -> Pruned:
    """The baseline without entries whose finding is gone, with improved values; other subjects' stay as they are."""
    gone = stale(baseline, subjects, ran)
    now = {finding.fingerprint: _entry(one, finding) for one in subjects for finding in one.findings}
    kept, tightened = [], []
    for entry in baseline.entries:
        if entry in gone:
            continue
        stricter = _stricter(entry, now.get(entry.fingerprint))
        kept.append(stricter)
        if stricter != entry:
            tightened.append(stricter)
    return Pruned(replace(baseline, entries=_sorted(kept)), gone, tuple(tightened))


def _stricter(entry: Entry, now: Entry | None) -> Entry:
    if now is None or now.side != entry.side:
        return entry
    if now.severity.rank < entry.severity.rank:
        entry = replace(entry, severity=now.severity)
    is_better = now.value > entry.value if entry.side == "below" else now.value < entry.value
    return replace(entry, value=now.value) if is_better else entry


def _entry(subject: Subject, finding: Finding) -> Entry:
    one = finding.measurement
    return Entry(finding.fingerprint, one.rule, subject.id, one.site, one.value, finding.limit.side, finding.severity)


def _sorted(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: (entry.subject, entry.rule, entry.site)))


def written(baseline: Baseline) -> str:
    """The file: sorted, one entry a line, so that a diff of it is read entry by entry."""
    lines = [json.dumps(asdict(entry), allow_nan=False, ensure_ascii=False) for entry in _sorted(baseline.entries)]
    opening = f'{{\n"schema_version": {json.dumps(baseline.schema_version)},\n"tolerance": {baseline.tolerance!r},\n'
    body = ",\n".join(lines)
    return json_safe(f'{opening}"entries": [{body and chr(10)}{body}{body and chr(10)}]\n}}\n')


def read(path: Path) -> Baseline:
    """The baseline of a file.

    Raises:
        BadPolicy: there is no such file, or it is no baseline of this version.
    """
    where = path.as_posix()
    try:
        whole = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise BadPolicy(
            "there is no such baseline", where=where, hint=f"`collapse baseline create SUBJECT... -o {where}` writes it"
        ) from error
    except OSError as error:
        raise BadPolicy("cannot read the baseline", where=where, got=error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise BadPolicy("is not a baseline", where=where, got=f"it is not JSON: {error}") from error
    version = whole.get("schema_version") if isinstance(whole, dict) else None
    if not isinstance(version, str) or "entries" not in whole:
        raise BadPolicy("the baseline", where=where, expected='should be an object with "schema_version" and "entries"')
    if version.partition(".")[0] != BASELINE_VERSION.partition(".")[0]:
        raise BadPolicy(
            "schema_version",
            where=where,
            expected=f"should be {BASELINE_VERSION.partition('.')[0]}.x",
            got=f"it is {version}",
            hint="it was written by another version of collapse: `collapse baseline create` writes it anew",
        )
    return _validated(whole, where)


def _validated(whole: object, where: str) -> Baseline:
    from pydantic import ValidationError

    try:
        found = _adapter().validate_python(whole)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BadPolicy("is not a baseline", where=where, got=f"{place}: {first['msg']}") from error
    if not (math.isfinite(found.tolerance) and found.tolerance >= 0):
        raise BadPolicy("tolerance", where=where, expected="should be 0 or more", got=f"it is {found.tolerance}")
    for entry in found.entries:
        analyzer, _, metric = entry.rule.partition("/")
        if not math.isfinite(entry.value):
            raise BadPolicy(f"the value of {entry.rule} at {entry.site} is not finite", where=where)
        if entry.fingerprint != fingerprint(analyzer, metric, entry.subject, entry.site):
            raise BadPolicy(
                f"the fingerprint of {entry.rule} at {entry.site} is not that of its rule, subject and site",
                where=where,
                hint="`collapse baseline create` writes it anew",
            )
    return found


@cache
def _adapter() -> "TypeAdapter[Baseline]":
    from pydantic import TypeAdapter

    return TypeAdapter(Baseline)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a baseline file."""
    return _adapter().json_schema()
