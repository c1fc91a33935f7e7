"""One axis of a drawing: which values it spans, where a value lies, where its ticks are."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

__all__ = ["Axis", "axis_over"]

#: From this ratio of the greatest to the least positive value on, a linear axis would hide the small ones.
_LOG_FROM = 50.0
_TICKS = 5


@final
@dataclass(frozen=True, slots=True)
class Axis:
    """Values from `low` to `high`, linear or logarithmic."""

    low: float
    high: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """Where a value lies, from 0 at `low` to 1 at `high`; what lies outside is moved to the edge."""
        if self.is_log:
            if value <= 0:
                return 0.0
            share = (math.log10(value) - math.log10(self.low)) / (math.log10(self.high) - math.log10(self.low))
        else:
            # halved first: the difference of two huge numbers of opposite sign would overflow
            share = (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        return min(max(share, 0.0), 1.0)

    def ticks(self) -> list[float]:
        """About five round values, least first."""
        if self.is_log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            stride = max(1, math.ceil((last - first) / _TICKS))
            decades = [10.0**power for power in range(first, last + 1, stride)]
            if len(decades) >= 3:
                return decades
            halves = [m * 10.0**p for p in range(first - 1, last + 1) for m in (1.0, 2.0, 5.0)]
            found = [value for value in halves if self.low * 0.999 <= value <= self.high * 1.001]
            return found if len(found) >= 2 else [self.low, self.high]
        span = self.high / _TICKS - self.low / _TICKS
        power = 10.0 ** math.floor(math.log10(span))
        step = next(power * m for m in (1.0, 2.0, 5.0, 10.0) if power * m >= span * 0.999)
        if not math.isfinite(step) or step == 0.0:
            return [self.low, self.high]
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [count * step for count in range(first, last + 1)]


def axis_over(values: Iterable[float], *, is_log: bool | None = None, from_zero: bool = False) -> Axis:
    """The axis that shows all of the values; logarithmic where asked, or where they span nearly two decades.

    A logarithmic axis leaves out what is not positive. A linear one that is to begin at zero does.
    """
    known = [value for value in values if math.isfinite(value)]
    positive = [value for value in known if value > 0]
    if is_log is None:
        is_log = bool(positive) and len(positive) == len(known) and max(positive) / _LOG_FROM > min(positive)
    if is_log and positive:
        return _logarithmic(min(positive), max(positive))
    low, high = min(known, default=0.0), max(known, default=1.0)
    if from_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    span = high / 2 - low / 2
    if span <= max(abs(low), abs(high)) * 1e-12 or span < 1e-290:
        room = max(abs(low) * 0.1, 1e-6)
        low, high = low - room, high + room
        return Axis(max(low, -1.7e308), min(high, 1.7e308))
    room = span * 0.08
    return Axis(low if from_zero and low == 0 else max(low - room, -1.7e308), min(high + room, 1.7e308))


def _logarithmic(low: float, high: float) -> Axis:
    low, high = max(low, 1e-290), max(high, 1e-290)
    if high / low < 1.2:
        return Axis(low / 2, min(high, 1e300) * 2, is_log=True)
    margin = min((high / low) ** 0.05, 3.0)
    return Axis(low / margin, min(high, 1e300) * margin, is_log=True)
