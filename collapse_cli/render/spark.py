"""A series of numbers as one word of block characters."""

from collections.abc import Sequence

__all__ = ["spark"]

_BLOCKS = "▁▂▃▄▅▆▇█"


def spark(values: Sequence[float], *, ceiling: float = 0.0, width: int = 24) -> str:
    """Each value as one of eight heights above zero (or the least value below it), up to the greatest or `ceiling`.

    Heights are proportional to the values, so that a flat series looks flat. A series longer than `width` is thinned
    evenly.
    """
    if not values:
        return ""
    if len(values) > width:
        values = [values[round(step * (len(values) - 1) / (width - 1))] for step in range(width)]
    low, high = min(0.0, *values), max(0.0, ceiling, *values)
    # halved first: the difference of two huge numbers of opposite sign would overflow
    span = high / 2 - low / 2
    if span == 0:
        return _BLOCKS[0] * len(values)
    return "".join(_BLOCKS[round((value / 2 - low / 2) / span * (len(_BLOCKS) - 1))] for value in values)
