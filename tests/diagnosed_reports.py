"""Reports made by hand whose findings are grouped by what caused them, for the renderers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from collapse_cli.core.metric import Limit, Measurement, Metric
from collapse_cli.core.report import Report
from collapse_cli.core.site import Role, Site
from collapse_cli.diagnosis import diagnosed
from tests.reports import RANK, RATIO, REPORTS, report, subject

STABLE = replace(
    RANK,
    name="stable-rank",
    title="Stable rank",
    metrics=(Metric("stable_rank", "1", "The stable rank.", "higher", Limit("below", 1.1, "s"), message="One rules."),),
    remedy="Clip the spectral norm.",
)
HOUSE = replace(
    RANK,
    name="house-rule",
    title="House <rule>",
    metrics=(Metric("drift", "1", "Drift.", "lower", None, Limit("above", 2.0, "ours"), message="Too far."),),
    remedy="Ask the house.",
)
LAYERS = 3


def with_diagnoses(given: Report) -> Report:
    """The report as a run of today would have made it."""
    return replace(given, subjects=tuple(diagnosed(one, given.manuals) for one in given.subjects))


def ill() -> Report:
    """Three layers without rank, what that entails, and a rule of the house that nothing explains.

    The ratio is an error at layers 0 and 1 and a warning at layer 2; the stable rank is a warning at all of them.
    """
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in range(LAYERS)]

    def measured(analyzer: str, metric: Metric, site: str, value: float) -> Measurement:
        return replace(metric.at(site, value, directions=value * 64), analyzer=analyzer)

    measurements = [
        *(measured("effective-rank", RATIO, name, value) for name, value in zip(names, (0.04, 0.02, 0.2), strict=True)),
        *(measured("stable-rank", STABLE.metrics[0], name, 1.01 + 0.01 * at) for at, name in enumerate(names)),
        measured("house-rule", HOUSE.metrics[0], "head.weight", 3.0),
    ]
    one = subject(
        "ill.safetensors",
        sites=(
            *(Site(name, (64, 64), "F32", layer, Role.MLP_IN) for layer, name in enumerate(names)),
            Site("head.weight", (10, 64), "F32", None, Role.HEAD),
        ),
        measurements=tuple(measurements),
    )
    return with_diagnoses(report(one, manuals=(RANK, STABLE, HOUSE)))


def _diagnosed(make: Callable[[], Report]) -> Callable[[], Report]:
    return lambda: with_diagnoses(make())


DIAGNOSED: dict[str, Callable[[], Report]] = {
    "ill": ill,
    **{f"{name}-diagnosed": _diagnosed(make) for name, make in REPORTS.items()},
}
