"""The order in which a person counts files: `ckpt-900` before `ckpt-1000`."""

import re
from pathlib import PurePath

__all__ = ["natural_order"]


def natural_order(path: PurePath) -> tuple[list[tuple[int, int, str]], str]:
    """A key to sort by: numbers in the name by their value, the rest without regard to case."""
    pieces = re.split(r"(\d+)", path.name)
    return [(1, int(piece), "") if piece.isdecimal() else (0, 0, piece.casefold()) for piece in pieces], path.name
