"""The findings of one subject at a terminal: a diagnosis an entry, what follows from it a line a rule."""

from collections.abc import Iterator, Mapping
from typing import Final

from rich.console import Console, RenderableType
from rich.console import Group as Lines
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from collapse_cli.core.diagnosis import Diagnosis
from collapse_cli.core.finding import Severity
from collapse_cli.core.manual import Manual
from collapse_cli.core.report import Subject
from collapse_cli.core.text import plain
from collapse_cli.render.diagnoses import Group, by_rule, follow_words, groups_of, worst_words
from collapse_cli.render.finding_block import SHAPES, Paper, marked, print_entries

__all__ = ["print_findings"]

#: From `_WIDE` on rule and worst value stand in columns; below `_NARROW` one stands under the other.
_WIDE: Final = 100
_NARROW: Final = 80
#: What stands in front of a rule that follows from another one.
_ALSO: Final = "└ also:"


def print_findings(
    console: Console, subject: Subject, manuals: Mapping[str, Manual], *, show_all: bool = False
) -> None:
    """The finding that names a diagnosis at all of its sites, what to try, and what follows from it.

    With `show_all` what follows is told as fully. Findings without a diagnosis are entries of their own, and come last.
    """
    paper = Paper.of(console, subject, manuals)
    for count, group in enumerate(groups_of(subject)):
        if count:
            console.print()
        if group.diagnosis is None:
            print_entries(paper, group.findings)
            continue
        console.print(_title(group, group.diagnosis))
        print_entries(paper, group.first, opening="")
        if show_all:
            print_entries(paper, group.follows, opening=_ALSO)
        elif group.follows:
            inner = Lines(*(_columns(group, paper) if console.width >= _NARROW else _lines(group, paper)))
            console.print(Padding(inner, (0, 0, 0, paper.indent)))


def _title(group: Group, diagnosis: Diagnosis) -> Table:
    """`✖ error   Rank collapse   rank-collapse · 17 findings follow`."""
    about = [words for words in (plain(diagnosis.kind), follow_words(group)) if words]
    return marked(group.severity, Text.assemble((plain(diagnosis.title), "bold"), "   " + " · ".join(about)))


def _columns(group: Group, paper: Paper) -> Iterator[RenderableType]:
    """`└ also: ▲ warning stable-rank/stable_rank   4 sites, worst 1 < 1.1 (null 16)`, a line a rule."""
    is_wide = paper.console.width >= _WIDE
    room = paper.width - len(f"{_ALSO} ✖ {Severity.WARNING} ")
    grid = Table.grid(padding=(0, 1, 0, 0))
    for _ in range(2):
        grid.add_column(no_wrap=True)
    for _ in range(2 if is_wide else 1):
        grid.add_column(overflow="fold")
    opening = _ALSO
    for (severity, rule), found in by_rule(group.follows).items():
        shape, style = SHAPES[severity]
        words = " ".join(worst_words(found, paper.named))
        between = "   " if len(rule) + len(words) + 3 <= room else "\n"
        cells = [f"{plain(rule)}  ", words] if is_wide else [f"{plain(rule)}{between}{words}"]
        grid.add_row(opening, Text(f"{shape} {severity:<7}", style=style), *(Text(cell) for cell in cells))
        opening = ""
    yield grid


def _lines(group: Group, paper: Paper) -> Iterator[RenderableType]:
    """The same where there are no columns to spare: severity and rule, the worst value underneath."""
    yield Text(_ALSO)
    for (severity, rule), found in by_rule(group.follows).items():
        shape, style = SHAPES[severity]
        head = Text.assemble((f"{shape} {severity}", style), f" {plain(rule)}")
        words = Text(" ".join(worst_words(found, paper.named)))
        yield Padding(Lines(head, Padding(words, (0, 0, 0, 2))), (0, 0, 0, 2))
