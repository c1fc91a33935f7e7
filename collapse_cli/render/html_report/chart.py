"""A chart: two axes, and what is drawn between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from markupsafe import Markup

from collapse_cli.render.html_report.axis import Axis
from collapse_cli.render.html_report.svg import drawing, element
from collapse_cli.render.verdict import number

__all__ = ["BOX", "Chart", "Level", "Point", "thinned"]

#: Left, top, width and height of the plot inside a drawing of 480 × 230 units.
BOX: Final = (58.0, 12.0, 356.0, 172.0)
_SIZE: Final = (480.0, 230.0)
#: Points of a curve: more cannot be told apart at this size.
_MOST_POINTS = 128
#: Labels of levels are pushed this far apart.
_LINE_HEIGHT = 13.0


@final
@dataclass(frozen=True, slots=True)
class Point:
    """A value of a curve and what is said when somebody points at it; `mark` is a severity."""

    x: float
    y: float
    words: str
    mark: str = ""


@final
@dataclass(frozen=True, slots=True)
class Level:
    """A line to compare a curve with: `null`, `warning` or `error`, of one value or of one a point."""

    kind: str
    word: str
    points: tuple[tuple[float, float], ...]


@final
@dataclass(frozen=True, slots=True)
class Chart:
    """What `x` and `y` span, what the axes are called, and whether `x` is a whole number."""

    x: Axis
    y: Axis
    x_name: str
    y_name: str
    is_counted: bool = False

    def drawn(self, label: str, *parts: Markup) -> Markup:
        """The chart with these parts, read out as `label`."""
        return drawing(*_SIZE, label, self._axes(), *parts)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a value lies in the drawing."""
        left, top, width, height = BOX
        return left + width * self.x.at(x), top + height * (1 - self.y.at(y))

    def path(self, values: Sequence[tuple[float, float]], kind: str) -> Markup:
        """A line through the values."""
        steps = "L".join("{:.1f} {:.1f}".format(*self.place(x, y)) for x, y in values)
        return element("path", class_=kind, d=f"M{steps}") if values else Markup("")

    def band(self, lows: Sequence[tuple[float, float]], highs: Sequence[tuple[float, float]]) -> Markup:
        """The area between two lines."""
        outline = [*highs, *reversed(lows)]
        steps = "L".join("{:.1f} {:.1f}".format(*self.place(x, y)) for x, y in outline)
        return element("path", class_="band", d=f"M{steps}Z") if outline else Markup("")

    def points(self, points: Sequence[Point]) -> Markup:
        """One mark a value, with its words; a finding has the shape of its severity."""
        return element("g", *(self._point(point) for point in points), class_="points")

    def levels(self, levels: Sequence[Level]) -> Markup:
        """The lines to compare with, each with its word in the margin."""
        lines = [self.path(level.points, f"level {level.kind}") for level in levels if level.points]
        ends = sorted((self.place(*level.points[-1])[1], level.word, level.kind) for level in levels if level.points)
        places: list[float] = []
        for height, _word, _kind in ends:
            places.append(max(height, places[-1] + _LINE_HEIGHT) if places else height)
        left, top, width, height = BOX
        over = max(places[-1] - (top + height), 0.0) if places else 0.0
        words = [
            element("text", word, x=left + width + 5, y=place - over + 4, class_=f"word {kind}")
            for place, (_height, word, kind) in zip(places, ends, strict=True)
        ]
        return element("g", *lines, *words)

    def _point(self, point: Point) -> Markup:
        x, y = self.place(point.x, point.y)
        words = element("title", point.words)
        if point.mark == "error":
            return element("path", words, class_="mark error", d=f"M{x - 4:.1f} {y - 4:.1f}l8 8m-8 0l8-8")
        if point.mark == "warning":
            return element("path", words, class_="mark warning", d=f"M{x:.1f} {y - 5:.1f}l5 9h-10z")
        if point.mark == "info":
            return element("circle", words, cx=x, cy=y, r=4, class_="mark info")
        return element("circle", words, cx=x, cy=y, r=2.2)

    def _axes(self) -> Markup:
        left, top, width, height = BOX
        parts = []
        for tick in self.y.ticks():
            y = top + height * (1 - self.y.at(tick))
            parts.append(element("path", d=f"M{left:g} {y:.1f}h{width:g}", class_="grid"))
            parts.append(element("text", _tick(tick), x=left - 6, y=y + 4, text_anchor="end"))
        for tick in self.x.ticks():
            if self.is_counted and not float(tick).is_integer():
                continue
            x = left + width * self.x.at(tick)
            parts.append(element("path", d=f"M{x:.1f} {top + height:g}v4", class_="grid"))
            parts.append(element("text", _tick(tick), x=x, y=top + height + 17, text_anchor="middle"))
        name = f"{self.x_name} (log)" if self.x.is_log else self.x_name
        parts.append(
            element("text", name, x=left + width / 2, y=top + height + 36, text_anchor="middle", class_="name")
        )
        return element("g", *parts, class_="axes")


def _tick(value: float) -> str:
    return number(value, 3) if abs(value) >= 1e-300 else "0"


def thinned(count: int) -> list[int]:
    """Which of `count` points are drawn: all of them, or 128 equally far apart with both ends among them."""
    if count <= _MOST_POINTS:
        return list(range(count))
    return [round(step * (count - 1) / (_MOST_POINTS - 1)) for step in range(_MOST_POINTS)]
