"""The findings of a subject as cards: one for each rule, severity and limit, with its evidence and what to try."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from collapse_cli.core.finding import Finding
from collapse_cli.core.manual import Manual
from collapse_cli.core.metric import Limit, Metric
from collapse_cli.render.html_report.curves import Curve, curve_figure
from collapse_cli.render.html_report.layer_profile import LayerProfile
from collapse_cli.render.html_report.places import Places
from collapse_cli.render.html_report.svg import Figure
from collapse_cli.render.verdict import limit_words, number, number_of, suppression_words

__all__ = ["Card", "CardRow", "cards", "evidence_words", "rows_of"]

#: Sites under one card; the rest is counted, none of it worse.
_MOST_ROWS = 1_000
#: Facts and entries of a list that stand in a table.
_MOST_FACTS, _MOST_ENTRIES = 12, 8


@final
@dataclass(frozen=True, slots=True)
class CardRow:
    """One site of a card."""

    site: str
    layer: int | None
    value: str
    null: str
    message: str
    evidence: str
    reason: str = ""


@final
@dataclass(frozen=True, slots=True)
class Card:
    """Findings of one rule, severity and limit: sixty layers with one illness are one card with sixty rows."""

    severity: str
    rule: str
    analyzer: str
    manual: Manual | None
    metric: Metric | None
    limit: Limit
    rows: tuple[CardRow, ...]
    count: int
    message: str
    remedy: str
    figures: tuple[Figure, ...]

    @property
    def limit_words(self) -> str:
        """`< 0.05`, `> 2 × null`."""
        return limit_words(self.limit).removeprefix("limit ")

    @property
    def has_layers(self) -> bool:
        """Whether a row lies in the stack of layers."""
        return any(row.layer is not None for row in self.rows)

    @property
    def has_nulls(self) -> bool:
        """Whether a row has a null."""
        return any(row.null for row in self.rows)

    @property
    def has_messages(self) -> bool:
        """Whether the rows say different things, or nothing but facts."""
        return any(row.message or row.evidence for row in self.rows)


def cards(
    findings: Sequence[Finding],
    manuals: Mapping[str, Manual],
    places: Places,
    *,
    profiles: Mapping[str, LayerProfile],
    curves: Iterable[Curve],
) -> list[Card]:
    """Worst first; each with the profile of its rule and the curve of its worst site where there are any."""
    groups: dict[tuple[str, str, Limit], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity.value, finding.measurement.rule, finding.limit), []).append(finding)
    curve_at: dict[tuple[str, str], Curve] = {}
    for curve in curves:
        curve_at.setdefault((curve.analyzer, curve.site), curve)
    made, drawn = [], set[str]()
    for (severity, rule, limit), group in groups.items():
        ranked = sorted(group, key=_mildness)
        first = ranked[0].measurement
        figures = []
        if rule in profiles and rule not in drawn:
            figures.append(profiles[rule].figure())
            drawn.add(rule)
        worst_curve = curve_at.get((first.analyzer, first.site))
        if worst_curve is not None and f"{first.analyzer} {first.site}" not in drawn:
            figures.append(curve_figure(worst_curve))
            drawn.add(f"{first.analyzer} {first.site}")
        manual = manuals.get(first.analyzer)
        said = {finding.message for finding in group}
        message = ranked[0].message if len(said) == 1 else ""
        rows = tuple(rows_of(ranked[:_MOST_ROWS], places, is_said=bool(message)))
        metric = next((one for one in manual.metrics if one.name == first.metric), None) if manual else None
        made.append(
            Card(
                severity, rule, first.analyzer, manual, metric, limit, rows, len(group), message, ranked[0].remedy,
                tuple(figures),
            )  # fmt: skip
        )
    return made


def rows_of(findings: Iterable[Finding], places: Places, *, is_said: bool) -> Iterable[CardRow]:
    """One row a finding; its message only where it is not said above the table."""
    for finding in findings:
        one = finding.measurement
        value, _, null = number_of(one, finding.limit).partition(" (null ")
        yield CardRow(
            one.site,
            places.layer(one.site),
            value.partition(" ")[0],
            null.removesuffix(")"),
            "" if is_said else finding.message,
            evidence_words(one.evidence),
            suppression_words(finding),
        )


def evidence_words(evidence: Mapping[str, object]) -> str:
    """The facts behind a measurement, curves left out: `directions 1.07 · tokens 1,024 · first 2, 5, 11`."""
    words = []
    for key, fact in evidence.items():
        said = _fact(fact)
        if said:
            words.append(f"{key.replace('_', ' ')} {said}")
    more = [f"+{len(words) - _MOST_FACTS} more facts"] if len(words) > _MOST_FACTS else []
    return " · ".join([*words[:_MOST_FACTS], *more])


def _fact(fact: object) -> str:
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    if isinstance(fact, int) and abs(fact) < 10**6:
        return f"{fact:,}"
    if isinstance(fact, int | float):
        return number(float(fact), 4)
    if isinstance(fact, str):
        return fact if len(fact) <= 200 else f"{fact[:200]}…"
    if isinstance(fact, list | tuple) and fact and all(isinstance(one, int | float | str) for one in fact):
        shown = ", ".join(_fact(one) for one in fact[:_MOST_ENTRIES])
        return f"{shown}, … ({len(fact)})" if len(fact) > _MOST_ENTRIES else shown
    return ""


def _mildness(finding: Finding) -> float:
    """Worst first: far below a lower bound, far above an upper one, in units of the null where the limit is."""
    value = finding.measurement.value
    if finding.limit.of == "null" and finding.measurement.null:
        value /= finding.measurement.null
    return value if finding.limit.side == "below" else -value
