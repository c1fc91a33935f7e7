"""Curves among the evidence: spectra, trends, prefix and length curves, each as a chart or a choice of charts."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from collapse_cli.core.metric import Measurement
from collapse_cli.core.report import Subject
from collapse_cli.core.text import tail
from collapse_cli.render.html_report.axis import axis_over
from collapse_cli.render.html_report.chart import BOX, Chart, Level, Point, thinned
from collapse_cli.render.html_report.places import Places
from collapse_cli.render.html_report.svg import Figure
from collapse_cli.render.verdict import counted, number

__all__ = ["Curve", "CurveGroup", "curve_figure", "curve_groups", "curves_of"]

#: Most of the longest names tell sites apart by their end.
_LONGEST_NAME = 120


@final
@dataclass(frozen=True, slots=True)
class _Kind:
    """Keys under which a curve is found in evidence (`inside` a mapping or beside the facts), and what to call it."""

    inside: str
    x: str
    y: str
    null: str
    words: tuple[str, str, str]
    is_log: bool = False


#: The contract names `spectrum`, `by_prefix` and `by_length`; the other keys are those that analyzers use.
_KINDS: Final = (
    _Kind("spectrum", "rank", "value", "null_edge", ("Spectrum", "rank", "singular value"), is_log=True),
    _Kind("", "", "singular_values", "", ("Spectrum", "rank", "singular value"), is_log=True),
    _Kind("", "", "eigenvalues", "", ("Spectrum", "rank", "eigenvalue"), is_log=True),
    _Kind("by_length", "length", "cosine", "null", ("Curve over length", "length", "cosine")),
    _Kind("", "prefix", "by_prefix", "null", ("Curve over prefix", "prefix", "value")),
    _Kind("", "widths", "prefix", "random", ("Curve over prefix width", "width", "value")),
    _Kind("", "step", "value", "null", ("Trend", "step", "value")),
    _Kind("", "steps", "values", "null", ("Trend", "step", "value")),
    _Kind("", "generation", "value", "null", ("Trend", "generation", "value")),
    _Kind("", "layer", "value", "null", ("Curve over depth", "layer", "value")),
)
_OWN_KEYS: Final = frozenset(kind.inside for kind in _KINDS if kind.inside)
#: What has no value between two whole numbers.
_COUNTED: Final = ("rank", "layer", "length", "prefix", "width", "step", "generation")
#: Fewer points make no curve.
_LEAST_POINTS = 3


@final
@dataclass(frozen=True, slots=True)
class Curve:
    """Numbers of one site against rank, step, length or prefix, at most 128, beside those of chance."""

    title: str
    analyzer: str
    site: str
    axes: tuple[str, str]
    x: tuple[float, ...]
    y: tuple[float, ...]
    null: tuple[float, ...]
    is_log: bool
    mark: str = ""


@final
@dataclass(frozen=True, slots=True)
class CurveGroup:
    """Curves that share their axes, worst first; one is drawn, the script shows the others."""

    key: str
    curves: tuple[Curve, ...]
    chart: Chart

    def figure(self) -> Figure:
        """The first curve, and the names of all."""
        first = self.curves[0]
        note = f"{counted(len(self.curves), 'curve')} on these axes; drawn: " if len(self.curves) > 1 else ""
        caption = f"{first.axes[1]} over {first.axes[0]}{_null_words(first)}. {note}{_name(first)}"
        choices = tuple(_name(curve) for curve in self.curves) if len(self.curves) > 1 else ()
        rule = first.site.partition("#rule=")[2] or first.analyzer
        return Figure(
            f"{first.title} · {tail(rule, _LONGEST_NAME)}", caption, _svg(first, self.chart), self.key, choices
        )

    def data(self) -> dict[str, Any]:
        """What the script needs to draw another of the curves in place of the first."""
        left, top, width, height = BOX
        axes = [[axis.low, axis.high, int(axis.is_log)] for axis in (self.chart.x, self.chart.y)]
        return {
            "box": [left, top, width, height],
            "axes": axes,
            "names": list(self.curves[0].axes),
            "curves": [{"name": _name(curve), "x": curve.x, "y": curve.y, "null": curve.null} for curve in self.curves],
        }


def curves_of(subject: Subject, places: Places) -> list[Curve]:
    """Every curve of the evidence once: several metrics of an analyzer state the same."""
    found: dict[tuple[str, str, tuple[float, ...]], Curve] = {}
    for measured in subject.measurements:
        for kind, facts in _places_of_curves(measured):
            curve = _curve(measured, kind, facts, places)
            if curve is None:
                continue
            key = (curve.analyzer, curve.site, curve.y)
            if key not in found or (curve.mark and not found[key].mark):
                found[key] = curve
    return list(found.values())


def curve_groups(curves: Iterable[Curve], *, opening: str, room: int) -> list[CurveGroup]:
    """The curves of one analyzer, kind and rule together, sites with findings first; `room` points at most."""
    groups: dict[tuple[str, ...], list[Curve]] = {}
    for curve in curves:
        rule = curve.site.partition("#rule=")[2]
        groups.setdefault((curve.analyzer, curve.title, *curve.axes, rule), []).append(curve)
    made = []
    for index, members in enumerate(groups.values()):
        ranked = sorted(members, key=lambda curve: ("error", "warning", "info", "").index(curve.mark))
        kept: list[Curve] = []
        for curve in ranked:
            room -= len(curve.y) * (3 if curve.null else 2)
            if room >= 0 or not kept:
                kept.append(curve)
        made.append(CurveGroup(f"{opening}-{index}", tuple(kept), _chart(kept)))
    return made


def curve_figure(curve: Curve) -> Figure:
    """One curve by itself, under the finding it is evidence of."""
    caption = f"{curve.axes[1]} over {curve.axes[0]}{_null_words(curve)} at {tail(curve.site, _LONGEST_NAME)}"
    return Figure(f"{curve.title} · {curve.analyzer}", caption, _svg(curve, _chart([curve])), points=len(curve.y))


def _svg(curve: Curve, chart: Chart) -> Any:
    points = [
        Point(x, y, f"{curve.axes[0]} {number(x)}: {number(y, 4)}") for x, y in zip(curve.x, curve.y, strict=True)
    ]
    levels = (
        [Level("null", "noise" if curve.title == "Spectrum" else "null", tuple(zip(curve.x, curve.null, strict=True)))]
        if curve.null
        else []
    )
    label = (
        f"{curve.title} of {tail(curve.site, 200)}: {curve.axes[1]} {number(curve.y[0])} at {curve.axes[0]} "
        f"{number(curve.x[0])}, {number(curve.y[-1])} at {number(curve.x[-1])}{_null_words(curve)}"
    )
    line = chart.path(list(zip(curve.x, curve.y, strict=True)), "curve")
    return chart.drawn(label, chart.levels(levels), line, chart.points(points))


def _null_words(curve: Curve) -> str:
    if not curve.null:
        return ""
    word = "the edge of noise" if curve.title == "Spectrum" else "null"
    return f"; dotted: {word}, {number(curve.null[0])}" + ("" if len(set(curve.null)) == 1 else " and on")


def _name(curve: Curve) -> str:
    name = tail(curve.site.partition("#rule=")[0], _LONGEST_NAME)
    return f"{curve.mark}: {name}" if curve.mark else name


def _chart(curves: Sequence[Curve]) -> Chart:
    first = curves[0]
    log = True if first.is_log else None
    x = axis_over((x for curve in curves for x in curve.x), is_log=log if first.is_log else False)
    y = axis_over((y for curve in curves for y in (*curve.y, *curve.null)), is_log=log)
    return Chart(x, y, *first.axes, is_counted=first.axes[0] in _COUNTED)


def _places_of_curves(measured: Measurement) -> Iterator[tuple[_Kind, Mapping[str, Any]]]:
    """Where each kind may be: under its own key, or else beside the facts and in every mapping among them."""
    nested = {key: fact for key, fact in measured.evidence.items() if isinstance(fact, Mapping)}
    for kind in _KINDS:
        if kind.inside:
            yield kind, nested.get(kind.inside, {})
        else:
            others = (fact for key, fact in nested.items() if key not in _OWN_KEYS)
            for facts in (measured.evidence, *others):
                yield kind, facts


def _curve(measured: Measurement, kind: _Kind, facts: Mapping[str, Any], places: Places) -> Curve | None:
    y = _numbers(facts.get(kind.y))
    x = _numbers(facts.get(kind.x)) if kind.x else [float(rank) for rank in range(1, len(y) + 1)]
    null = _numbers(facts.get(kind.null)) if kind.null else []
    if len(y) < _LEAST_POINTS or len(x) != len(y):
        return None
    null = null if len(null) == len(y) else []
    rows = list(_rows(x, y, null, is_log=kind.is_log))
    if len(rows) < _LEAST_POINTS:
        return None
    kept = [rows[index] for index in thinned(len(rows))]
    title, *axes = kind.words
    worst = _worst_mark(measured, places)
    columns = list(zip(*kept, strict=True))
    return Curve(
        title, measured.analyzer, measured.site, (axes[0], axes[1]), columns[0], columns[1],
        columns[2] if null else (), kind.is_log, worst,
    )  # fmt: skip


def _rows(x: list[float], y: list[float], null: list[float], *, is_log: bool) -> Iterator[tuple[float, ...]]:
    for row in zip(x, y, *([null] if null else []), strict=True):
        # what is zero has no place on a logarithmic axis
        if not is_log or min(row) > 0:
            yield tuple(float(f"{value:.4g}") for value in row)


def _numbers(value: object) -> list[float]:
    """The list as finite numbers, or nothing where it is anything else."""
    if not isinstance(value, list | tuple):
        return []
    numbers = [float(one) for one in value if isinstance(one, int | float) and not isinstance(one, bool)]
    whole = len(numbers) == len(value) and all(math.isfinite(one) and abs(one) < 1e300 for one in numbers)
    return numbers if whole else []


def _worst_mark(measured: Measurement, places: Places) -> str:
    """The severity of the worst finding of that analyzer at that site."""
    ranks = {
        found.severity.rank: found.severity.value
        for (rule, site), found in places.findings.items()
        if site == measured.site and rule.partition("/")[0] == measured.analyzer
    }
    return ranks[max(ranks)] if ranks else ""
