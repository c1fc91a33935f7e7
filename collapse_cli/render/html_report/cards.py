"""The findings of a subject as cards: one for each rule, severity and limit, with its evidence and what to try."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from collapse_cli.core.finding import Finding
from collapse_cli.core.manual import Manual
from collapse_cli.core.metric import Limit, Metric
from collapse_cli.render.diagnoses import Group
from collapse_cli.render.html_report.budget import Budget
from collapse_cli.render.html_report.curves import Curve, curve_figure
from collapse_cli.render.html_report.layer_profile import LayerProfile
from collapse_cli.render.html_report.places import Places
from collapse_cli.render.html_report.svg import Figure
from collapse_cli.render.ranking import worst_sites
from collapse_cli.render.verdict import limit_words, number, number_of, suppression_words

__all__ = ["Card", "CardRow", "Cards", "Drawable", "cards", "evidence_words", "rows_of"]

#: Sites under one card; the rest is counted, none of it worse.
_MOST_ROWS, _LEAST_ROWS = 300, 5
#: Facts and entries of a list that stand in a table.
_MOST_FACTS, _MOST_ENTRIES = 12, 8


@final
@dataclass(frozen=True, slots=True)
class Drawable:
    """The profiles by rule and the curves by analyzer and site that no card shows yet."""

    profiles: dict[str, LayerProfile]
    curves: dict[tuple[str, str], Curve]

    def taken(self, finding: Finding, room: int) -> list[Figure]:
        """The drawings of a finding, taken out of what is left; those that still fit into `room` points."""
        one = finding.measurement
        figures = []
        profile = self.profiles.pop(one.rule, None)
        if profile is not None and profile.points <= room:
            figures.append(profile.figure())
            room -= profile.points
        curve = self.curves.pop((one.analyzer, one.site), None)
        if curve is not None and len(curve.y) <= room:
            figures.append(curve_figure(curve))
        return figures


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

    number: int
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


@final
@dataclass(frozen=True, slots=True)
class Cards:
    """The cards of one diagnosis: those of the finding that names it, and those of what follows from it.

    Without a kind: findings that belong to no diagnosis.
    """

    kind: str
    title: str
    severity: str
    first: tuple[Card, ...]
    follows: tuple[Card, ...]

    @property
    def count(self) -> int:
        """Findings that follow."""
        return sum(card.count for card in self.follows)


def cards(
    groups: Sequence[Group],
    manuals: Mapping[str, Manual],
    places: Places,
    *,
    drawable: Drawable,
    budget: Budget,
) -> list[Cards]:
    """By diagnosis; each with the profile of its rule and the curve of its worst site, none of them drawn twice."""
    parted = [(_parted(group.first), _parted(group.follows)) for group in groups]
    left = Drawable(dict(drawable.profiles), dict(drawable.curves))
    most = min(_MOST_ROWS, max(_LEAST_ROWS, budget.rows // max(sum(len(a) + len(b) for a, b in parted), 1)))
    points, number_ = budget.points, 0

    def made(findings: Sequence[Finding]) -> Card:
        nonlocal points, number_
        ranked = worst_sites(findings)
        figures = left.taken(ranked[0], points)
        points -= sum(figure.points for figure in figures)
        number_ += 1
        rows = tuple(rows_of(ranked[:most], places, is_said=_is_said(ranked)))
        return _card(number_, ranked, manuals.get(ranked[0].measurement.analyzer), rows, figures)

    found = []
    for group, (first, follows) in zip(groups, parted, strict=True):
        kind, title = (group.diagnosis.kind, group.diagnosis.title) if group.diagnosis else ("", "")
        # in this order: what names a diagnosis is drawn before what follows from it
        opening, rest = tuple(map(made, first)), tuple(map(made, follows))
        found.append(Cards(kind, title, group.severity.value, opening, rest))
    return found


def _parted(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Those of one severity, rule and limit together, in the order in which they come first."""
    parts: dict[tuple[str, str, Limit], list[Finding]] = {}
    for finding in findings:
        parts.setdefault((finding.severity.value, finding.measurement.rule, finding.limit), []).append(finding)
    return list(parts.values())


def _is_said(findings: Sequence[Finding]) -> bool:
    """Whether one sentence says it of all sites."""
    return len({finding.message for finding in findings}) == 1


def _card(
    place: int, ranked: Sequence[Finding], manual: Manual | None, rows: tuple[CardRow, ...], figures: Sequence[Figure]
) -> Card:
    worst = ranked[0]
    name = worst.measurement.metric
    return Card(
        number=place,
        severity=worst.severity.value,
        rule=worst.measurement.rule,
        analyzer=worst.measurement.analyzer,
        manual=manual,
        metric=next((one for one in manual.metrics if one.name == name), None) if manual else None,
        limit=worst.limit,
        rows=rows,
        count=len(ranked),
        message=worst.message if _is_said(ranked) else "",
        remedy=worst.remedy,
        figures=tuple(figures),
    )


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
