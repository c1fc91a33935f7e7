"""How a metric runs through the depth of a model: one spark line a metric."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from collapse_cli.core.manual import Manual
from collapse_cli.core.report import Subject
from collapse_cli.render.spark import spark
from collapse_cli.render.verdict import number

__all__ = ["Profile", "layer_profiles"]

#: Fewer layers make no profile.
_LEAST_LAYERS = 3


@final
@dataclass(frozen=True, slots=True)
class Profile:
    """One metric at the hook points of a dump, in depth order; a layer with several hook points has each in turn."""

    rule: str
    layers: tuple[int, ...]
    values: tuple[float, ...]
    nulls: tuple[float | None, ...]

    def line(self) -> tuple[str, str, str]:
        """Rule, spark line between the first and the last layer, and the values there."""
        known = [null for null in self.nulls if null is not None]
        curve = spark(self.values, ceiling=max(known, default=0.0))
        ends = f"{number(self.values[0])} → {number(self.values[-1])}"
        return self.rule, f"{self.layers[0]} {curve} {self.layers[-1]}", ends


def layer_profiles(subject: Subject, manuals: Sequence[Manual], *, every_metric: bool) -> list[Profile]:
    """The profiles of a dump: of the first metric of every analyzer, or of every metric it measured."""
    if subject.kind != "dump":
        return []
    layers = {site.name: site.layer for site in subject.sites if site.layer is not None}
    profiles = []
    for manual in manuals:
        for metric in manual.metrics if every_metric else manual.metrics[:1]:
            points = [
                (layers[m.site], m.value, m.null)
                for m in subject.measurements
                if (m.analyzer, m.metric) == (manual.name, metric.name) and m.site in layers
            ]
            if len({layer for layer, _value, _null in points}) >= _LEAST_LAYERS:
                points.sort(key=lambda point: point[0])
                depth, values, nulls = zip(*points, strict=True)
                profiles.append(Profile(f"{manual.name}/{metric.name}", depth, values, nulls))
    return profiles
