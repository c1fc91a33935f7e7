"""JSON lines: one record a line with its `type`; no `verdict` line at the end means the stream was cut."""

import json
from collections.abc import Iterator
from typing import Any

from collapse_cli.core.report import Report, to_json
from collapse_cli.core.text import json_safe
from collapse_cli.render.look import Look

__all__ = ["render"]


def render(report: Report, _look: Look) -> str:
    """`run`, then per subject `subject` and its `measurement`, `finding`, `skip`, `failure` records, last `verdict`."""
    lines = [json_safe(json.dumps(record, allow_nan=False, ensure_ascii=False)) for record in _records(report)]
    return "\n".join(lines) + "\n"


def _records(report: Report) -> Iterator[dict[str, Any]]:
    whole = json.loads(to_json(report))
    yield {"type": "run", **{key: whole[key] for key in ("schema_version", "tool", "provenance", "manuals")}}
    for subject in whole["subjects"]:
        told = {mark: one for one in subject["diagnoses"] for mark in (one["primary"], *one["consequences"])}
        parts = {name: subject.pop(f"{name}s") for name in ("measurement", "finding", "skip", "failure")}
        yield {"type": "subject", **subject}
        for name, records in parts.items():
            for record in records:
                more = _place(record["fingerprint"], told) if name == "finding" else {}
                yield {"type": name, "subject": subject["id"], **record, **more}
    yield {"type": "verdict", **whole["verdict"], "exit_code": whole["exit_code"]}


def _place(fingerprint: str, told: dict[str, Any]) -> dict[str, Any]:
    """The kind of the diagnosis that a finding belongs to, and the primary finding that it follows from."""
    diagnosis = told.get(fingerprint)
    if diagnosis is None:
        return {"diagnosis": None, "follows_from": None}
    is_primary = diagnosis["primary"] == fingerprint
    return {"diagnosis": diagnosis["kind"], "follows_from": None if is_primary else diagnosis["primary"]}
