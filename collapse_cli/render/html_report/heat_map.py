"""Metric × layer: where in a model what is how bad, at one glance."""

from collections.abc import Mapping, Sequence
from typing import Final

from markupsafe import Markup

from collapse_cli.core.text import tail
from collapse_cli.render.html_report.axis import axis_over
from collapse_cli.render.html_report.layer_profile import LayerProfile
from collapse_cli.render.html_report.svg import Figure, drawing, element
from collapse_cli.render.verdict import number

__all__ = ["heat_map"]

_SHADES: Final = 8
_MOST_COLUMNS = 128
_NAMES, _RANGE, _ROW, _HEAD, _WIDTH = 360.0, 160.0, 18.0, 24.0, 1080.0
#: Letters of 6.7 units that fit in front of a row.
_LONGEST_NAME = 51
#: A spread of a quarter of the greatest value takes all shades, a smaller one fewer.
_FULL: Final = 0.25
_MARKS: Final = ("", "info", "warning", "error")


def heat_map(profiles: Sequence[LayerProfile], *, cells: int) -> Figure | None:
    """The worst value of every layer, or of a few neighbours; each metric from mild to severe, at most `cells`."""
    profiles = [profile for profile in profiles if profile.findings or len(set(_worst(profile).values())) > 1]
    if len(profiles) < 2:
        return None
    layers = sorted({layer for profile in profiles for layer, _values in profile.layers})
    stride = -(-len(layers) // _MOST_COLUMNS)
    columns = [layers[start : start + stride] for start in range(0, len(layers), stride)]
    ranked = sorted(profiles, key=lambda profile: -max((f.severity.rank + 1 for _l, f in profile.findings), default=0))
    shown = ranked[: max(2, cells // len(columns))]
    cell = min((_WIDTH - _NAMES - _RANGE) / len(columns), 46.0)
    rows = [_row(profile, columns, top=_HEAD + index * _ROW, cell=cell) for index, profile in enumerate(shown)]
    height = _HEAD + _ROW * len(shown) + 6
    width = _NAMES + cell * len(columns) + _RANGE
    label = (
        f"Heat map of {len(shown)} metrics by {len(layers)} layers; "
        f"{sum(bool(profile.findings) for profile in shown)} of the metrics have findings. The tables have the numbers."
    )
    caption = (
        "Each row on its own scale, between the two numbers at its end (logarithmic where they span much). "
        "The stronger the colour the worse, or the greater where the manual does not say what is worse; "
        "what is the same at every layer is left out. ✖ error, ▲ warning, ● info."
    )
    if stride > 1:
        caption += f" A column is the worst of {stride} layers."
    if len(shown) < len(profiles):
        caption += f" +{len(profiles) - len(shown)} more metrics: in the tables of measurements."
    return Figure("Metric × layer", caption, drawing(width, height, label, _heads(columns, cell), *rows))


def _heads(columns: Sequence[Sequence[int]], cell: float) -> Markup:
    every = max(1, -(-26 // max(int(cell), 1)))
    words = [
        element("text", str(column[0]), x=_NAMES + (index + 0.5) * cell, y=_HEAD - 8, text_anchor="middle")
        for index, column in enumerate(columns)
        if index % every == 0
    ]
    name = element("text", "layer", x=_NAMES - 10, y=_HEAD - 8, text_anchor="end", class_="name")
    return element("g", name, *words, class_="axes")


def _row(profile: LayerProfile, columns: Sequence[Sequence[int]], *, top: float, cell: float) -> Markup:
    worst = min if profile.metric.better == "higher" else max
    at = _worst(profile)
    marks: dict[int, int] = {}
    for layer, found in profile.findings:
        marks[layer] = max(marks.get(layer, 0), found.severity.rank + 1)
    shades = _shades(profile, at)
    parts = [
        element("text", tail(profile.rule, _LONGEST_NAME), x=_NAMES - 10, y=top + 13, text_anchor="end", class_="rule")
    ]
    for index, column in enumerate(columns):
        known = [layer for layer in column if layer in at]
        if not known:
            continue
        value = worst(at[layer] for layer in known)
        shade = shades[value]
        mark = _MARKS[max(marks.get(layer, 0) for layer in known)]
        words = element("title", f"layer {known[0]}: {number(value, 4)}{f', {mark}' if mark else ''}")
        x = _NAMES + index * cell
        gap = 1.0 if cell > 6 else 0.0
        parts.append(element("rect", words, x=x, y=top, width=cell - gap, height=_ROW - 1, class_=f"h{shade}"))
        if mark:
            parts.append(_mark(mark, x + (cell - gap) / 2, top + _ROW / 2 - 0.5, is_dark=shade > 3))
    ends = " to ".join(dict.fromkeys(number(end(at.values())) for end in (min, max)))
    right = _NAMES + len(columns) * cell + 8
    parts.append(element("text", ends, x=right, y=top + 13, class_="range"))
    return element("g", *parts)


def _worst(profile: LayerProfile) -> dict[int, float]:
    """The worst value of every layer; the greatest where the manual does not say what is worse."""
    worst = min if profile.metric.better == "higher" else max
    return {layer: worst(m.value for m in values) for layer, values in profile.layers}


def _shades(profile: LayerProfile, at: Mapping[int, float]) -> dict[float, int]:
    """Every value's shade: differences that are small beside the values themselves look small."""
    axis = axis_over(at.values())
    low, high = min(at.values()), max(at.values())
    mild, severe = (high, low) if profile.metric.better == "higher" else (low, high)
    span = abs(axis.at(severe) - axis.at(mild))
    contrast = (
        1.0 if axis.is_log else min((high / 2 - low / 2) / max(_FULL * max(abs(low), abs(high)) / 2, 1e-300), 1.0)
    )
    return {
        value: round(abs(axis.at(value) - axis.at(mild)) / span * contrast * (_SHADES - 1)) if span > 1e-9 else 0
        for value in at.values()
    }


def _mark(mark: str, x: float, y: float, *, is_dark: bool) -> Markup:
    kind = "over dark" if is_dark else "over"
    if mark == "error":
        return element("path", d=f"M{x - 3:.1f} {y - 3:.1f}l6 6m-6 0l6-6", class_=f"{kind} cross")
    if mark == "warning":
        return element("path", d=f"M{x:.1f} {y - 4:.1f}l4 7h-8z", class_=kind)
    return element("circle", cx=x, cy=y, r=3, class_=kind)
