"""The rates of the page, counted by hand over a few rows."""

from dataclasses import replace

import pytest

from collapse_cli.core.finding import Severity
from collapse_cli.core.report import Coverage, Subject
from zoo.accuracy import Accuracy, accuracy
from zoo.case import Case
from zoo.verdicts import Row

_NOTHING = Subject("a", "a", "checkpoint", "f", None, 0, "complete", Coverage(0, 0, 0))
#: A rank collapse on the second architecture and the first data set, found and named.
_FOUND = Row(
    case=Case("rank-collapse", "tapered", "digits", "collapsed", 5),
    view="weights",
    truth="collapsed",
    subject=_NOTHING,
    severity=Severity.ERROR,
    alarm=Severity.ERROR,
    alarms=("error: effective-rank/numerical_rank",),
    primary="effective-rank/numerical_rank",
    kind="rank-collapse",
)


@pytest.fixture
def told() -> Accuracy:
    mild = replace(_FOUND.case, level="mild")
    return accuracy(
        [
            _FOUND,
            # a warning is no detection of a collapse, and what is not found is not asked for its name
            replace(_FOUND, severity=Severity.WARNING, kind="dead-units"),
            replace(_FOUND, case=mild, truth="mild", severity=Severity.WARNING, primary="x/y", kind="duplicate-units"),
            replace(_FOUND, case=mild, truth="mild", severity=Severity.INFO),
            replace(_FOUND, truth="healthy", severity=None, alarm=Severity.WARNING, alarms=("warning: x/y",)),
            replace(_FOUND, truth="control", severity=None, alarm=None, alarms=()),
            replace(_FOUND, truth="unclear"),
        ]
    )


def test_what_is_found_and_missed(told: Accuracy) -> None:
    (one,) = told.of_kinds
    assert (one.collapsed.hits, one.collapsed.count) == (1, 2)
    assert (one.mild.hits, one.mild.count) == (1, 2)
    assert one.unclear == 1


def test_false_alarms_are_those_of_sound_models_by_any_analyzer(told: Accuracy) -> None:
    (one,) = told.of_kinds
    assert (one.failed.hits, one.failed.count) == (0, 2)
    assert (one.warned.hits, one.warned.count) == (1, 2)
    assert one.says == (("warning: x/y", 1),)


def test_the_name_is_asked_of_what_was_found(told: Accuracy) -> None:
    (one,) = told.of_kinds
    assert (one.named.hits, one.named.count) == (1, 2)
    assert told.confusion == (("rank-collapse", "duplicate-units", 1), ("rank-collapse", "rank-collapse", 1))
    assert dict(one.first) == {"effective-rank": 1, "x": 1}


def test_a_slice_holds_what_is_new_in_it_alone(told: Accuracy) -> None:
    counts = {name: one.collapsed.count for name, one in told.slices}
    assert counts == {"architecture not seen": 2, "data set not seen": 0, "neither seen": 0}
