"""The numbers of a run, one series for each metric at each site, and what their trends are."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Literal, final

import torch

from collapse_cli.core.metric import Metric
from collapse_cli.kernels import trends
from collapse_cli.kernels.comparisons import Run

__all__ = ["MIN_MEMBERS", "Series", "Trend", "bound", "collected", "curve", "trends_of"]

#: Below it the least p of Mann–Kendall is above .01 after one member is spent on pre-whitening.
MIN_MEMBERS: Final = 8
#: Points of a curve in evidence.
_POINTS: Final = 128
_LOWER: Final[Literal["lower"]] = "lower"
_HIGHER: Final[Literal["higher"]] = "higher"
_PARTS: Final = ("", "train_", "training_", "val_", "valid_", "validation_", "eval_", "test_", "held_out_")
#: Free metadata that is a series: what trainers call it, in lower case, and which direction is good.
_FIGURES: Final[Mapping[str, Literal["higher", "lower"]]] = MappingProxyType(
    dict.fromkeys((f"{part}{name}" for part in _PARTS for name in ("loss", "perplexity")), _LOWER)
    | dict.fromkeys((f"{part}{name}" for part in (*_PARTS, "base_", "new_") for name in ("accuracy", "acc")), _HIGHER)
)


@final
@dataclass(frozen=True, slots=True)
class Series:
    """One metric at one site in the members that have it. `nulls` are what chance gives, where the metric says so."""

    site: str
    rule: str
    places: tuple[int, ...]
    values: tuple[float, ...]
    nulls: tuple[float | None, ...]
    metric: Metric

    @property
    def name(self) -> str:
        """`<site>#rule=<analyzer>/<metric>`."""
        return f"{self.site}#rule={self.rule}"


@final
@dataclass(frozen=True, slots=True)
class Trend:
    """A series and its Theil–Sen line; with at least eight members also a test and a change point.

    `p` is adjusted for the sites of the metric, `distance` is the move in scales of the residuals, `change` the place
    in the series where the second part begins.
    """

    series: Series
    steps: tuple[float, ...]
    slope: float
    intercept: float
    distance: float
    raw_p: float | None = None
    p: float | None = None
    z: float = 0.0
    correlation: float = 0.0
    change: int = 0
    gain: float = 0.0
    means: tuple[float, float] = (0.0, 0.0)

    @property
    def is_adverse(self) -> bool:
        """Whether the line goes against the direction that is good."""
        better = self.series.metric.better
        return (better == "higher" and self.slope < 0.0) or (better == "lower" and self.slope > 0.0)


def collected(run: Run, also: Collection[str] = ()) -> tuple[Series, ...]:
    """Every series of a metric with a direction or a limit, in source order, and the known figures of the metadata.

    `also` are further rules that are followed, without either.
    """
    found: dict[tuple[str, str], list[tuple[int, float, float | None]]] = {}
    metrics: dict[str, Metric] = {}
    for place, member in enumerate(run.members):
        for measured in member.measurements:
            metric = run.metrics.get(measured.rule)
            if metric is None or not (metric.better or metric.warn or metric.error or measured.rule in also):
                continue
            metrics[measured.rule] = metric
            found.setdefault((measured.site, measured.rule), []).append((place, measured.value, measured.null))
    for place, metadata in enumerate(run.metadata):
        for key, value in _figures(metadata).items():
            rule = f"metadata/{key}"
            metrics[rule] = Metric(key, "1", "A figure that the member carries.", better=_FIGURES[key])
            found.setdefault((run.site.name, rule), []).append((place, value, None))
    return tuple(
        Series(
            site,
            rule,
            tuple(place for place, _, _ in points),
            tuple(value for _, value, _ in points),
            tuple(null for _, _, null in points),
            metrics[rule],
        )
        for (site, rule), points in found.items()
    )


def _figures(metadata: Mapping[str, str]) -> dict[str, float]:
    figures = {}
    for key, text in metadata.items():
        name = key.strip().lower().replace("-", "_").replace("/", "_").replace(".", "_")
        try:
            value = float(text)
        except ValueError:
            continue
        if name in _FIGURES and math.isfinite(value):
            figures[name] = value
    return figures


def trends_of(run: Run, series: Sequence[Series]) -> tuple[Trend, ...]:
    """The trend of every series of two members or more, in their order; those of the same members are taken at once."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, one in enumerate(series):
        if len(one.places) > 1:
            groups.setdefault(one.places, []).append(index)
    found: dict[int, Trend] = {}
    for places, indices in groups.items():
        steps = tuple(run.steps[place] for place in places)
        chosen = [series[index] for index in indices]
        found |= zip(indices, _measured(chosen, steps), strict=True)
    return _adjusted([found[index] for index in sorted(found)])


