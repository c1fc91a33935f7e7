"""How a report is to look, where the reader has a say."""

from dataclasses import dataclass
from typing import final

__all__ = ["Look"]


@final
@dataclass(frozen=True, slots=True)
class Look:
    """Columns, colour, every measurement or findings only, findings and errors only, suppressed findings as well."""

    width: int = 100
    has_color: bool = False
    show_all: bool = False
    is_quiet: bool = False
    show_suppressed: bool = False
