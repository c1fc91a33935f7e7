"""Which measured numbers of a run move the wrong way, since when, and where they end."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, on, run_analyzer, skip

if TYPE_CHECKING:
    from collapse_cli.core.report import Subject
    from collapse_cli.kernels.comparisons import Run
    from collapse_cli.kernels.opposed_trends import Opposed
    from collapse_cli.kernels.run_series import Series, Trend

__all__ = ["trend"]

#: Series that are told one by one: 2,000 of ten members are 3 MB of a report. All are tested.
SHOWN = 2000
#: Sites whose short series are named one by one.
NAMED_SITES = 100
#: A line is not followed further than as many lengths of the run beyond its end.
FORESIGHT = 10.0

SLOPE = Metric(
    "slope",
    "per step",
    "The Theil–Sen slope: the median of the slopes between all pairs of members.",
    null="0: nothing moves",
)
TREND_P = Metric(
    "trend_p",
    "1",
    "How often a series without trend looks as monotone: Mann–Kendall after pre-whitening, adjusted over sites.",
    null="0.05: the customary level; p is uniform where nothing moves",
)
ADVERSE_TREND = Metric(
    "adverse_trend",
    "residual scales",
    "How far the line moves against the direction that is good, 0 unless trend_p < 0.01.",
    better="lower",
    null="0: nothing moves",
)
OPPOSED_TREND = Metric(
    "opposed_trend",
    "residual scales",
    "The least move of several series that together are a sign of collapse, 0 unless each moves so at p < 0.01.",
    better="lower",
    warn=Limit(
        "above", 3.0, "definition: three residual scales, which i.i.d. series pass in 0.3 % and random walks in 18 %"
    ),
    null="0: nothing moves",
    message="{rule}: all series move so by at least {value:.3g} residual scales, as in {sign}; the first began at "
    "about step {change_point:.6g}.",
)
CHANGE_POINT = Metric(
    "change_point",
    "step",
    "The first step after the change, if the series is two constant parts; gain_nats > 10 reads: it changed here.",
)
DECLINE_FROM_BEST = Metric(
    "decline_from_best",
    "1",
    "How far the last value lies from the best of the run in the bad direction, over the size of the best.",
    better="lower",
    null="0: the last member is the best",
)
CROSSING_STEP = Metric(
    "crossing_step",
    "step",
    "The step at which the Theil–Sen line meets the metric's own error limit.",
    better="higher",
)
LIMIT_APPROACH = Metric(
    "limit_approach",
    "1",
    "How far the last value has come from the best of the run towards the metric's own error limit.",
    better="lower",
    warn=Limit("above", 1.0, "definition: the last member is beyond the error limit, and the best was not"),
    null="0: the last member is the best",
    message="{rule} went from {best:.4g} at step {best_step:.6g} to {last:.4g}, beyond its error limit {limit:.4g} "
    "since step {beyond_since:.6g}.",
)


def _subjects(recall: "tuple[float, ...]", precision: "tuple[float, ...]") -> "tuple[Subject, ...]":
    """Reports of generators that were measured so, against halves that give .9."""
    from collapse_cli.core.report import Coverage, Subject
    from collapse_cli.core.site import Site

    return tuple(
        Subject(
            id=f"generation-{place}",
            path=f"generation-{place}",
            kind="dump",
            format="memory",
            digest=None,
            bytes=0,
            status="complete",
            coverage=Coverage(1, 1, 1),
            sites=(Site("decoder", (500, 16), "F32"),),
            measurements=(
                Measurement("precision-recall", "recall", "decoder", values[0], 0.9),
                Measurement("precision-recall", "precision", "decoder", values[1], 0.9),
            ),
        )
        for place, values in enumerate(zip(recall, precision, strict=True))
    )


def healthy() -> Example:
    """Recall and precision that wander about the same level."""
    import torch

    noise = 0.01 * torch.randn(2, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    recall, precision = (tuple((0.88 + row).tolist()) for row in noise)
    return Example({}, subjects=_subjects(recall, precision), steps=tuple(float(place) for place in range(12)))


def collapsed() -> Example:
    """Recall falls to a hundredth while precision rises."""
    import torch

    noise = 0.005 * torch.randn(2, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    run = torch.arange(12, dtype=torch.float64)
    recall = tuple((0.9 - 0.082 * run + noise[0]).abs().tolist())
    precision = tuple((0.8 + 0.015 * run + noise[1]).tolist())
    return Example({}, subjects=_subjects(recall, precision), steps=tuple(run.tolist()))


@run_analyzer(
    name="trend",
    family="runs",
    title="Trend over a run",
    metrics=(
        SLOPE,
        TREND_P,
        ADVERSE_TREND,
        OPPOSED_TREND,
        CHANGE_POINT,
        DECLINE_FROM_BEST,
        CROSSING_STEP,
        LIMIT_APPROACH,
    ),
    accepts=on.runs("ordered runs of reports, of 8 members for anything beyond slopes"),
    remedy="Do what the metric that moved says; roll back to the member before the change point, or stop early at the "
    "best member.",
    references=(
        Reference(
            "Yue et al. The influence of autocorrelation on the ability to detect trend in hydrological series. 2002",
            "https://doi.org/10.1002/hyp.1095",
        ),
        Reference(
            "Sen. Estimates of the Regression Coefficient Based on Kendall's Tau. 1968",
            "https://doi.org/10.1080/01621459.1968.10480934",
        ),
        Reference("Mann. Nonparametric Tests Against Trend. 1945", "https://doi.org/10.2307/1907187"),
        Reference(
            "Benjamini & Hochberg. Controlling the False Discovery Rate. 1995",
            "https://doi.org/10.1111/j.2517-6161.1995.tb02031.x",
        ),
        Reference(
            "Garrido et al. RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised Representations "
            "by Their Rank. 2022",
            "https://arxiv.org/abs/2210.02885",
        ),
        Reference(
            "Bandara et al. Guarding Barlow Twins Against Overfitting with Mixed Samples. 2023",
            "https://arxiv.org/abs/2312.02151",
        ),
        Reference(
            "Wortsman et al. Small-scale proxies for large-scale Transformer training instabilities. 2023",
            "https://arxiv.org/abs/2309.14322",
        ),
        Reference(
            "Prieto et al. Grokking at the Edge of Numerical Stability. 2025", "https://arxiv.org/abs/2501.04697"
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    confidence="experimental",
)
def trend(run: "Run") -> Iterator[Measurement | Skip]:
    """Which measured number is moving the wrong way over this run, since when, and where does it end?

    ## Why it matters
    A single checkpoint says that something is lost; only the run says when it began to be, whether it still goes on,
    and which member is the last sound one. Training keeps the loss falling while rank, recall or live units go.

    ## How to read it
    A series is one metric at one site, named `<site>#rule=<analyzer>/<metric>`; its curve stands in the evidence of
    `slope`. It has a trend where `trend_p` < 0.01; `adverse_trend` then says by how many scales of its residuals it
    moved against the direction that is good. `change_point` is the first step of the second part where the series is
    best told as two levels; read it where `gain_nats`, the gain in log likelihood, is above 10. `crossing_step` is
    where the line meets the metric's own error limit, no further ahead than ten lengths of the run. Two things are
    judged. `limit_approach` above 1: the last member is beyond an error limit that the best member kept.
    `opposed_trend`: one number gets worse while another gets better, in one of the combinations that are known signs of
    collapse, named in the evidence. Figures of the metadata of members (loss, accuracy, …) are the series
    `#run#rule=metadata/…`.

    ## Limits
    Metrics without a direction and without a limit are left out, but for those a rule asks for, and so are series that
    do not move; of more than 2,000 series those with a finding and the clearest trends are told, the others counted. A
    trend alone is never a finding: weights lose rank in every sound training, and distances count in scales of the
    residuals, so that a smooth series moves far however little it moves. Few members with smooth residuals are taken
    for a series with memory, and show no trend. Below 8 members there are slopes and nothing else. On a random walk of
    20 members a trend is seen in 18 of 100 runs, hence two series in every rule. Sites of one model move together, so
    the adjustment for their number is optimistic. A change of the learning rate makes change points. Falling rank of
    features is right under neural collapse, and logits grow in the sound first part of any training, where the rule of
    logit growth says no more than that. A decline from a best value of 0 has no size. Reports carry no metadata of
    their members, so their loss is not known. Compare reports of one version, of one number of rows and preprocessing.
    """
    if any(after <= before for before, after in zip(run.steps, run.steps[1:], strict=False)):
        yield skip(run.site.name, "the steps of the members do not ascend")
        return
    series, least = kernels.run_series.collected(run, also=kernels.opposed_trends.ASKED), kernels.run_series.MIN_MEMBERS
    count = len(run.members)
    if count < least:
        yield skip(run.site.name, f"everything but slope: run too short: {count} of {least}")
    kept = [one for one in series if len(one.places) >= min(count, least)]
    yield from _too_short(series, least, count)
    moving = [one for one in kept if len(one.places) > 1 and min(one.values) < max(one.values)]
    if len(moving) < len(kept):
        yield skip(run.site.name, f"{len(kept) - len(moving):,} of {len(kept):,} series do not move")
    # what does not move is a test too, and counts in the adjustment
    found = [one for one in kernels.run_series.trends_of(run, kept) if min(one.series.values) < max(one.series.values)]
    signs = list(kernels.opposed_trends.opposed(found, run.site.name))
    shown = _shown(found, signs)
    if len(shown) < len(found):
        left_out = len(found) - len(shown)
        yield skip(run.site.name, f"{left_out:,} of {len(found):,} series, the least clear, are not told")
    for one in shown:
        yield from _told(one, count)
    names = {one.series.name for one in shown}
    yield from _opposed([sign for sign in signs if sign.lead.series.name in names])
    if count >= least and not signs:
        yield skip(run.site.name, "opposed_trend: no rule finds all its series")


def _too_short(series: "Sequence[Series]", least: int, count: int) -> Iterator[Skip]:
    """What is said of sites whose metrics are in too few members of a run that is long enough."""
    if count < least:
        return
    missing: dict[str, list[int]] = {}
    for one in series:
        if len(one.places) < least:
            missing.setdefault(one.site, []).append(len(one.places))
    for site in list(missing)[:NAMED_SITES]:
        metrics, most = len(missing[site]), max(missing[site])
        yield skip(site, f"{metrics} series in {most} of {count} members at most, fewer than {least}")
    if len(missing) > NAMED_SITES:
        yield skip("#run", f"{len(missing) - NAMED_SITES:,} further sites are in fewer than {least} of {count} members")


def _shown(found: "Sequence[Trend]", signs: "Sequence[Opposed]") -> "list[Trend]":
    """The trends that are told, in their order: those with a finding, then the clearest."""
    if len(found) <= SHOWN:
        return list(found)
    signalled = {sign.lead.series.name for sign in signs if sign.distance > 0.0}

    def rank(index: int) -> tuple[bool, bool, float, float]:
        one = found[index]
        approach = _approach(one)
        is_found = one.series.name in signalled or (approach is not None and approach[0] > 1.0)
        return not is_found, not one.is_adverse, one.p if one.p is not None else 1.0, -one.distance

    return [found[index] for index in sorted(sorted(range(len(found)), key=rank)[:SHOWN])]


def _told(one: "Trend", count: int) -> Iterator[Measurement]:
    name, series = one.series.name, one.series
    members: dict[str, Any] = {"members": f"{len(series.places)} of {count}"}
    curve = kernels.run_series.curve(one.steps, series.values)
    first = series.values[0]
    # a change relative to a first value of 0 has no size
    relative: dict[str, Any] = {"better": series.metric.better or "not stated"}
    if abs(first) > 1e-300 and abs(one.slope / abs(first)) < 1e300:
        relative["relative_slope"] = one.slope / abs(first)
    yield _with(SLOPE.at(name, one.slope, 0.0, **members, **relative), curve)
    if one.p is None or one.raw_p is None:
        return
    evidence = {"z": one.z, "unadjusted_p": one.raw_p, "correlation_removed": one.correlation}
    yield TREND_P.at(name, one.p, 0.05, **members, **evidence)
    if series.metric.better is not None:
        is_adverse = one.is_adverse and one.p < kernels.opposed_trends.SIGNIFICANT
        moved = one.slope * (one.steps[-1] - one.steps[0])
        yield ADVERSE_TREND.at(
            name, one.distance if is_adverse else 0.0, 0.0, **members, moved=moved, first=first, last=series.values[-1]
        )
    change = {"gain_nats": one.gain, "mean_before": one.means[0], "mean_after": one.means[1]}
    yield CHANGE_POINT.at(name, one.steps[one.change], **members, **change, is_clear=one.gain > 10.0)
    yield from _against_limits(one, members)


def _against_limits(one: "Trend", members: dict[str, Any]) -> Iterator[Measurement]:
    """Decline from the best member, and where the metric's error limit lies on the way."""
    name, values = one.series.name, one.series.values
    better = one.series.metric.better
    if better is not None:
        best = max(values) if better == "higher" else min(values)
        lost = best - values[-1] if better == "higher" else values[-1] - best
        if abs(best) > 1e-300 and lost / abs(best) < 1e300:
            best_step = one.steps[values.index(best)]
            yield DECLINE_FROM_BEST.at(name, lost / abs(best), 0.0, **members, best=best, best_step=best_step)
    limit = kernels.run_series.bound(one.series)
    if limit is None:
        return
    crossing = _crossing(one, limit)
    if crossing is not None:
        yield CROSSING_STEP.at(name, crossing, **members, limit=limit[1], side=limit[0], last_step=one.steps[-1])
    approach = _approach(one)
    if approach is None:
        return
    value, best, limit_value = approach
    beyond = one.steps[-1]
    for step, measured in zip(reversed(one.steps), reversed(values), strict=True):
        if measured <= limit_value if limit[0] == "above" else measured >= limit_value:
            break
        beyond = step
    best_step = one.steps[values.index(best)]
    evidence: dict[str, Any] = {"rule": one.series.rule, "best": best, "best_step": best_step, "last": values[-1]}
    since: dict[str, Any] = {"limit": limit_value, "beyond_since": beyond if value > 1.0 else "not crossed"}
    yield LIMIT_APPROACH.at(name, value, 0.0, **members, **evidence, **since)


