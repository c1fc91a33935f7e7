"""One file, one kind of collapse: how it is caused, which outcome tells that it came, and what must find it."""

import importlib
import pkgutil
from functools import cache

from zoo.case import Kind

__all__ = ["kinds"]


@cache
def kinds() -> dict[str, Kind]:
    """Every kind by its name, in alphabetical order; a module of this folder holds one or more as constants."""
    found = [
        member
        for module in pkgutil.iter_modules(__path__, f"{__name__}.")
        for member in vars(importlib.import_module(module.name)).values()
        if isinstance(member, Kind)
    ]
    return {kind.name: kind for kind in sorted(found, key=lambda kind: kind.name)}
