"""Limits and evidence agree: every limit cites the zoo, a paper or a derivation, and none contradicts the table."""

import re
from pathlib import Path

import pytest

from collapse_cli.analyzers import catalogue
from zoo.accuracy import Share
from zoo.calibration import Calibration
from zoo.evidence import stored
from zoo.kinds import kinds
from zoo.page import page

_EVIDENCE = stored()
_ROWS = {row.rule: row for row in _EVIDENCE.calibrations}
_JUDGED = [
    (f"{analyzer.name}/{metric.name}", metric)
    for analyzer in catalogue(plugins=False).analyzers
    for metric in analyzer.manual.metrics
    if metric.warn or metric.error
]
#: What a limit may cite: the zoo, what the words mean, a derivation, or a paper or tool with its year or version.
_CITES = re.compile(r"^(zoo|definition|closed form): |\b(19|20)\d\d\b|\d+\.\d+\.\d+")


def test_the_page_is_that_of_the_evidence() -> None:
    assert page(_EVIDENCE) == (Path(__file__).parents[2] / "docs" / "accuracy.md").read_text(encoding="utf-8")


def test_every_kind_was_built_whole() -> None:
    assert not _EVIDENCE.failures
    assert [record.name for record in _EVIDENCE.kinds] == list(kinds())
    for record in _EVIDENCE.kinds:
        if not record.is_control:
            assert sum(record.truths.values()) == len(list(kinds()[record.name].cases()))
            assert {"healthy", "collapsed"} <= set(record.truths), record.name


@pytest.mark.parametrize(("rule", "metric"), _JUDGED, ids=[rule for rule, _ in _JUDGED])
def test_a_limit_was_calibrated_as_it_stands(rule: str, metric) -> None:
    row = _ROWS[rule]
    assert row.warn == (metric.warn.bound if metric.warn else None), "run `make zoo` after a limit was moved"
    assert row.error == (metric.error.bound if metric.error else None), "run `make zoo` after a limit was moved"


@pytest.mark.parametrize(("rule", "metric"), _JUDGED, ids=[rule for rule, _ in _JUDGED])
def test_a_limit_cites_what_it_rests_on(rule: str, metric) -> None:
    for limit in (metric.warn, metric.error):
        if limit is None:
            continue
        assert _CITES.search(limit.source), limit.source
        if limit.source.startswith("zoo: "):
            assert _ROWS[rule].healthy or _ROWS[rule].healthy_models, "the zoo has no model that has this metric"
    if metric.error and metric.error.source.startswith("zoo: "):
        assert _ROWS[rule].collapsed is not None, "an error limit needs models that collapsed"


@pytest.mark.parametrize("row", _EVIDENCE.calibrations, ids=lambda row: row.rule)
def test_no_limit_contradicts_the_table(row: Calibration) -> None:
    assert not row.healthy_failed, "an error on a healthy model"
    if row.healthy_warned:
        warned = Share(round(row.healthy_warned * row.healthy_models), row.healthy_models)
        assert warned.interval[0] <= 0.05, "a warning on surely more than one healthy model in twenty"
    if row.error is not None and row.source.startswith("zoo: "):
        assert (row.area or 0) >= 0.9, "an error limit on what does not separate"


def test_the_figures_that_were_promised() -> None:
    whole = _EVIDENCE.accuracy.whole
    assert whole.collapsed.value >= 0.95
    assert whole.mild.value >= 0.8
    assert whole.failed.hits == 0
    assert whole.warned.value <= 0.05
    assert whole.named.value >= 0.9
