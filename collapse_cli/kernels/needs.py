"""What an analyzer of dumps may need: the accumulators by name, with the roles they are fed.

`moments` is `moments(features)`; a name in brackets gives other roles: `cross_moments(view_a,view_b)`,
`class_moments(features,groups)`, `folds(class_moments(features,labels))`. Equal names are one accumulator.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, final

from collapse_cli.kernels.accumulators import (
    ClassMoments,
    CrossMoments,
    Extremes,
    Folds,
    Moments,
    Sample,
)

__all__ = ["Need", "need"]

_NAME = re.compile(r"(\w+)(?:\((.*)\))?")

#: Accumulator by name, and the roles it is fed when none are given.
_KINDS: Final[Mapping[str, tuple[Callable[..., Any], tuple[str, ...]]]] = MappingProxyType(
    {
        "moments": (Moments, ("features",)),
        "extremes": (Extremes, ("features",)),
        "class_moments": (ClassMoments, ("features", "labels")),
        "cross_moments": (CrossMoments, ("view_a", "view_b")),
    }
)


@final
@dataclass(frozen=True, slots=True)
class Need:
    """One accumulator an analyzer declared: the roles it is fed, and how a fresh one is made with a seed."""

    name: str
    roles: tuple[str, ...]
    make: Callable[[int], Any]


def need(name: str) -> Need:
    """The accumulator that a name means.

    Raises:
        ValueError: there is none of that name: a bug of the analyzer.
    """
    match = _NAME.fullmatch(name.replace(" ", ""))
    kind, given = (match[1], match[2]) if match else ("", None)
    if kind == "sample":
        # the rows travel with every role that is read, so the sample demands only what it is asked for
        return Need(name, tuple(given.split(",")) if given else ("features",), lambda seed: Sample(seed=seed))
    if kind == "folds" and given:
        inner = need(given)
        return Need(name, inner.roles, lambda seed: Folds(lambda: inner.make(seed), seed=seed))
    if kind not in _KINDS:
        raise ValueError(f"no accumulator is named {name!r}; there are sample, folds, {', '.join(_KINDS)}")
    factory, roles = _KINDS[kind]
    chosen = tuple(given.split(",")) if given else roles
    return Need(name, chosen, lambda _seed: factory(*chosen))