def _measured(series: Sequence[Series], steps: tuple[float, ...]) -> list[Trend]:
    stored = torch.tensor([one.values for one in series], dtype=torch.float64)
    # a power of two, which changes no digit: differences of the largest numbers then stay finite
    scale = torch.exp2(torch.frexp(stored.abs().amax(1)).exponent.double() - 1.0)
    values = stored / scale[:, None]
    # a step of 10⁹ beside slopes of 10⁻⁹ costs no digits: every line is taken over the run as 0…1
    span = steps[-1] - steps[0]
    ticks = (torch.tensor(steps, dtype=torch.float64) - steps[0]) / span
    lines = trends.lines(values, ticks)
    slopes = (lines.slope * scale / span).tolist()
    intercepts = ((lines.intercept - lines.slope * (steps[0] / span)) * scale).tolist()
    plain = [
        Trend(one, steps, slope, intercept, distance)
        for one, slope, intercept, distance in zip(series, slopes, intercepts, lines.distance.tolist(), strict=True)
    ]
    if len(steps) < MIN_MEMBERS:
        return plain
    test, split = trends.monotony(values, ticks, lines.slope), trends.change_points(values)
    columns = (test.p, test.z, test.correlation, split.first, split.gain, split.before * scale, split.after * scale)
    return [
        replace(one, raw_p=p, z=z, correlation=r, change=first, gain=gain, means=(before, after))
        for one, p, z, r, first, gain, before, after in zip(plain, *(c.tolist() for c in columns), strict=True)
    ]


def _adjusted(found: Sequence[Trend]) -> tuple[Trend, ...]:
    """The trends with p adjusted over the sites of every metric."""
    by_rule: dict[str, list[int]] = {}
    for index, trend in enumerate(found):
        if trend.raw_p is not None:
            by_rule.setdefault(trend.series.rule, []).append(index)
    result = list(found)
    for indices in by_rule.values():
        raw = torch.tensor([found[index].raw_p for index in indices], dtype=torch.float64)
        for index, p in zip(indices, trends.adjusted(raw).tolist(), strict=True):
            result[index] = replace(found[index], p=p)
    return tuple(result)


def bound(series: Series) -> tuple[Literal["below", "above"], float] | None:
    """Side and value of the metric's error limit for the last member; None without one or where an intent decides."""
    limit = series.metric.error
    if limit is None or limit.intent is not None:
        return None
    if limit.of == "value":
        return limit.side, limit.bound
    null = series.nulls[-1]
    return None if null is None else (limit.side, limit.bound * null)


def curve(steps: Iterable[float], values: Iterable[float]) -> dict[str, list[float]]:
    """Steps and values of a curve, at most 128 points, the ends among them."""
    ticks, points = list(steps), list(values)
    if len(ticks) > _POINTS:
        kept = [round(place * (len(ticks) - 1) / (_POINTS - 1)) for place in range(_POINTS)]
        ticks, points = [ticks[place] for place in kept], [points[place] for place in kept]
    return {"step": ticks, "value": points}
