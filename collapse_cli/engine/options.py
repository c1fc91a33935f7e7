"""How an engine runs, what it tells on the way, and what it comes back with."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import final

from collapse_cli.analyzer import Acceptance, Analyzer
from collapse_cli.core.metric import Measurement
from collapse_cli.core.report import Coverage, Failure, Skip
from collapse_cli.core.site import Role, Site
from collapse_cli.errors import TimedOut

__all__ = ["Analysis", "Options", "Progress", "acceptance", "deadline", "wanted_names"]


@final
@dataclass(frozen=True, slots=True)
class Progress:
    """How far a pass is: tensors and bytes done and to do, and the tensor just finished."""

    tensors: int
    all_tensors: int
    bytes: int
    all_bytes: int
    name: str


@final
@dataclass(frozen=True, slots=True)
class Options:
    """How to run: device, seed, tensors wanted (globs), roles the user names, bytes for blocks, seconds, threads."""

    device: str = "cpu"
    seed: int = 0
    sites: tuple[str, ...] = ()
    ignore_sites: tuple[str, ...] = ()
    roles: Mapping[str, Role] = field(default_factory=dict)
    max_memory: int | None = None
    timeout: float | None = None
    threads: int | None = None


@final
@dataclass(frozen=True, slots=True)
class Analysis:
    """What one pass found out, in source order."""

    sites: tuple[Site, ...]
    measurements: tuple[Measurement, ...]
    skips: tuple[Skip, ...]
    failures: tuple[Failure, ...]
    coverage: Coverage
    notices: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)


def acceptance(analyzer: Analyzer, *, is_of_dumps: bool) -> Acceptance:
    """What an analyzer accepts of weights, or of dumps; one that takes both declares the second as companions."""
    is_own = (analyzer.view in ("activations", "layers", "activation_pair", "activation_series")) == is_of_dumps
    return analyzer.acceptance if is_own or analyzer.companions is None else analyzer.companions


def deadline(options: Options) -> Callable[[], None]:
    """What raises `TimedOut` when the seconds of a subject are over; they begin now."""
    started = time.monotonic()

    def check() -> None:
        if options.timeout is not None and time.monotonic() - started > options.timeout:
            raise TimedOut(f"not reached: stopped after {options.timeout:g} seconds", hint="--timeout gives it more")

    return check


def wanted_names(options: Options) -> Callable[[str], bool]:
    """Whether a tensor or hook point of that name is wanted."""

    def is_wanted(name: str) -> bool:
        if any(fnmatchcase(name, pattern) for pattern in options.ignore_sites):
            return False
        return not options.sites or any(fnmatchcase(name, pattern) for pattern in options.sites)

    return is_wanted
