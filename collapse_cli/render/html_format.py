"""HTML: one self-contained page, findings first, for people who want to see and to believe."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from collapse_cli.core.report import Outcome, Report, Status
from collapse_cli.render.html_report.budget import MOST_BYTES, PAGE, Budget
from collapse_cli.render.html_report.page import page
from collapse_cli.render.html_report.subject import SubjectPage, subject_page
from collapse_cli.render.look import Look
from collapse_cli.render.verdict import findings_by_severity, verdict_line

__all__ = ["IndexRow", "index", "render"]

_OUTCOMES: Final = {"pass": "Pass", "fail": "Fail", "incomplete": "Incomplete", "empty": "Nothing was analysed"}


@final
@dataclass(frozen=True, slots=True)
class IndexRow:
    """One subject of a batch; `link` leads to its page, relative to that of the index, and is empty without one.

    `diagnosis` is the kind of its first diagnosis, and how many more there are.
    """

    subject: str
    link: str
    outcome: Outcome
    errors: int
    warnings: int
    failures: int
    status: Status
    bytes: int
    seconds: float
    diagnosis: str = ""


def render(report: Report, look: Look) -> str:
    """Verdict and findings, coverage, skips and failures, drawings, every measurement: readable without its script.

    The drawings are inline SVG with a title a point; the script sorts, filters and changes the site of a curve. A page
    of more than 2 MB is made again with half of its rows, values and points, at most thrice; it says what it left out.
    """
    text = ""
    for halving in range(4):
        text = _page(report, look, PAGE.shared(max(len(report.subjects), 1) * 2**halving))
        if len(text.encode()) <= MOST_BYTES:
            break
    return text


def _page(report: Report, look: Look, budget: Budget) -> str:
    pages = [
        subject_page(
            one,
            report.manuals,
            key=f"s{number}",
            intent=report.provenance.intent,
            budget=budget,
            hidden=look.show_suppressed,
        )
        for number, one in enumerate(report.subjects, start=1)
    ]
    curves = {group.key: group.data() for one in pages for group in one.groups if len(group.curves) > 1}
    return page("report.html", _context(report, pages), data={"curves": curves})


def _context(report: Report, pages: Sequence[SubjectPage]) -> dict[str, object]:
    ids = [subject.id for subject in report.subjects]
    return {
        "title": ids[0] if len(ids) == 1 else f"{len(ids)} subjects",
        "outcome": _OUTCOMES[report.verdict.outcome],
        "sentence": _sentence(report),
        "tool": report.tool,
        "verdict": report.verdict,
        "provenance": report.provenance,
        "command": " ".join((report.tool.name, *report.provenance.command)),
        "tiles": _tiles(report),
        "navigation": _navigation(pages),
        "severities": [word for word in ("error", "warning", "info") if any(one.counts[word] for one in pages)],
        "subjects": pages,
        "manual_places": _manual_places(pages),
    }


def index(rows: Sequence[IndexRow], *, title: str) -> str:
    """The table over many reports, worst first: could not be read, then errors, warnings, partial, name."""
    ranked = sorted(rows, key=lambda row: (row.status != "failed", -row.errors, -row.warnings, _rest(row)))
    tiles = [
        ("subjects", len(rows)),
        *((word, sum(row.outcome == word for row in rows)) for word in ("fail", "incomplete", "pass")),
        ("error", sum(row.errors for row in rows)),
        ("warning", sum(row.warnings for row in rows)),
    ]
    return page("index.html", {"title": title, "rows": ranked, "tiles": tiles}, data={"curves": {}})


def _rest(row: IndexRow) -> tuple[bool, str]:
    return row.status != "partial", row.subject


def _sentence(report: Report) -> str:
    """The line of the verdict without its first word, which stands above it."""
    words = verdict_line(report).partition(": ")[2]
    return words[:1].upper() + words[1:]


def _tiles(report: Report) -> list[tuple[str, int]]:
    verdict = report.verdict
    counts = dict.fromkeys(("error", "warning", "info"), 0)
    for subject in report.subjects:
        for finding in findings_by_severity(subject):
            counts[finding.severity.value] += 1
    tiles = [*counts.items(), ("failed", verdict.failures), ("skipped", verdict.skips)]
    hidden = sum(verdict.suppressed.values())
    return [*tiles, ("suppressed", hidden)] if hidden else tiles


def _navigation(pages: Sequence[SubjectPage]) -> list[tuple[str, str]]:
    """Links to the sections of a report with one subject; several have a table that leads to each."""
    if len(pages) != 1:
        return []
    one = pages[0]
    sections = (
        ("findings", "Findings", True),
        ("failures", "Failures", bool(one.subject.failures)),
        ("checked", "What was checked", bool(one.checked)),
        ("skips", "What was not analysed", bool(one.skips)),
        ("drawings", "Drawings", bool(one.map or one.profiles or one.curves or one.flat)),
        ("measurements", "Measurements", bool(one.tables)),
    )
    return [(f"{one.key}-{place}", words) for place, words, is_there in sections if is_there]


def _manual_places(pages: Sequence[SubjectPage]) -> dict[str, str]:
    """Analyzer → the card under which its manual stands: the first of the page."""
    places: dict[str, str] = {}
    for one in pages:
        for card in one.cards:
            places.setdefault(card.analyzer, f"{one.key}-f{card.number}")
    return places
