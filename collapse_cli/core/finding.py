"""What the judge says: a measurement beyond a limit."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, final

from collapse_cli.core.metric import Limit, Measurement

__all__ = ["Finding", "Severity", "Suppression", "fingerprint"]


@final
class Severity(StrEnum):
    """How bad, mildest first."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for error."""
        return list(Severity).index(self)


@final
@dataclass(frozen=True, slots=True)
class Suppression:
    """Why a finding does not count: accepted by the policy, or known to the baseline."""

    by: Literal["accept", "baseline"]
    reason: str
    until: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """A measurement beyond a limit, in words, with what to try."""

    severity: Severity
    measurement: Measurement
    limit: Limit
    message: str
    remedy: str
    fingerprint: str
    suppressed: Suppression | None = None


def fingerprint(analyzer: str, metric: str, subject: str, site: str) -> str:
    """SHA-256 over analyzer, metric, subject id and site, each as `<bytes>:<UTF-8>`.

    No value, message, time or absolute path is in it, so that a finding keeps its name while its number moves.
    """
    digest = hashlib.sha256()
    for part in (analyzer, metric, subject, site):
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(encoded) + encoded)
    return digest.hexdigest()
