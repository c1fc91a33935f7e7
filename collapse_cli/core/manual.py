"""What an analyzer says of itself; it travels in every report, so that a stored report explains itself."""

from dataclasses import dataclass
from typing import Literal, final

from collapse_cli.core.metric import Metric

__all__ = ["Confidence", "Manual", "Reference"]

Confidence = Literal["established", "experimental"]


@final
@dataclass(frozen=True, slots=True)
class Reference:
    """A paper or a tool: authors or title with the year, and an address."""

    cite: str
    url: str


@final
@dataclass(frozen=True, slots=True)
class Manual:
    """Everything a reader needs to believe, or doubt, an analyzer.

    `text` is the analyzer's docstring: one line that says what it answers, then `## Why it matters`,
    `## How to read it` and `## Limits`. `view` is what it is handed: `stored`, `weight`, `block` or `checkpoint`;
    `accepts` says in words which of these it takes.
    """

    name: str
    family: str
    title: str
    confidence: Confidence
    text: str
    metrics: tuple[Metric, ...]
    remedy: str
    references: tuple[Reference, ...]
    view: str = "weight"
    accepts: str = ""

    @property
    def summary(self) -> str:
        """The first line of the text."""
        return self.text.partition("\n")[0]

    def metric(self, name: str) -> Metric:
        """The declared metric of that name.

        Raises:
            KeyError: no such metric.
        """
        for metric in self.metrics:
            if metric.name == name:
                return metric
        raise KeyError(name)
