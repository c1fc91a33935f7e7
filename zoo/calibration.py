"""Every judged metric against the models: what sound ones and collapsed ones read, and where the limit ought to be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, final

import numpy as np
from jaxtyping import Float

from collapse_cli.core.manual import Manual
from collapse_cli.core.metric import Limit, Metric
from zoo.kinds import kinds
from zoo.verdicts import Row

__all__ = ["Calibration", "Spread", "calibrated"]

_BOOTSTRAPS = 200
Values = Float[np.ndarray, "n"]


@final
@dataclass(frozen=True, slots=True)
class Spread:
    """One value a model, that of its worst site: how many models, the nearest to the other group, and the median."""

    models: int
    nearest: float
    median: float


@final
@dataclass(frozen=True, slots=True)
class Calibration:
    """A judged metric on the zoo. Values are value ÷ null where the limit is stated so.

    `healthy` are sound and untrained models of all kinds that have the metric, `collapsed` those of the kinds that
    it is a sign of; both of the calibration half. `area` is the area under the ROC curve there, `held_out_area` on
    the other half. `chosen` separates the two best, in the middle of the gap; `low` and `high` are its 95 % interval
    over resampled models. The shares are those of held-out models beyond the limits of the tool.
    """

    rule: str
    side: Literal["below", "above"]
    of: Literal["value", "null"]
    intent: tuple[str, ...]
    warn: float | None
    error: float | None
    source: str
    kinds: tuple[str, ...]
    healthy: Spread | None
    collapsed: Spread | None
    area: float | None
    held_out_area: float | None
    chosen: float | None
    low: float | None
    high: float | None
    healthy_models: int
    healthy_warned: float | None
    healthy_failed: float | None
    collapsed_models: int
    collapsed_failed: float | None


def calibrated(manuals: Iterable[Manual], rows: Sequence[Row], *, seed: int = 0) -> list[Calibration]:
    """One entry for each metric that has a limit, in the order of the manuals."""
    random = np.random.default_rng(seed)
    tables = _worst_values(rows)
    return [
        _calibration(f"{manual.name}/{metric.name}", metric, rows, tables, random)
        for manual in manuals
        for metric in manual.metrics
        if metric.warn or metric.error
    ]


def _worst_values(rows: Sequence[Row]) -> list[dict[tuple[str, str], tuple[float, float]]]:
    """For each row and (rule, of): the least and the greatest value over its sites."""
    tables = []
    for row in rows:
        table: dict[tuple[str, str], tuple[float, float]] = {}
        for one in row.subject.measurements:
            values = {"value": one.value}
            if one.null:
                values["null"] = one.value / one.null
            for of, value in values.items():
                low, high = table.get((one.rule, of), (math.inf, -math.inf))
                table[one.rule, of] = min(low, value), max(high, value)
        tables.append(table)
    return tables


def _calibration(
    rule: str,
    metric: Metric,
    rows: Sequence[Row],
    tables: Sequence[dict[tuple[str, str], tuple[float, float]]],
    random: np.random.Generator,
) -> Calibration:
    limit = metric.error or metric.warn
    assert limit is not None  # noqa: S101
    of, signs = _grouped(rule, limit, rows, tables)
    # a warning may be so many times the null where the error is a closed form of the value
    of_warn = of if metric.warn is None or metric.warn.of == limit.of else _grouped(rule, metric.warn, rows, tables)[0]
    healthy, collapsed = (of[group, "calibration"] for group in ("healthy", "collapsed"))
    held_healthy, held_collapsed = (of[group, "held-out"] for group in ("healthy", "collapsed"))
    chosen, low, high = _chosen(healthy, collapsed, limit.side, random)
    return Calibration(
        rule=rule,
        side=limit.side,
        of=limit.of,
        intent=tuple(sorted(limit.intent or ())),
        warn=metric.warn.bound if metric.warn else None,
        error=metric.error.bound if metric.error else None,
        source=limit.source,
        kinds=tuple(sorted(signs)),
        healthy=_spread(healthy, limit.side),
        collapsed=_spread(collapsed, "above" if limit.side == "below" else "below"),
        area=_area(healthy, collapsed, limit.side),
        held_out_area=_area(held_healthy, held_collapsed, limit.side),
        chosen=chosen,
        low=low,
        high=high,
        healthy_models=len(held_healthy),
        healthy_warned=_beyond(of_warn["healthy", "held-out"], metric.warn),
        healthy_failed=_beyond(held_healthy, metric.error),
        collapsed_models=len(held_collapsed),
        collapsed_failed=_beyond(held_collapsed, metric.error),
    )


def _grouped(
    rule: str, limit: Limit, rows: Sequence[Row], tables: Sequence[dict[tuple[str, str], tuple[float, float]]]
) -> tuple[dict[tuple[str, str], Values], set[str]]:
    """The worst value of each model by group and half, and the kinds that the rule is a sign of."""
    found: dict[tuple[str, str], list[float]] = {
        (group, half): [] for group in ("healthy", "collapsed") for half in ("calibration", "held-out")
    }
    signs = set()
    for row, table in zip(rows, tables, strict=True):
        group = _group(row, rule, limit)
        ends = table.get((rule, limit.of))
        if group is None or ends is None:
            continue
        if group == "collapsed":
            signs.add(row.case.kind)
        found[group, row.case.split].append(ends[0] if limit.side == "below" else ends[1])
    return {key: np.asarray(values) for key, values in found.items()}, signs


def _group(row: Row, rule: str, limit: Limit) -> str | None:
    """`healthy` or `collapsed` for this rule; a limit of an intent concerns its own models, and untrained ones."""
    view = kinds()[row.case.kind].views[row.view]
    if limit.intent is not None and row.truth != "control" and view.intent not in limit.intent:
        return None
    if row.truth in ("healthy", "control"):
        return "healthy"
    is_sign = any(fnmatchcase(rule, sign) for sign in view.signs)
    return "collapsed" if row.truth == "collapsed" and is_sign else None


def _spread(values: Values, side: str) -> Spread | None:
    if not len(values):
        return None
    nearest = values.min() if side == "below" else values.max()
    return Spread(len(values), _short(nearest), _short(np.median(values)))


def _area(healthy: Values, collapsed: Values, side: str) -> float | None:
    """Chance that a collapsed model reads worse than a healthy one, ties counted half (Mann & Whitney 1947)."""
    if not len(healthy) or not len(collapsed):
        return None
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([collapsed, healthy]))[: len(collapsed)]
    above = (ranks.sum() - len(collapsed) * (len(collapsed) + 1) / 2) / (len(collapsed) * len(healthy))
    return _short(above if side == "above" else 1 - above)


def _chosen(
    healthy: Values, collapsed: Values, side: str, random: np.random.Generator
) -> tuple[float | None, float | None, float | None]:
    """The separating value with its bootstrap interval; none without models of both groups."""
    if not len(healthy) or not len(collapsed):
        return None, None, None
    sign = 1.0 if side == "above" else -1.0
    drawn = [
        _separating(sign * random.choice(healthy, len(healthy)), sign * random.choice(collapsed, len(collapsed)))
        for _ in range(_BOOTSTRAPS)
    ]
    low, high = np.sort(sign * np.quantile(drawn, [0.025, 0.975]))
    return _short(sign * _separating(sign * healthy, sign * collapsed)), _short(low), _short(high)


def _separating(healthy: Values, collapsed: Values) -> float:
    """The middle of the interval where detection less false alarms is greatest (Youden 1950); large is collapsed."""
    places = np.unique(np.concatenate([healthy, collapsed]))
    found = 1 - np.searchsorted(np.sort(collapsed), places, side="left") / len(collapsed)
    false = 1 - np.searchsorted(np.sort(healthy), places, side="left") / len(healthy)
    best = int(np.argmax(found - false))
    return float((places[best] + places[max(best - 1, 0)]) / 2)


def _beyond(values: Values, limit: Limit | None) -> float | None:
    if limit is None or not len(values):
        return None
    # the values are value ÷ null already where the limit is stated so
    return sum(limit.is_crossed(value, 1.0) for value in _plain(values)) / len(values)


def _plain(values: Values) -> Iterator[float]:
    return (float(value) for value in values)


def _short(value: float | np.floating) -> float:
    return float(f"{float(value):.4g}")
