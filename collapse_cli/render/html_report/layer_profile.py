"""How a metric runs through the depth of a model: the middle and the spread of every layer, null and limits."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import final

from markupsafe import Markup

from collapse_cli.core.finding import Finding
from collapse_cli.core.manual import Manual
from collapse_cli.core.metric import Limit, Measurement, Metric
from collapse_cli.core.report import Subject
from collapse_cli.core.text import tail
from collapse_cli.render.html_report.axis import axis_over
from collapse_cli.render.html_report.chart import Chart, Level, Point, thinned
from collapse_cli.render.html_report.places import Places
from collapse_cli.render.html_report.svg import Figure
from collapse_cli.render.verdict import limit_words, number

__all__ = ["LayerProfile", "layer_profiles"]

#: Fewer layers make no profile.
_LEAST_LAYERS = 2
#: Up to so many layers each point also names its site; of more the tables do, or the page would not keep its size.
_FEW_LAYERS = 64


@final
@dataclass(frozen=True, slots=True)
class LayerProfile:
    """The measurements of one metric by layer, in depth order."""

    rule: str
    metric: Metric
    layers: tuple[tuple[int, tuple[Measurement, ...]], ...]
    findings: tuple[tuple[int, Finding], ...]
    limits: tuple[tuple[str, Limit], ...]

    @property
    def is_flat(self) -> bool:
        """Whether every site has the same value and none is a finding: a drawing would show nothing."""
        values = {measured.value for _layer, taken in self.layers for measured in taken}
        return len(values) == 1 and not self.findings

    @property
    def points(self) -> int:
        """How many points its drawing has."""
        return len(thinned(len(self.layers)))

    def figure(self) -> Figure:
        """The chart: a line through the medians, a band from least to greatest, a mark for every finding."""
        shown = [self.layers[index] for index in thinned(len(self.layers))]
        is_spread = any(len(values) > 1 for _layer, values in shown)
        lows = [(float(layer), min(m.value for m in values)) for layer, values in shown]
        highs = [(float(layer), max(m.value for m in values)) for layer, values in shown]
        middle = [(float(layer), median(m.value for m in values)) for layer, values in shown]
        levels = self._levels(shown)
        heights = [y for values in (lows, highs, *(level.points for level in levels)) for _x, y in values]
        axes = axis_over((x for x, _y in middle), is_log=False), axis_over(heights, from_zero=True)
        chart = Chart(*axes, "layer", self._unit(), is_counted=True)
        found = self._marked(shown)
        points = [
            Point(x, y, self._words(x, values))
            for (x, y), (layer, values) in zip(middle, shown, strict=True)
            if len(values) > 1 or layer not in found
        ]
        marks = [_mark(layer, finding) for layer, finding in found.items()]
        svg = chart.drawn(
            self._label(middle),
            chart.band(lows, highs) if is_spread else Markup(""),
            chart.levels(levels),
            chart.path(middle, "curve"),
            chart.points(points),
            chart.points(marks),
        )
        return Figure(self.rule, self._caption(levels, is_spread=is_spread, shown=len(shown)), svg, points=len(shown))

    def _unit(self) -> str:
        return self.metric.name if self.metric.unit == "1" else f"{self.metric.name} [{self.metric.unit}]"

    def _words(self, layer: float, values: Sequence[Measurement]) -> str:
        middle = number(median(m.value for m in values), 4)
        if len(values) == 1:
            site = f", {tail(values[0].site, 100)}" if len(self.layers) <= _FEW_LAYERS else ""
            return f"layer {layer:g}: {middle}{site}"
        ends = [number(end(m.value for m in values), 4) for end in (min, max)]
        return f"layer {layer:g}: median {middle}, {ends[0]} to {ends[1]} at {len(values)} sites"

    def _marked(self, shown: Sequence[tuple[int, tuple[Measurement, ...]]]) -> dict[int, Finding]:
        """The worst finding of every drawn layer."""
        drawn = {layer for layer, _values in shown}
        worst: dict[int, Finding] = {}
        for layer, found in self.findings:
            if layer in drawn and (layer not in worst or found.severity.rank > worst[layer].severity.rank):
                worst[layer] = found
        return dict(sorted(worst.items()))

    def _levels(self, shown: Sequence[tuple[int, tuple[Measurement, ...]]]) -> list[Level]:
        nulls = [
            (float(layer), median(known))
            for layer, values in shown
            if (known := [m.null for m in values if m.null is not None])
        ]
        levels = [Level("null", "null", tuple(nulls))] if nulls else []
        ends = (float(shown[0][0]), float(shown[-1][0]))
        for word, limit in self.limits:
            if limit.of == "null":
                heights = tuple((x, y * limit.bound) for x, y in nulls)
            else:
                heights = tuple((x, limit.bound) for x in ends)
            if heights and all(abs(y) < 1e300 for _x, y in heights):
                levels.append(Level(word, word, heights))
        return levels

    def _label(self, middle: Sequence[tuple[float, float]]) -> str:
        worst = f"; {len(self.findings)} findings" if self.findings else ""
        limits = "".join(f"; {word} {limit_words(limit)}" for word, limit in self.limits)
        return (
            f"{self.rule} by layer: {number(middle[0][1])} at layer {middle[0][0]:g}, "
            f"{number(middle[-1][1])} at layer {middle[-1][0]:g}{limits}{worst}"
        )

    def _caption(self, levels: Sequence[Level], *, is_spread: bool, shown: int) -> str:
        parts = ["line: median of the layer's sites, band: least to greatest" if is_spread else "one site a layer"]
        parts += [f"dotted: null, {self.metric.null or 'chance'}"] if levels and levels[0].kind == "null" else []
        for word, limit in self.limits:
            intent = f", with intent {' or '.join(sorted(limit.intent))}" if limit.intent else ""
            parts.append(f"{word}: {limit_words(limit).removeprefix('limit ')}{intent}")
        parts += [f"{shown} of {len(self.layers)} layers"] if shown < len(self.layers) else []
        return "; ".join(parts)


def layer_profiles(subject: Subject, manuals: Sequence[Manual], places: Places) -> list[LayerProfile]:
    """Every metric that was measured at two layers or more, in the order of the manuals."""
    by_rule: dict[str, dict[int, list[Measurement]]] = {}
    for measured in subject.measurements:
        layer = places.layer(measured.site)
        if layer is not None and "#rule=" not in measured.site:
            by_rule.setdefault(measured.rule, {}).setdefault(layer, []).append(measured)
    profiles = []
    for manual in manuals:
        for metric in manual.metrics:
            rule = f"{manual.name}/{metric.name}"
            layers = by_rule.get(rule, {})
            if len(layers) < _LEAST_LAYERS:
                continue
            ordered = tuple((layer, tuple(layers[layer])) for layer in sorted(layers))
            findings = tuple(
                (layer, found)
                for layer, values in ordered
                for m in values
                if (found := places.findings.get((rule, m.site)))
            )
            profiles.append(LayerProfile(rule, metric, ordered, findings, _limits(metric, findings)))
    return profiles


def _limits(metric: Metric, findings: Sequence[tuple[int, Finding]]) -> tuple[tuple[str, Limit], ...]:
    """The limits of the manual, and in place of one of them that which a finding crossed: the policy's own."""
    limits = {word: limit for word, limit in (("warning", metric.warn), ("error", metric.error)) if limit}
    for _layer, found in findings:
        if found.severity.value in limits:
            limits[found.severity.value] = found.limit
    return tuple(limits.items())


def _mark(layer: int, found: Finding) -> Point:
    one = found.measurement
    words = f"{found.severity}: layer {layer}: {number(one.value, 4)} at {tail(one.site, 100)}"
    return Point(float(layer), one.value, words, found.severity.value)
