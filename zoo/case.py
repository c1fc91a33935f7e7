"""The words of the zoo: a kind of collapse, one model to be made, and the outcome that tells the truth about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal, final

__all__ = [
    "CALIBRATION_SEEDS",
    "HELD_OUT_SEEDS",
    "LEVELS",
    "Case",
    "Kind",
    "Level",
    "Outcome",
    "Split",
    "Truth",
    "View",
]

Level = Literal["healthy", "mild", "collapsed"]
#: What the outcome says. `unclear` lies between the bands and is counted apart; `control` was never trained by us.
Truth = Literal["healthy", "mild", "collapsed", "unclear", "control"]
Split = Literal["calibration", "held-out"]

LEVELS: tuple[Level, ...] = ("healthy", "mild", "collapsed")
CALIBRATION_SEEDS = range(5)
HELD_OUT_SEEDS = range(5, 10)


@final
@dataclass(frozen=True, slots=True)
class Case:
    """One model to be made: what is to become of it, with which architecture, on which data, from which seed."""

    kind: str
    architecture: str
    data: str
    level: Level
    seed: int

    @property
    def name(self) -> str:
        """`rank-collapse/deep-digits-mild-3`."""
        return f"{self.kind}/{self.architecture}-{self.data}-{self.level}-{self.seed}"

    @property
    def split(self) -> Split:
        """By seed; the first architecture on the first data set is seen in calibration and nowhere else."""
        return "calibration" if self.seed in CALIBRATION_SEEDS else "held-out"


@final
@dataclass(frozen=True, slots=True)
class Outcome:
    """The figure that tells the truth: never a metric of the tool, and its bands are set before anything is scanned.

    With `better="higher"`, a model is healthy from `healthy` on, collapsed up to `collapsed`, mild in between up to
    `mild`; what lies between `mild` and `healthy` is unclear. With `better="lower"` all are turned.
    """

    says: str
    healthy: float
    mild: float
    collapsed: float
    better: Literal["higher", "lower"] = "higher"

    def truth(self, value: float) -> Truth:
        """What a model with this outcome is. NaN is a collapse: nothing came out that could be measured."""
        sign = 1 if self.better == "higher" else -1
        healthy, mild, collapsed, value = (sign * x for x in (self.healthy, self.mild, self.collapsed, value))
        if value >= healthy:
            return "healthy"
        if not value > collapsed:
            return "collapsed"
        return "mild" if value <= mild else "unclear"


@final
@dataclass(frozen=True, slots=True)
class View:
    """What of a model is looked at, and which rules have to see the collapse.

    `signs` are globs over `<analyzer>/<metric>`: the family that this kind is named after. `how` is the command:
    `scan` of a checkpoint or dump, `diff` of a folder of subjects in natural order, `trend` of such a folder.
    """

    signs: tuple[str, ...]
    how: Literal["scan", "diff", "trend"] = "scan"
    intent: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of collapse.

    `name` is that of the diagnosis in `collapse_cli.core.causes`. `views` go by the name of the file or folder that
    `make` writes into the folder it is given. `make` trains the model of a case and returns its figures, among them
    `outcome`. `cause` says how the collapse is brought about, with the source of the mechanism.
    """

    name: str
    title: str
    cause: str
    architectures: tuple[str, ...]
    data: tuple[str, ...]
    outcome: Outcome
    views: Mapping[str, View]
    make: Callable[[Case, Path], Mapping[str, float]]
    is_control: bool = False

    def cases(self, seeds: Iterable[int] | None = None) -> Iterator[Case]:
        """Every model of this kind.

        Calibration has the first architecture on the first data set; of what is held out no seed was seen, and of
        every model the architecture, the data set or both were not seen either. With `seeds`, each on the first
        architecture and the first data set, and on the last of both.
        """
        corners = [(self.architectures[0], self.data[0]), (self.architectures[-1], self.data[-1])]
        if seeds is not None:
            yield from (Case(self.name, *c, level, seed) for c, level, seed in product(corners, self._levels(), seeds))
            return
        seen, *unseen = product(self.architectures, self.data)
        for level, seed in product(self._levels(), CALIBRATION_SEEDS):
            yield Case(self.name, *seen, level, seed)
        for corner, level, seed in product(unseen, self._levels(), HELD_OUT_SEEDS):
            yield Case(self.name, *corner, level, seed)

    def _levels(self) -> tuple[Level, ...]:
        return ("healthy",) if self.is_control else LEVELS
