"""The text of a manual as markup: paragraphs, lists, headings, code."""

import re
from collections.abc import Iterator

from markupsafe import Markup

from collapse_cli.core.text import plain
from collapse_cli.render.html_report.svg import element

__all__ = ["inline", "prose"]

_CODE = re.compile(r"(`[^`\n]+`)")


def prose(text: str, *, level: int) -> Markup:
    """The paragraphs after the first line, `##` headings as headings of that level."""
    body = text.partition("\n")[2]
    return Markup("\n").join(
        piece for block in re.split(r"\n\s*\n|(?m:^(?=## ))", body) for piece in _block(block, level)
    )


def inline(text: str) -> Markup:
    """One paragraph, with `code` in backticks."""
    parts = (part for part in _CODE.split(text) if part)
    return Markup("").join(element("code", part[1:-1]) if _CODE.fullmatch(part) else _text(part) for part in parts)


def _text(part: str) -> Markup:
    return Markup.escape(plain(part))


def _block(block: str, level: int) -> Iterator[Markup]:
    block = block.strip("\n")
    if not block.strip():
        return
    if block.startswith("#"):
        first, _, rest = block.partition("\n")
        yield element(f"h{level}", first.lstrip("# "))
        yield from _block(rest, level)
    elif block.startswith(("    ", "|", "```")):
        yield element("pre", Markup("\n").join(_text(line) for line in block.splitlines()), tabindex="0")
    elif block.lstrip().startswith("- "):
        items = re.split(r"(?m)^\s*- ", block)
        yield element("ul", *(element("li", inline(_joined(item))) for item in items if item.strip()))
    else:
        yield element("p", inline(_joined(block)))


def _joined(text: str) -> str:
    return " ".join(text.split())
