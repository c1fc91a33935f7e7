"""The report for a person at a terminal: a table of analyzers, then every finding with its evidence and its remedy."""

import io
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from collapse_cli.core.finding import Finding, Severity
from collapse_cli.core.report import Report, Subject
from collapse_cli.core.text import plain
from collapse_cli.render.look import Look
from collapse_cli.render.spark import spark
from collapse_cli.render.verdict import (
    counted,
    coverage_words,
    findings_by_severity,
    limit_words,
    number,
    outcome_words,
    verdict_line,
)

__all__ = ["render"]

#: Severity as a shape and a word; colour is an extra.
_SHAPES = {Severity.ERROR: ("✖", "bold red"), Severity.WARNING: ("▲", "yellow"), Severity.INFO: ("●", "cyan")}
#: Sites named under one finding group before the rest is counted.
_SITES_SHOWN = 12


def render(report: Report, look: Look) -> str:
    """The whole report as text of `look.width` columns, with colour codes where asked for."""
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=max(look.width, 40),
        force_terminal=look.has_color,
        color_system="auto" if look.has_color else None,
        no_color=not look.has_color,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )
    for subject in report.subjects:
        _subject(console, report, subject, look)
    style = {"pass": "bold green", "fail": "bold red", "incomplete": "bold yellow", "empty": "bold yellow"}
    console.print(Text(verdict_line(report), style=style[report.verdict.outcome]))
    return stream.getvalue()


def _subject(console: Console, report: Report, subject: Subject, look: Look) -> None:
    if not look.is_quiet:
        _opening(console, report, subject)
        if subject.measurements or subject.skips or subject.failures:
            console.print(Padding(_analyzers(report, subject), (1, 0, 1, 1)))
    if look.show_all and subject.measurements:
        console.print(Padding(_measurements(subject), (0, 0, 1, 1)))
    prefix = _common_prefix([finding.measurement.site for finding in subject.findings])
    for group in _grouped(findings_by_severity(subject)):
        _finding(console, subject, group, prefix)
    for failed in subject.failures:
        where = " ".join(part for part in (failed.analyzer, failed.site) if part)
        console.print(Text(plain(f" ✖ failed  {where}: {failed.error}: {failed.message}"), style="red"))
    if not look.is_quiet:
        for skip in (skip for skip in subject.skips if skip.analyzer is None):
            console.print(Text(plain(f" ▲ not read  {skip.site}: {skip.reason}"), style="yellow"))
        console.print()


def _opening(console: Console, report: Report, subject: Subject) -> None:
    dtypes = sorted({site.dtype for site in subject.sites if site.dtype})
    parameters = sum(site.numel for site in subject.sites if site.is_floating and "#" not in site.name)
    facts = [subject.format, counted(subject.coverage.sites, "tensor")]
    facts += [f"{parameters:,} parameters", ", ".join(dtypes)] if subject.sites else []
    console.print(Text.assemble((plain(subject.id), "bold"), "  ", " · ".join(facts)))
    if subject.status in ("failed", "empty"):
        console.print(Text(outcome_words(subject)))
        return
    ran = {m.analyzer for m in subject.measurements} | {f.analyzer for f in subject.failures if f.analyzer}
    line = [coverage_words(subject.coverage), counted(len(ran), "analyzer"), report.provenance.device]
    if len(report.subjects) == 1:
        line.append(f"{report.provenance.seconds:.1f} s")
    console.print(Text(" · ".join(line)))


