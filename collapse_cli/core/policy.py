"""What the user wants: intent, selection, limits of their own, accepted findings."""

from dataclasses import dataclass
from typing import Literal, final

from collapse_cli.core.finding import Severity

__all__ = ["INTENTS", "Accept", "Override", "Policy"]

#: What a model is for. A limit bound to an intent is judged only when that intent is declared.
INTENTS = ("classifier", "representation", "language-model", "generative")


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
    """Findings that are known and accepted, why, and until when (ISO date)."""

    rule: str
    reason: str
    until: str
    subjects: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Policy:
    """Everything that turns measurements into a verdict, apart from the analyzers' own limits."""

    intent: str | None = None
    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    fail_on: Severity = Severity.ERROR
    limits: tuple[Override, ...] = ()
    accepted: tuple[Accept, ...] = ()
    exit_zero: bool = False
    allow_partial: bool = False
