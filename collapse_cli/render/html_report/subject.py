"""What a report says of one subject, ready for the template."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from collapse_cli.core.finding import Severity
from collapse_cli.core.manual import Manual
from collapse_cli.core.report import Subject
from collapse_cli.render.diagnoses import diagnoses_words, groups_of, kinds_words
from collapse_cli.render.html_report.budget import Budget
from collapse_cli.render.html_report.cards import Card, CardRow, Cards, Drawable, cards, rows_of
from collapse_cli.render.html_report.coverage import Checked, SkipRow, checked, checked_words, skip_rows
from collapse_cli.render.html_report.curves import CurveGroup, curve_groups, curves_of
from collapse_cli.render.html_report.heat_map import heat_map
from collapse_cli.render.html_report.layer_profile import LayerProfile, layer_profiles
from collapse_cli.render.html_report.places import Places
from collapse_cli.render.html_report.svg import Figure
from collapse_cli.render.html_report.values import ValueTable, value_tables
from collapse_cli.render.verdict import (
    coverage_words,
    findings_by_severity,
    limit_words,
    noun,
    outcome_words,
    suppressed_findings,
)

__all__ = ["HiddenRow", "SubjectPage", "subject_page"]

#: Rows of a table of failures or skips.
_MOST_ROWS: Final = 500


@final
@dataclass(frozen=True, slots=True)
class HiddenRow:
    """A finding that does not count."""

    severity: str
    order: int
    rule: str
    limit: str
    row: CardRow


@final
@dataclass(frozen=True, slots=True)
class SubjectPage:
    """The sections of one subject."""

    key: str
    subject: Subject
    outcome: str
    coverage: str
    noun: str
    counts: Mapping[str, int]
    checked_words: str
    checked: Sequence[Checked]
    diagnoses: Sequence[Cards]
    diagnoses_words: str
    kinds: str
    hidden: Sequence[HiddenRow]
    hidden_count: int
    skips: Sequence[SkipRow]
    map: Figure | None
    profiles: Sequence[Figure]
    flat: Sequence[tuple[str, float]]
    profiles_left: int
    groups: Sequence[CurveGroup]
    curves: Sequence[Figure]
    tables: Sequence[ValueTable]
    most: int = _MOST_ROWS

    @property
    def cards(self) -> list[Card]:
        """All cards, in the order of the page."""
        return [card for one in self.diagnoses for card in (*one.first, *one.follows)]

    @property
    def is_clear(self) -> bool:
        """Whether everything wanted was analysed, some of it judged, and nothing found."""
        return self.subject.status == "complete" and self.is_judged and not self.hidden_count

    @property
    def is_judged(self) -> bool:
        """Whether a metric with a limit in force was measured; without one there is no finding, and no health."""
        return any(row.judged for row in self.checked)

    @property
    def is_unread(self) -> bool:
        """Whether a wanted site could not be read."""
        return any(not row.analyzer for row in self.skips)


def subject_page(
    subject: Subject, manuals: Sequence[Manual], *, key: str, intent: str | None, budget: Budget, hidden: bool = False
) -> SubjectPage:
    """Everything that is said of a subject; `hidden` asks for the findings that do not count."""
    places = Places.of(subject)
    findings = findings_by_severity(subject)
    profiles = layer_profiles(subject, manuals, places)
    curves = curves_of(subject, places)
    rows = checked(subject, manuals, intent)
    known = {manual.name: manual for manual in manuals}
    drawable = Drawable({one.rule: one for one in profiles}, {(one.analyzer, one.site): one for one in curves})
    made = cards(groups_of(subject), known, places, drawable=drawable, budget=budget)
    shown = [figure for one in made for card in (*one.first, *one.follows) for figure in card.figures]
    titles = {figure.title for figure in shown}
    apart = [one for one in profiles if one.rule not in titles and not one.is_flat]
    drawn = _within(apart, budget.points - sum(figure.points for figure in shown))
    groups = curve_groups(curves, opening=key, room=budget.embedded)[: budget.groups]
    out = suppressed_findings(subject)
    return SubjectPage(
        key=key,
        subject=subject,
        outcome=outcome_words(subject),
        coverage=coverage_words(subject),
        noun=noun(subject),
        counts={word.value: sum(finding.severity is word for finding in findings) for word in Severity},
        checked_words=checked_words(rows, subject),
        checked=rows,
        diagnoses=made,
        diagnoses_words=diagnoses_words(subject),
        kinds=kinds_words(subject),
        hidden=_hidden(subject, places) if hidden else [],
        hidden_count=len(out),
        skips=skip_rows(subject),
        map=heat_map(profiles, cells=budget.cells),
        profiles=[one.figure() for one in drawn],
        flat=[(one.rule, one.layers[0][1][0].value) for one in profiles if one.is_flat],
        profiles_left=len(apart) - len(drawn),
        groups=groups,
        curves=[group.figure() for group in groups],
        tables=value_tables(subject, manuals, places, intent=intent, room=budget.values),
    )


def _within(profiles: Sequence[LayerProfile], room: int) -> list[LayerProfile]:
    """The profiles that the budget allows: of every analyzer its first metric, then the second, and so on."""
    ranks: dict[str, int] = {}
    ranked: list[tuple[int, int]] = []
    for index, profile in enumerate(profiles):
        name = profile.rule.partition("/")[0]
        ranks[name] = ranks.get(name, -1) + 1
        ranked.append((ranks[name], index))
    kept = []
    for _rank, index in sorted(ranked):
        room -= profiles[index].points
        if room >= 0:
            kept.append(index)
    return [profiles[index] for index in sorted(kept)]


def _hidden(subject: Subject, places: Places) -> list[HiddenRow]:
    found: Any = suppressed_findings(subject)
    return [
        HiddenRow(one.severity.value, -one.severity.rank, one.measurement.rule, limit_words(one.limit), row)
        for one, row in zip(found, rows_of(found, places, is_said=True), strict=True)
    ]
