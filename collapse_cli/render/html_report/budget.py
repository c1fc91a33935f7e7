"""What a page may hold, so that it opens: 2 MB are promised for 300 layers."""

from dataclasses import dataclass
from typing import Final, final

__all__ = ["MOST_BYTES", "PAGE", "Budget"]


@final
@dataclass(frozen=True, slots=True)
class Budget:
    """Rows of findings, values in tables, points and cells drawn, numbers for the script, groups of curves."""

    rows: int
    values: int
    points: int
    cells: int
    embedded: int
    groups: int

    def shared(self, count: int) -> "Budget":
        """What each of `count` subjects may take: all of them equally much."""
        count = max(count, 1)
        return Budget(
            rows=self.rows // count,
            values=self.values // count,
            points=self.points // count,
            cells=self.cells // count,
            embedded=self.embedded // count,
            groups=max(self.groups // count, 2),
        )


#: More a browser opens slowly, and a mail or a CI artifact view not at all.
MOST_BYTES: Final = 2_000_000
#: A row of a finding takes 200 bytes, a value 25, a point 80, a cell 100, an embedded number 6: 1.6 MB.
PAGE: Final = Budget(rows=2_400, values=16_000, points=4_000, cells=2_000, embedded=36_000, groups=24)
