"""What was seen on the whole zoo, kept in the repository: `docs/accuracy.md` and the tests of limits read it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, final

from zoo.accuracy import Accuracy, accuracy
from zoo.calibration import Calibration, calibrated
from zoo.dependence import Dependence
from zoo.kinds import kinds

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from zoo.build import Built

__all__ = ["EVIDENCE", "Evidence", "KindRecord", "collected", "stored", "written"]

EVIDENCE = Path(__file__).parent / "evidence.json"


@final
@dataclass(frozen=True, slots=True)
class KindRecord:
    """A kind as it was built: how it is caused, what tells the truth, and how many models came out as what."""

    name: str
    title: str
    cause: str
    outcome: str
    architectures: tuple[str, ...]
    data: tuple[str, ...]
    truths: dict[str, int]
    is_control: bool


@final
@dataclass(frozen=True, slots=True)
class Evidence:
    """The zoo of one build: its kinds, the figures on what is held out, every judged metric, and how it moves."""

    torch: str
    models: int
    failures: tuple[str, ...]
    kinds: tuple[KindRecord, ...]
    accuracy: Accuracy
    calibrations: tuple[Calibration, ...]
    dependences: tuple[Dependence, ...]


def collected(built: Sequence[Built], dependences: Sequence[Dependence]) -> Evidence:
    """The evidence of models that were built and measured."""
    import torch

    from zoo.verdicts import manuals, rows

    judged = list(rows(built))
    truths: dict[str, Counter[str]] = {}
    for one in built:
        truths.setdefault(one.case.kind, Counter())[one.truth or "failed"] += 1
    records = tuple(
        KindRecord(
            kind.name,
            kind.title,
            kind.cause,
            kind.outcome.says,
            kind.architectures,
            kind.data,
            dict(truths[kind.name]),
            kind.is_control,
        )
        for kind in kinds().values()
        if kind.name in truths
    )
    return Evidence(
        torch=torch.__version__,
        models=len(built),
        failures=tuple(f"{one.case.name}: {one.error}" for one in built if one.error),
        kinds=records,
        accuracy=accuracy(row for row in judged if row.case.split == "held-out"),
        calibrations=tuple(calibrated(manuals(), judged)),
        dependences=tuple(dependences),
    )


@cache
def _adapter() -> TypeAdapter[Evidence]:
    from pydantic import TypeAdapter

    return TypeAdapter(Evidence)


def written(evidence: Evidence, path: Path = EVIDENCE) -> None:
    """The evidence as JSON, a line a metric, so that a change can be read."""
    whole = _adapter().dump_python(evidence, mode="json")
    lines = []
    for key, value in whole.items():
        is_list = isinstance(value, list) and value and isinstance(value[0], dict)
        text = "[\n" + ",\n".join(json.dumps(one, ensure_ascii=False) for one in value) + "\n]" if is_list else ""
        lines.append(f"{json.dumps(key)}: {text or json.dumps(value, ensure_ascii=False)}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def stored(path: Path = EVIDENCE) -> Evidence:
    """The evidence that was written."""
    return _adapter().validate_json(path.read_bytes())
