"""One illness of a subject: the finding that names it, and those that follow from it."""

from dataclasses import dataclass
from typing import final

__all__ = ["Diagnosis"]


@final
@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Findings with one cause, by their fingerprints: the primary one says what it is, the others come with it.

    `kind` is the name of the cause in `core.causes`, or of the analyzer where no rule knows the finding.
    """

    kind: str
    title: str
    primary: str
    consequences: tuple[str, ...] = ()
