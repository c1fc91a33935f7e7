"""Manuals for people and machines: the list of analyzers, and one of them explained."""

import csv
import io
import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict

from collapse_cli.core.manual import Manual
from collapse_cli.core.metric import Limit, Metric
from collapse_cli.core.text import json_safe
from collapse_cli.render.verdict import limit_words

__all__ = ["explained", "listed"]

_WIDTH = 100


def listed(manuals: Sequence[Manual], form: str) -> str:
    """The analyzers by family, as `table`, `json`, `csv` or `md`."""
    if form == "json":
        return _json([_entry(manual) for manual in manuals])
    if form == "csv":
        stream = io.StringIO()
        writer = csv.DictWriter(
            stream, ["name", "family", "title", "view", "confidence", "metrics", "summary"], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(_entry(manual) | {"metrics": " ".join(m.name for m in manual.metrics)} for manual in manuals)
        return stream.getvalue()
    if form == "md":
        rows = [_cells(f"`{m.name}`", m.family, m.view, m.summary) for m in manuals]
        return "\n".join(["| analyzer | family | view | answers |", "|---|---|---|---|", *rows]) + "\n"
    width = max((len(manual.name) for manual in manuals), default=0)
    lines: list[str] = []
    family = ""
    for manual in manuals:
        if manual.family != family:
            family = manual.family
            lines += ["", family] if lines else [family]
        mark = " (experimental)" if manual.confidence == "experimental" else ""
        lines.append(f"  {manual.name:<{width}}  {manual.summary}{mark}")
    lines += ["", f"{len(manuals)} analyzers; `collapse explain NAME` says more"]
    return "\n".join(lines) + "\n"


def _entry(manual: Manual) -> dict[str, object]:
    return {
        "name": manual.name,
        "family": manual.family,
        "title": manual.title,
        "view": manual.view,
        "confidence": manual.confidence,
        "metrics": [metric.name for metric in manual.metrics],
        "summary": manual.summary,
    }


def explained(manuals: Sequence[Manual], form: str) -> str:
    """One manual or several, as `text`, `md` or `json`."""
    if form == "json":
        return _json([_plain(asdict(manual)) for manual in manuals])
    pages = [_markdown(manual) if form == "md" else _text(manual) for manual in manuals]
    return "\n".join(pages)


def _plain(value: object) -> object:
    """Frozen sets as sorted lists: JSON has no sets."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return sorted(value) if isinstance(value, frozenset) else value


def _json(value: object) -> str:
    return json_safe(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def _cells(*cells: str) -> str:
    """One row of a Markdown table; a bar in a cell (`|cos|`) is not the end of it."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _limit(limit: Limit | None) -> str:
    if limit is None:
        return "none"
    intent = f" (judged with --intent {' or '.join(sorted(limit.intent))})" if limit.intent else ""
    return f"{limit_words(limit).removeprefix('limit ')}{intent}; {limit.source}"


def _metric_lines(metric: Metric) -> list[str]:
    unit = "" if metric.unit == "1" else f" [{metric.unit}]"
    better = f" ({metric.better} is better)" if metric.better else ""
    lines = [f"{metric.name}{unit}: {metric.says}{better}"]
    if metric.null:
        lines.append(f"    null     {metric.null}")
    if metric.warn or metric.error:
        lines.append(f"    warning  {_limit(metric.warn)}")
        lines.append(f"    error    {_limit(metric.error)}")
    else:
        lines.append("    reported, not judged")
    return lines


def _wrapped(text: str) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        body = paragraph.strip("\n")
        if body.startswith(("#", "-", "|", "    ")):
            lines += body.split("\n")
        else:
            lines += textwrap.wrap(" ".join(body.split()), _WIDTH)
        lines.append("")
    return lines


def _text(manual: Manual) -> str:
    lines = [f"{manual.name}: {manual.title}", "=" * (len(manual.name) + len(manual.title) + 2), ""]
    lines += [f"family {manual.family} · takes {manual.accepts} · {manual.confidence}", ""]
    for line in _wrapped(manual.text):
        lines.append(line.removeprefix("## ") if line.startswith("## ") else line)
        if line.startswith("## "):
            lines.append("-" * (len(line) - 3))
    lines += ["Metrics", "-------"]
    for metric in manual.metrics:
        for line in _metric_lines(metric):
            lines += textwrap.wrap(line, _WIDTH, initial_indent="  ", subsequent_indent=" " * 15)
    lines += ["", "What to try", "-----------", *textwrap.wrap(manual.remedy, _WIDTH), ""]
    lines += ["References", "----------"]
    lines += [f"  {reference.cite}\n    {reference.url}" for reference in manual.references]
    return "\n".join(lines) + "\n"


def _markdown(manual: Manual) -> str:
    lines = [f"# `{manual.name}`: {manual.title}", ""]
    lines += [f"Family `{manual.family}` · takes {manual.accepts} · {manual.confidence}", "", manual.text, ""]
    lines += ["## Metrics", "", "| metric | says | null | warning | error |", "|---|---|---|---|---|"]
    lines += [
        _cells(f"`{metric.name}`", metric.says, metric.null or "", _limit(metric.warn), _limit(metric.error))
        for metric in manual.metrics
    ]
    lines += ["", "## What to try", "", manual.remedy, "", "## References", ""]
    lines += [f"- [{reference.cite}]({reference.url})" for reference in manual.references]
    return "\n".join(lines) + "\n"
