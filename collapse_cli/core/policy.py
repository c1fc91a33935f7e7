"""What the user wants: intent, selection, limits of their own, accepted findings, baseline, regressions allowed."""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, final

from collapse_cli.core.finding import Severity

__all__ = ["INTENTS", "RATCHET", "Accept", "Allowance", "Baseline", "Comparison", "Entry", "Override", "Policy"]

#: What a model is for. A limit bound to an intent is judged only when that intent is declared.
INTENTS = ("classifier", "representation", "language-model", "generative")
#: Share of the stored value by which a known finding may worsen before it counts again; a convention, wide enough for
#: another processor's rounding, too narrow for another training run. A baseline file may state its own.
RATCHET = 0.05


@final
@dataclass(frozen=True, slots=True)
class Override:
    """A limit of the user's own for one rule; `False` takes the limit away, `None` leaves it as it is."""

    rule: str
    source: str
    sites: tuple[str, ...] = ()
    warn: float | Literal[False] | None = None
    error: float | Literal[False] | None = None


@final
@dataclass(frozen=True, slots=True)
class Accept:
    """Findings that are known and accepted, why, and up to which day (ISO date)."""

    rule: str
    reason: str
    until: str
    subjects: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """A finding of the accepted present state: where it is, its value, the side of its limit, its severity."""

    fingerprint: str
    rule: str
    subject: str
    site: str
    value: float
    side: Literal["below", "above"]
    severity: Severity


@final
@dataclass(frozen=True, slots=True)
class Baseline:
    """The accepted present state. An entry hides its finding until the value worsens by more than `tolerance`."""

    schema_version: str
    tolerance: float
    entries: tuple[Entry, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Allowance:
    """How much worse one rule may get from one release to the next; `False`: it is not compared."""

    rule: str
    tolerance: float | Literal[False]
    sites: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Comparison:
    """How much worse a metric may get from one release to the next.

    Relative to the old value, absolute where that is 0; 5 % is a convention, as for the baseline.
    """

    tolerance: float = RATCHET
    rules: tuple[Allowance, ...] = ()

    def tolerance_of(self, rule: str, site: str) -> float | None:
        """The tolerance of a rule at a site, later entries win; None where it is not to be compared."""
        found: float | Literal[False] = self.tolerance
        for one in self.rules:
            if fnmatchcase(rule, one.rule) and (not one.sites or any(fnmatchcase(site, glob) for glob in one.sites)):
                found = one.tolerance
        return None if found is False else found


@final
@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that turns measurements into a verdict, apart from the analyzers' own limits.

    `file` and `digest` name the configuration file it was read from and what that file said.
    """

    intent: str | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    fail_on: Severity = Severity.ERROR
    limits: tuple[Override, ...] = ()
    accepted: tuple[Accept, ...] = ()
    exit_zero: bool = False
    allow_partial: bool = False
    baseline: Baseline | None = None
    comparison: Comparison = Comparison()
    file: str | None = None
    digest: str | None = None
