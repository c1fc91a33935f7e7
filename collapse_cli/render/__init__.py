"""A report as text: one pure function a format, none of which needs torch."""

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Final

from collapse_cli.core.report import Report
from collapse_cli.render.look import Look
from collapse_cli.render.verdict import verdict_line

__all__ = ["FORMATS", "RENDERERS", "SUFFIXES", "Look", "Renderer", "verdict_line"]

Renderer = Callable[[Report, Look], str]

#: Format → module of this package; its function `render` makes the text.
FORMATS: Final = (
    "table",
    "concise",
    "json",
    "jsonl",
    "csv",
    "md",
    "html",
    "sarif",
    "github",
    "gitlab",
    "junit",
    "card",
)
#: What a file's suffix means.
SUFFIXES: Final[Mapping[str, str]] = MappingProxyType(
    {
        ".json": "json",
        ".jsonl": "jsonl",
        ".csv": "csv",
        ".md": "md",
        ".html": "html",
        ".sarif": "sarif",
        ".xml": "junit",
    }
)


def _renderer(name: str) -> Renderer:
    def render(report: Report, look: Look) -> str:
        # imported when used: rich for the table only, pandas for nothing but the csv
        chosen: Renderer = import_module(f"collapse_cli.render.{name}_format").render
        return chosen(report, look)

    return render


RENDERERS: Final[Mapping[str, Renderer]] = MappingProxyType({name: _renderer(name) for name in FORMATS})
