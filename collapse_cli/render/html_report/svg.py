"""SVG and HTML elements as text that is safe whatever a file called its tensors."""

from dataclasses import dataclass
from typing import final

from markupsafe import Markup, escape

from collapse_cli.core.text import plain

__all__ = ["Figure", "drawing", "element"]


@final
@dataclass(frozen=True, slots=True)
class Figure:
    """One drawing with the words over and under it; `key` is where the script finds the curves to choose from."""

    title: str
    caption: str
    svg: Markup
    key: str = ""
    choices: tuple[str, ...] = ()
    points: int = 0


def element(name: str, *children: str | Markup, **attributes: str | float | None) -> Markup:
    """`<name attribute="…">children</name>`: what is not markup is escaped, lengths have one decimal.

    `class_` is `class`, other underscores are hyphens; an attribute that is None is left out.
    """
    opening = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(child if isinstance(child, Markup) else escape(plain(child)) for child in children)
    return Markup(f"<{name}{opening}>{inside}</{name}>")  # noqa: S704 - every part of it is escaped above


def drawing(width: float, height: float, label: str, *children: Markup) -> Markup:
    """A drawing of that size in its own units, read out as its label."""
    box = f"0 0 {width:g} {height:g}"
    return element("svg", *children, viewBox=box, width=width, height=height, role="img", aria_label=label)


def _attribute(value: str | float) -> str:
    if isinstance(value, str):
        return str(escape(plain(value)))
    return f"{value:.1f}".removesuffix(".0")
