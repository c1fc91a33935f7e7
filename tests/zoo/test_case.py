"""The words of the zoo: truth by the outcome alone, and halves that share no seed and no whole corner."""

import math
from collections import Counter

import pytest

from collapse_cli.core.causes import CAUSES
from zoo.case import Outcome
from zoo.kinds import kinds

_KINDS = list(kinds().values())


@pytest.mark.parametrize(
    ("value", "truth"),
    [(0.9, "healthy"), (0.8, "healthy"), (0.75, "unclear"), (0.7, "mild"), (0.41, "mild"), (0.4, "collapsed")],
)
def test_truth_by_bands(value: float, truth: str) -> None:
    assert Outcome("accuracy", healthy=0.8, mild=0.7, collapsed=0.4).truth(value) == truth
    turned = Outcome("error", healthy=-0.8, mild=-0.7, collapsed=-0.4, better="lower")
    assert turned.truth(-value) == truth


def test_nothing_measured_is_a_collapse() -> None:
    assert Outcome("loss", healthy=1.0, mild=2.0, collapsed=3.0, better="lower").truth(math.nan) == "collapsed"


@pytest.mark.parametrize("kind", _KINDS, ids=lambda kind: kind.name)
def test_of_what_is_held_out_neither_seed_nor_corner_was_seen(kind) -> None:
    cases = list(kind.cases())
    seen = {case for case in cases if case.split == "calibration"}
    held_out = [case for case in cases if case.split == "held-out"]
    assert len(set(cases)) == len(cases)
    assert not {case.seed for case in seen} & {case.seed for case in held_out}
    assert not {(c.architecture, c.data) for c in seen} & {(c.architecture, c.data) for c in held_out}
    for corner in {(case.architecture, case.data) for case in cases}:
        levels = Counter(case.level for case in cases if (case.architecture, case.data) == corner)
        assert min(levels.values()) >= 5
        assert set(levels) == ({"healthy"} if kind.is_control else {"healthy", "mild", "collapsed"})


@pytest.mark.parametrize("kind", _KINDS, ids=lambda kind: kind.name)
def test_bands_are_in_order_and_the_name_is_a_diagnosis(kind) -> None:
    if kind.is_control:
        return
    bands = (kind.outcome.healthy, kind.outcome.mild, kind.outcome.collapsed)
    assert list(bands) == sorted(bands, reverse=kind.outcome.better == "higher")
    assert kind.name in {cause.kind for cause in CAUSES}
    assert len(kind.architectures) >= 2
    assert len(kind.data) >= 2
