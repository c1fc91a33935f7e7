"""A report as a few numbers to plot over training: one value for each rule. Pure, and without torch."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from statistics import median
from typing import Final

from collapse_cli.core.metric import Measurement, Metric
from collapse_cli.core.report import Report

__all__ = ["HEADLINES", "PREFIX", "scalars"]

#: First part of every key.
PREFIX: Final = "collapse"
#: Rules that say most of a model in training, one or two for each way to fall ill: directions lost, units lost, units
#: copied, heads alike, numbers overflown. Those that do not apply to a model give nothing.
HEADLINES: Final = (
    "effective-rank/effective_rank_lambda",
    "stable-rank/stable_rank",
    "conditioning/log10_condition",
    "dead-units/dead_*_share",
    "duplicate-units/duplicate_share",
    "head-redundancy/head_similarity",
    "lora-spectrum/used_rank_share",
    "non-finite/nan_count",
)


def scalars(report: Report, rules: Sequence[str] = HEADLINES) -> dict[str, float]:
    """The verdict's counts, and for every rule that a glob matches its median over all sites and its worst site.

    Keys: `collapse/errors`, `collapse/warnings` (not suppressed), `collapse/incomplete` (1: not everything was
    analysed, the counts are a lower bound); `collapse/<analyzer>/<metric>`; with `.over_null` the median of value ÷
    null, where every site states a null above 0; with `.worst` the worst site's value, or value ÷ null where there is
    one, for metrics of which it is known which way is better.
    """
    found = {
        f"{PREFIX}/errors": float(report.verdict.findings.get("error", 0)),
        f"{PREFIX}/warnings": float(report.verdict.findings.get("warning", 0)),
        f"{PREFIX}/incomplete": float(report.verdict.outcome in ("incomplete", "empty")),
    }
    metrics = {f"{manual.name}/{metric.name}": metric for manual in report.manuals for metric in manual.metrics}
    by_rule: dict[str, list[Measurement]] = {}
    for subject in report.subjects:
        for measurement in subject.measurements:
            if any(fnmatchcase(measurement.rule, glob) for glob in rules):
                by_rule.setdefault(measurement.rule, []).append(measurement)
    for rule, measurements in by_rule.items():
        found.update(_of_rule(f"{PREFIX}/{rule}", measurements, metrics.get(rule)))
    return found


def _of_rule(key: str, measurements: Sequence[Measurement], metric: Metric | None) -> Iterator[tuple[str, float]]:
    values = [measurement.value for measurement in measurements]
    yield key, median(values)
    ratios = [one.value / one.null for one in measurements if one.null is not None and one.null > 0]
    if len(ratios) == len(values):
        key, values = f"{key}.over_null", ratios
        yield key, median(values)
    if metric is not None and metric.better is not None:
        yield f"{key}.worst", min(values) if metric.better == "higher" else max(values)
