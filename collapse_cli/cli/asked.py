"""The flags that several commands share, as groups: a command names the group, and gets an object of their values."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from typing import Any, final, get_type_hints

from collapse_cli.cli import options as flags

__all__ = ["Batching", "Judging", "Measuring", "Reporting", "flagged"]


@final
@dataclass(frozen=True)
class Measuring:
    """Which sites and analyzers, how they are measured, and what the policy makes of them."""

    select: flags.Select = None
    ignore: flags.Ignore = None
    sites: flags.Sites = None
    ignore_sites: flags.IgnoreSites = None
    include: flags.Include = None
    exclude: flags.Exclude = None
    roles: flags.Map = None
    kind: flags.As = None
    intent: flags.Intent = None
    allow_partial: flags.AllowPartial = False
    quiet: flags.Quiet = False
    verbose: flags.Verbose = 0
    progress: flags.ProgressFlag = None
    subject_id: flags.SubjectId = None
    device: flags.Device = "auto"
    max_memory: flags.MaxMemory = None
    timeout: flags.Timeout = None
    seed: flags.Seed = 0
    no_plugins: flags.NoPlugins = False
    config: flags.Config = None
    isolated: flags.Isolated = False


@final
@dataclass(frozen=True)
class Judging:
    """From which severity on a finding counts, and which do not."""

    fail_on: flags.FailOn = "error"
    exit_zero: flags.ExitZero = False
    baseline: flags.Baseline = None
    no_baseline: flags.NoBaseline = False


@final
@dataclass(frozen=True)
class Reporting:
    """What stdout carries, which files are written, and how it looks."""

    format: flags.Format = "table"
    output: flags.Output = None
    show_all: flags.All = False
    show_suppressed: flags.ShowSuppressed = False
    detail: flags.Detail = None
    sarif_anchor: flags.SarifAnchor = None
    category: flags.Category = "default"
    color: flags.Color = "auto"


@final
@dataclass(frozen=True)
class Batching:
    """Where the reports of a batch go, and who makes them."""

    out: flags.Out = "collapse-report"
    jobs: flags.Jobs = None
    rehash: flags.Rehash = False
    executor: flags.ExecutorKind = "process"


_GROUPS = (Measuring, Judging, Reporting, Batching)


def flagged(command: Callable[..., int]) -> Callable[..., int]:
    """The command as the parser wants it: every parameter that is a group becomes the flags of that group."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: hint for name, hint in hints.items() if hint in _GROUPS}
    parameters = [
        parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name, parameter in inspect.signature(command).parameters.items()
        if name not in groups
    ]
    for group in groups.values():
        types = get_type_hints(group, include_extras=True)
        parameters += [
            inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=types[one.name])
            for one in fields(group)
            if one.default is not MISSING
        ]

    @wraps(command)
    def parsed(**given: Any) -> int:
        made = {
            name: group(**{one.name: given.pop(one.name) for one in fields(group)}) for name, group in groups.items()
        }
        return command(**given, **made)

    parsed.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    parsed.__annotations__ = {one.name: one.annotation for one in parameters} | {"return": int}
    return parsed
