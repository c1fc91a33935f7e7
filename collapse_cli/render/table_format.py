"""The report for a person at a terminal: a table of analyzers, then every finding with its evidence and its remedy."""

import io
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from collapse_cli.core.finding import Finding, Severity
from collapse_cli.core.manual import Manual
from collapse_cli.core.report import Failure, Report, Subject
from collapse_cli.core.text import plain, tail
from collapse_cli.render.detail import print_detail
from collapse_cli.render.diagnoses import diagnoses_words
from collapse_cli.render.diagnosis_block import print_findings
from collapse_cli.render.finding_block import SHAPES
from collapse_cli.render.look import Look
from collapse_cli.render.profiles import layer_profiles
from collapse_cli.render.verdict import (
    counted,
    coverage_words,
    findings_by_severity,
    has_suppressed,
    is_of_rows,
    number,
    number_of,
    outcome_words,
    suppressed_findings,
    suppression_words,
    verdict_line,
)

__all__ = ["render"]

#: Narrowest layout; a terminal that is narrower still wraps by itself.
_NARROWEST = 40
#: Failures, unread tensors and reasons named before the rest is counted.
_LISTED = 12
#: A longer name is shown by its end.
_LONGEST_NAME = 200
#: What analyzers of dumps are handed; the others have nothing to say of a dump, and these nothing of a checkpoint.
_OF_DUMPS = frozenset({"activations", "layers"})
_VERDICTS = {"pass": "bold green", "fail": "bold red", "incomplete": "bold yellow", "empty": "bold yellow"}


