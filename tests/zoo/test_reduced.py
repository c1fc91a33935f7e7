"""One seed of every kind, trained and scanned here: the figures must point the way that `docs/accuracy.md` says.

The whole zoo has sixty models a kind and takes a quarter of an hour on two cores: `make zoo`.
"""

from pathlib import Path

import pytest

from collapse_cli.core.finding import Severity
from zoo.build import built
from zoo.kinds import kinds
from zoo.verdicts import Row, rows

_SEED = 0
_TRAINED = [kind for kind in kinds().values() if not kind.is_control]


def _rows(store: Path, name: str) -> list[Row]:
    models = [built(store, case) for case in kinds()[name].cases([_SEED])]
    assert not [one.error for one in models if one.error]
    return list(rows(models))


@pytest.mark.parametrize("name", [kind.name for kind in _TRAINED])
def test_a_collapse_that_was_caused_is_found_and_named(name: str, tmp_path: Path) -> None:
    found = _rows(tmp_path, name)
    truths = {row.truth for row in found}
    assert {"healthy", "collapsed"} <= truths, "the outcome of training is not what the recipe is there to cause"
    for view in kinds()[name].views:
        of_view = [row for row in found if row.view == view]
        collapsed = [row for row in of_view if row.truth == "collapsed"]
        if not collapsed:
            continue
        caught = [row for row in collapsed if row.severity is Severity.ERROR]
        assert 2 * len(caught) >= len(collapsed), [row.alarms for row in collapsed]
        assert 2 * sum(row.kind == name for row in caught) >= len(caught), [row.primary for row in caught]
    for row in found:
        if row.truth == "healthy":
            assert row.alarm is not Severity.ERROR, (row.case.name, row.alarms)


def test_controls_raise_no_error(tmp_path: Path) -> None:
    controls = [kind for kind in kinds().values() if kind.is_control]
    assert controls
    for kind in controls:
        for row in _rows(tmp_path, kind.name):
            assert row.alarm is not Severity.ERROR, (row.case.name, row.alarms)