def _analyzers(report: Report, subject: Subject) -> Table:
    """One row an analyzer that measured, failed or was skipped at a site."""
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="dim")
    table.add_column("family", overflow="fold")
    table.add_column("analyzer", overflow="fold")
    for name in ("sites", "error", "warning", "info", "skipped", "failed"):
        table.add_column(name, justify="right", no_wrap=True)
    silent = 0
    for manual in report.manuals:
        sites = {m.site for m in subject.measurements if m.analyzer == manual.name}
        skips = [skip for skip in subject.skips if skip.analyzer == manual.name and skip.site is not None]
        failures = [failure for failure in subject.failures if failure.analyzer == manual.name]
        if not sites and not skips and not failures:
            silent += 1
            continue
        judged = any(metric.warn or metric.error for metric in manual.metrics)
        found = [f.severity for f in findings_by_severity(subject) if f.measurement.analyzer == manual.name]
        cells = [_count(found.count(severity), judged, _SHAPES[severity][1]) for severity in reversed(Severity)]
        table.add_row(
            manual.family, manual.name, str(len(sites)), *cells, str(len(skips)), _count(len(failures), True, "red")
        )
    if silent:
        table.caption = f"- not judged   0 clean   {counted(silent, 'analyzer')} found nothing to accept"
    else:
        table.caption = "- not judged   0 clean"
    table.caption_justify = "left"
    return table


def _count(count: int, judged: bool, style: str) -> Text:
    if not judged:
        return Text("-", style="dim")
    return Text(str(count), style=style if count else "dim")


def _measurements(subject: Subject) -> Table:
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="dim")
    table.add_column("site", overflow="fold")
    table.add_column("rule", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("null", justify="right", no_wrap=True)
    for measured in subject.measurements:
        null = "" if measured.null is None else number(measured.null)
        table.add_row(Text(plain(measured.site)), measured.rule, number(measured.value), null)
    return table


def _grouped(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Findings of one rule and severity together: sixty layers with one illness are one finding with sixty sites."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity.value, finding.measurement.rule), []).append(finding)
    return list(groups.values())


def _finding(console: Console, subject: Subject, group: Sequence[Finding], prefix: str) -> None:
    first = group[0]
    shape, style = _SHAPES[first.severity]
    measured = first.measurement
    head = Text.assemble((f" {shape} {first.severity:<8}", style), (measured.rule, "bold"))
    head.append(f"   {limit_words(first.limit)}")
    curve = _layer_curve(subject, measured.rule)
    if curve:
        head.append(f"   {curve}")
    console.print(head)
    for finding in group[:_SITES_SHOWN]:
        one = finding.measurement
        null = "" if one.null is None else f"   random {number(one.null)}"
        line = Text.assemble((plain(_shortened(one.site, prefix)), ""), f"   {number(one.value)}{null}")
        console.print(Padding(line, (0, 0, 0, 11)))
        console.print(Padding(Text(plain(finding.message), style="dim"), (0, 0, 0, 13)))
    if len(group) > _SITES_SHOWN:
        more = f"and {len(group) - _SITES_SHOWN} more sites: -f concise lists them all"
        console.print(Padding(Text(more), (0, 0, 0, 11)))
    console.print(Padding(Text(f"→ {plain(first.remedy)}"), (0, 0, 0, 11)))
    console.print(Padding(Text(f"collapse explain {measured.analyzer}", style="dim"), (0, 0, 0, 11)))


def _layer_curve(subject: Subject, rule: str) -> str:
    """`layer 0 ▇▁ 1`: the metric along the depth of the model, where three layers or more have it."""
    layers = {site.name: site.layer for site in subject.sites if site.layer is not None}
    by_layer: dict[int, list[float]] = {}
    for measured in subject.measurements:
        layer = layers.get(measured.site)
        if measured.rule == rule and layer is not None:
            by_layer.setdefault(layer, []).append(measured.value)
    if len(by_layer) < 2:
        return ""
    order = sorted(by_layer)
    means = [sum(by_layer[layer]) / len(by_layer[layer]) for layer in order]
    return f"layer {order[0]} {spark(means)} {order[-1]}"


def _common_prefix(names: Sequence[str]) -> str:
    """What all names begin with, up to a dot; the tail of a name is never cut."""
    if len(names) < 2:
        return ""
    first, last = min(names), max(names)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first[:length].rfind(".") + 1]


def _shortened(name: str, prefix: str) -> str:
    return f"…{name[len(prefix) :]}" if len(prefix) > 12 and name.startswith(prefix) else name
