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
        parts = {name: subject.pop(f"{name}s") for name in ("measurement", "finding", "skip", "failure")}
        yield {"type": "subject", **subject}
        for name, records in parts.items():
            for record in records:
                yield {"type": name, "subject": subject["id"], **record}
    yield {"type": "verdict", **whole["verdict"], "exit_code": whole["exit_code"]}
