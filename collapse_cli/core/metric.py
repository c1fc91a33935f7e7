"""What is measured: a metric, its limits, and one measurement of it."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, final

__all__ = ["Evidence", "Limit", "Measurement", "Metric"]

#: Facts behind a measurement: JSON values; curves are lists of equal length, at most 128 points.
Evidence = dict[str, Any]


@final
@dataclass(frozen=True, slots=True)
class Limit:
    """The value from which on a metric is a finding.

    `of="null"` bounds value ÷ null instead of the value. A limit bound to an `intent` gives findings of severity
    `info` until that intent is declared. `source` says where the number comes from: a definition, a closed form, a
    paper, or the `zoo`: trained models, healthy and collapsed, as `docs/accuracy.md` has them.
    """

    side: Literal["below", "above"]
    bound: float
    source: str
    of: Literal["value", "null"] = "value"
    intent: frozenset[str] | None = None
    inclusive: bool = False

    def __post_init__(self) -> None:
        if not self.source:
            raise ValueError("a limit without a source does not exist")

    def is_crossed(self, value: float, null: float | None) -> bool:
        """Whether a measurement lies beyond the bound. Without a null, a limit on value ÷ null cannot be crossed."""
        if self.of == "null":
            if null is None:
                return False
            # value < bound·null, not value/null < bound: a null of 0 then needs no special case
            scaled = self.bound * null
        else:
            scaled = self.bound
        if self.inclusive and value == scaled:
            return True
        return value < scaled if self.side == "below" else value > scaled


@final
@dataclass(frozen=True, slots=True)
class Measurement:
    """One finite number, where it was taken, and what chance would have given."""

    analyzer: str
    metric: str
    site: str
    value: float
    null: float | None = None
    evidence: Evidence = field(default_factory=dict)

    @property
    def rule(self) -> str:
        """`<analyzer>/<metric>`."""
        return f"{self.analyzer}/{self.metric}"


@final
@dataclass(frozen=True, slots=True)
class Metric:
    """A quantity an analyzer reports: `name` in the field's terms, `unit` ("1" for none), one sentence in `says`.

    `null` says in words which chance model the measured null comes from. `message` is the sentence of a finding;
    `{value}`, `{null}`, `{bound}` and the keys of the evidence are filled in, with a format after a colon.
    """

    name: str
    unit: str
    says: str
    better: Literal["higher", "lower"] | None = None
    warn: Limit | None = None
    error: Limit | None = None
    null: str | None = None
    message: str = ""

    def at(self, site: str, value: float, null: float | None = None, **evidence: Any) -> Measurement:
        """A measurement of this metric; the analyzer's name is filled in by the analyzer.

        Raises:
            ValueError: the value or its null is not finite. Nothing but numbers leaves an analyzer.
        """
        value = float(value)
        if not math.isfinite(value) or (null is not None and not math.isfinite(null)):
            raise ValueError(f"{self.name} at {site} is {value} (null {null}), not a finite number")
        return Measurement("", self.name, site, value, None if null is None else float(null), evidence)
