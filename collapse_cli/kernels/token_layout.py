"""How the tokens of a sequence lie: how many lead that stand for no content, and the grid the others were cut from."""

import re
from collections.abc import Mapping

__all__ = ["grid_sides", "leading_tokens"]


def leading_tokens(metadata: Mapping[str, str]) -> int:
    """Class and register tokens in front, from metadata `cls`: `true` is one, a number says how many."""
    said = metadata.get("cls", "").strip().lower()
    return int(said) if said.isdecimal() else int(said in ("true", "yes"))


def grid_sides(metadata: Mapping[str, str]) -> tuple[int, ...]:
    """The sides in metadata `grid`, rows before columns: `14x14`, `8x14x14`; empty without one."""
    sides = tuple(map(int, re.findall(r"\d+", metadata.get("grid", ""))))
    return sides if len(sides) in (2, 3) and min(sides) > 0 else ()