def _crossing(one: "Trend", limit: tuple[str, float]) -> float | None:
    """The step at which the line meets the limit from the sound side, within the run or ten lengths of it ahead."""
    side, bound = limit
    if one.p is None or one.p >= kernels.opposed_trends.SIGNIFICANT or (one.slope > 0.0) != (side == "above"):
        return None
    step = (bound - one.intercept) / one.slope
    span = one.steps[-1] - one.steps[0]
    return step if one.steps[0] <= step <= one.steps[-1] + FORESIGHT * span else None


def _approach(one: "Trend") -> tuple[float, float, float] | None:
    """How far the last value has come from the best towards the error limit, the best, and the limit."""
    limit = kernels.run_series.bound(one.series)
    if limit is None or one.p is None:
        return None
    side, bound = limit
    values = one.series.values
    best = max(values) if side == "below" else min(values)
    way = best - bound if side == "below" else bound - best
    gone = best - values[-1] if side == "below" else values[-1] - best
    # a limit that even the best member touches was never kept; one beyond the rounding of the best is no way at all
    if way <= 1e-9 * max(abs(best), abs(bound)) or not gone / way < 1e300:
        return None
    return gone / way, best, bound


def _opposed(signs: "Sequence[Opposed]") -> Iterator[Measurement]:
    for sign in signs:
        lead = sign.lead
        curves: dict[str, Any] = kernels.run_series.curve(lead.steps, lead.series.values)
        for place, other in enumerate(sign.others, start=1):
            other_curve = kernels.run_series.curve(other.steps, other.series.values)
            curves |= {f"{key}_{place}": points for key, points in other_curve.items()}
        measured = OPPOSED_TREND.at(
            lead.series.name,
            sign.distance,
            0.0,
            rule=sign.rule.name,
            sign=sign.rule.says,
            series=[one.series.name for one in (lead, *sign.others)],
            change_point=lead.steps[lead.change],
        )
        yield _with(measured, curves)


def _with(measured: Measurement, curves: dict[str, Any]) -> Measurement:
    """The measurement with curves in its evidence; one of their lists is called `value`, as the measured number is."""
    return replace(measured, evidence=measured.evidence | curves)
