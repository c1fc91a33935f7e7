"""How a report is to look, where the reader has a say."""

from dataclasses import dataclass
from typing import final

__all__ = ["Look"]


@final
@dataclass(frozen=True, slots=True)
class Look:
    """Columns, colour, every measurement or findings only, findings and errors only, suppressed findings as well.

    `detail` names sites, or is a glob over them, of which a table shows all that is known.
    Of SARIF: the text file that results are placed on, and the category that tells several uploads of a commit apart.
    """

    width: int = 100
    has_color: bool = False
    show_all: bool = False
    is_quiet: bool = False
    show_suppressed: bool = False
    detail: str | None = None
    sarif_anchor: str | None = None
    category: str = "default"
