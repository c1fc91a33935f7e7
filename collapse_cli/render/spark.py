"""A series of numbers as one word of block characters."""

import math
from collections.abc import Sequence

__all__ = ["spark"]

_BLOCKS = "▁▂▃▄▅▆▇█"


def spark(values: Sequence[float], *, width: int = 24) -> str:
    """Each value as one of eight heights between the least and the greatest; longer series are thinned evenly."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    if len(finite) > width:
        finite = [finite[round(step * (len(finite) - 1) / (width - 1))] for step in range(width)]
    low, high = min(finite), max(finite)
    if high <= low:
        return _BLOCKS[3] * len(finite)
    # halved first: the difference of two huge numbers of opposite sign would overflow
    span = high / 2 - low / 2
    return "".join(_BLOCKS[round((value / 2 - low / 2) / span * (len(_BLOCKS) - 1))] for value in finite)