def render(report: Report, look: Look) -> str:
    """The whole report as text of `look.width` columns, with colour codes where asked for."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=max(look.width, _NARROWEST),
        force_terminal=look.has_color,
        color_system="standard" if look.has_color else None,
        no_color=not look.has_color,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    for subject in report.subjects:
        _subject(console, report, subject, look)
    if not look.is_quiet or report.verdict.outcome != "pass" or has_suppressed(report):
        console.print(Text(verdict_line(report), style=_VERDICTS[report.verdict.outcome]))
    return "".join(line.rstrip() + "\n" for line in stream.getvalue().splitlines())


def _subject(console: Console, report: Report, subject: Subject, look: Look) -> None:
    if look.is_quiet:
        shown = subject.findings if look.show_suppressed else findings_by_severity(subject)
        if shown or subject.failures or _unread(subject):
            console.print(Text(tail(subject.id, 4 * console.width), style="bold"))
    else:
        _opening(console, report, subject)
        if subject.status not in ("failed", "empty"):
            _analyzers(console, report, subject)
            _profiles(console, report, subject, look)
        console.print()
    if look.show_all and subject.measurements:
        console.print(_measurements(subject, console.width))
        console.print()
    if look.detail is not None:
        print_detail(console, report, subject, look.detail)
    manuals = {manual.name: manual for manual in report.manuals}
    print_findings(console, subject, manuals, show_all=look.show_all)
    hidden = [_suppressed(finding) for finding in suppressed_findings(subject)] if look.show_suppressed else []
    _listed(console, "○ suppressed", hidden, style="dim", longest=len(hidden))
    said = _not_done(console, subject, look)
    if said or hidden or findings_by_severity(subject):
        console.print()


def _opening(console: Console, report: Report, subject: Subject) -> None:
    name = Text(tail(subject.id, 4 * console.width), style="bold", overflow="fold")
    facts = " · ".join(_facts(subject))
    if name.cell_len + len(facts) + 3 <= console.width:
        console.print(Text.assemble(name, "   ", facts))
    else:
        console.print(name)
        console.print(Text(facts))
    if subject.status in ("failed", "empty"):
        console.print(Text(outcome_words(subject)))
        return
    ran = {m.analyzer for m in subject.measurements} | {f.analyzer for f in subject.failures if f.analyzer}
    line = [coverage_words(subject), counted(len(ran), "analyzer"), report.provenance.device]
    found = diagnoses_words(subject)
    if len(report.subjects) == 1:
        line.append(f"{report.provenance.seconds:.1f} s")
    console.print(Text(" · ".join([*line, found] if found else line)))


def _facts(subject: Subject) -> list[str]:
    """Format, and of the tensors that some analyzer wants parameters and dtypes: the others are only counted."""
    if is_of_rows(subject):
        return [subject.format, counted(subject.coverage.sites, "hook point"), f"{subject.bytes:,} bytes"]
    facts = [subject.format, counted(subject.coverage.sites, "tensor")]
    stored = [site for site in subject.sites if "#" not in site.name]
    if stored:
        wanted = "" if subject.coverage.wanted >= subject.coverage.sites else " wanted"
        facts.append(f"{sum(site.numel for site in stored if site.is_floating):,} parameters{wanted}")
        facts.append(", ".join(sorted({site.dtype for site in stored if site.dtype})))
    return [fact for fact in facts if fact]


def _analyzers(console: Console, report: Report, subject: Subject) -> None:
    """One row an analyzer that measured, failed or was skipped at a site; columns by what the terminal has room for."""
    is_wide, is_narrow = console.width >= 76, console.width < 56
    table = Table(box=None, pad_edge=not is_narrow, show_edge=False, header_style="dim", padding=(0, 1))
    if is_wide:
        table.add_column("family", no_wrap=True)
    table.add_column("analyzer", overflow="fold")
    counts = ["error", "warning", *(["info"] if any(f.severity is Severity.INFO for f in subject.findings) else [])]
    heads = [SHAPES[Severity(word)][0] if is_narrow else word for word in counts]
    for name in (
        *([] if is_narrow else ["sites"]),
        *heads,
        *(("skip", "fail") if is_narrow else ("skipped", "failed")),
    ):
        table.add_column(name, justify="right", no_wrap=True)
    unapplied = 0
    for manual in report.manuals:
        is_foreign = subject.kind in ("checkpoint", "dump") and (manual.view in _OF_DUMPS) != (subject.kind == "dump")
        if is_foreign and not any(one.analyzer == manual.name for one in subject.measurements):
            continue
        row = _row(manual, subject, counts, report.provenance.intent)
        if row is None:
            unapplied += 1
            continue
        table.add_row(*([manual.family] if is_wide else []), manual.name, *(row[1:] if is_narrow else row))
    said = [
        "- not judged",
        "0 clean",
        *([f"{counted(unapplied, 'analyzer')} with nothing to accept"] if unapplied else []),
    ]
    console.print()
    console.print(table)
    console.print(Text((" " if not is_narrow else "") + "   ".join(said), style="dim"))


def _profiles(console: Console, report: Report, subject: Subject, look: Look) -> None:
    """The main metric of every analyzer through the layers of a dump; with `--all` every metric."""
    profiles = layer_profiles(subject, report.manuals, every_metric=look.show_all)
    if not profiles:
        return
    table = Table(box=None, show_edge=False, header_style="dim", padding=(0, 1))
    table.add_column("through the layers", overflow="fold")
    table.add_column("", no_wrap=True)
    table.add_column("first → last", no_wrap=True)
    for profile in profiles:
        table.add_row(*(Text(cell) for cell in profile.line()))
    console.print()
    console.print(table)


def _row(manual: Manual, subject: Subject, counts: Sequence[str], intent: str | None) -> list[Text] | None:
    """Sites, findings by severity, skips and failures of one analyzer; None if it accepted nothing."""
    sites = {m.site for m in subject.measurements if m.analyzer == manual.name}
    skips = [skip for skip in subject.skips if skip.analyzer == manual.name and skip.site is not None]
    failures = [failure for failure in subject.failures if failure.analyzer == manual.name]
    if not sites and not skips and not failures:
        return None
    limits = [limit for metric in manual.metrics for limit in (metric.warn, metric.error) if limit]
    is_judged = bool(sites) and any(limit.intent is None or intent in limit.intent for limit in limits)
    found = [f.severity.value for f in findings_by_severity(subject) if f.measurement.analyzer == manual.name]
    cells = [_count(found.count(word), SHAPES[Severity(word)][1], is_known=is_judged) for word in counts]
    return [Text(str(len(sites))), *cells, _count(len(skips), ""), _count(len(failures), "red")]


def _count(count: int, style: str, *, is_known: bool = True) -> Text:
    """A zero that was not judged is a dash: only what was looked at is clean."""
    if not count:
        return Text("0" if is_known else "-", style="dim")
    return Text(f"{count:,}", style=style)


def _measurements(subject: Subject, width: int) -> Table:
    table = Table(box=None, pad_edge=True, show_edge=False, header_style="dim", padding=(0, 1))
    table.add_column("site", overflow="fold", ratio=1)
    table.add_column("rule", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("null", justify="right", no_wrap=True)
    for measured in subject.measurements:
        null = "" if measured.null is None else number(measured.null)
        table.add_row(Text(tail(measured.site, 2 * width)), plain(measured.rule), number(measured.value), null)
    return table


def _unread(subject: Subject) -> list[str]:
    return [f"{_site(skip.site)}: {skip.reason}" for skip in subject.skips if skip.analyzer is None]


def _site(name: str | None) -> str:
    return tail(name or "", _LONGEST_NAME)


def _not_done(console: Console, subject: Subject, look: Look) -> bool:
    """What could not be done, and with `--all` also what did not apply; whether there was any of it."""
    skipped: list[str] = []
    if subject.status == "empty" or look.show_all:
        tried = [skip for skip in subject.skips if skip.analyzer and skip.site]
        shown = tried if tried and not look.show_all else subject.skips
        reasons = Counter((skip.analyzer, skip.reason) for skip in shown if skip.analyzer)
        for (analyzer, reason), count in reasons.items():
            skipped.append(f"{analyzer}: {reason}" + (f" ({count} sites)" if count > 1 else ""))
    failed = [_failure(failure) for failure in subject.failures]
    _listed(console, "- skipped", skipped, style="dim", longest=len(skipped))
    _listed(console, "▲ not read", _unread(subject), style="yellow")
    _listed(console, "✖ failed", failed, style="red")
    return bool(skipped or failed or _unread(subject))


def _suppressed(finding: Finding) -> str:
    one = finding.measurement
    where = f"{one.rule} {_site(one.site)} {number_of(one, finding.limit)}"
    return f"{finding.severity} {where}: {suppression_words(finding)}"


def _failure(failed: Failure) -> str:
    where = " ".join(part for part in (failed.analyzer, _site(failed.site)) if part)
    return ": ".join(part for part in (where, failed.error, failed.message) if part)


def _listed(console: Console, opening: str, lines: Sequence[str], *, style: str, longest: int = _LISTED) -> None:
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for line in lines[:longest]:
        grid.add_row(Text(f" {opening}", style=style), Text(plain(line), overflow="fold"))
    if len(lines) > longest:
        grid.add_row("", Text(f"+{len(lines) - longest:,} more: -f concise lists them all", style=style))
    if lines:
        console.print(grid)
