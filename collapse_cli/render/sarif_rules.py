"""The rules of a SARIF log: what a manual says of itself, as GitHub shows it beside an alert."""

from typing import Any, Final

from collapse_cli.core.finding import Severity
from collapse_cli.core.manual import Manual
from collapse_cli.core.metric import Measurement, Metric
from collapse_cli.core.report import Report
from collapse_cli.core.text import plain
from collapse_cli.render.manuals import explained

__all__ = ["LEVELS", "rule"]

LEVELS: Final = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}
#: `problem.severity` of a rule by its default level.
_PROBLEMS: Final = {"error": "error", "warning": "warning", "note": "recommendation"}
#: GitHub takes at most so many characters of a short or a full description.
_LONGEST: Final = 1_024


def rule(report: Report, measured: Measurement) -> dict[str, Any]:
    """The descriptor of the rule that a measurement belongs to, from the manual that the report carries."""
    name = "".join(word[:1].upper() + word[1:] for word in measured.rule.replace("/", "-").replace("_", "-").split("-"))
    manual = report.manual(measured.analyzer)
    metric = next((one for one in manual.metrics if one.name == measured.metric), None) if manual else None
    found: dict[str, Any] = {"id": plain(measured.rule), "name": plain(name) or "Rule"}
    if manual is None or metric is None:
        return found | _described(measured.rule, measured.rule, "warning", ["model"])
    level = _level(manual, metric)
    title = f"{manual.title}: {metric.name.replace('_', ' ')}"
    found |= _described(title, f"{metric.says} {manual.summary}", level, ["model", manual.family, manual.confidence])
    found["properties"]["precision"] = "high" if manual.confidence == "established" else "low"
    found["help"] = {
        "text": _lines(explained([manual], "text")),
        "markdown": _lines(explained([manual], "md")),
    }
    return found


def _described(short: str, full: str, level: str, tags: list[str]) -> dict[str, Any]:
    return {
        "shortDescription": {"text": _cut(short)},
        "fullDescription": {"text": _cut(full)},
        "help": {"text": _cut(full), "markdown": _cut(full)},
        "defaultConfiguration": {"level": level},
        "properties": {
            "precision": "low",
            "problem.severity": _PROBLEMS[level],
            "tags": list(dict.fromkeys(plain(tag) for tag in tags if tag)),
        },
    }


def _level(manual: Manual, metric: Metric) -> str:
    """The worst that the manual's own limits give, whatever the policy made of them."""
    limits = [limit for limit in (metric.warn, metric.error) if limit is not None]
    if limits and all(limit.intent is not None for limit in limits):
        return "note"
    return "error" if metric.error is not None and manual.confidence == "established" else "warning"


def _cut(text: str) -> str:
    text = plain(text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _lines(text: str) -> str:
    return "\n".join(plain(line) for line in text.split("\n"))
