"""Findings at a terminal: rule and limit, the sites with value and null, what to try."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from collapse_cli.core.finding import Finding, Severity
from collapse_cli.core.manual import Manual
from collapse_cli.core.report import Subject
from collapse_cli.core.text import plain, tail
from collapse_cli.render.spark import spark
from collapse_cli.render.verdict import counted, limit_words, number

__all__ = ["SHAPES", "Paper", "marked", "print_entries"]

#: Severity as a shape; colour is an extra, the word stands beside it.
SHAPES: Final[Mapping[Severity, tuple[str, str]]] = MappingProxyType(
    {Severity.ERROR: ("✖", "bold red"), Severity.WARNING: ("▲", "yellow"), Severity.INFO: ("●", "cyan")}
)
#: Sites named under one rule before the rest is counted.
_SITES_SHOWN = 12
#: From this width on the message stands beside its site, below it underneath.
_WIDE = 100
#: Prefixes shorter than this are not worth an ellipsis.
_SHORTEST_CUT = 6


@final
@dataclass(frozen=True, slots=True)
class Paper:
    """Where findings of one subject are printed; the prefix that its names go without, the remedies given so far."""

    console: Console
    subject: Subject
    manuals: Mapping[str, Manual]
    prefix: str
    advised: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, console: Console, subject: Subject, manuals: Mapping[str, Manual]) -> "Paper":
        """A blank one."""
        return cls(console, subject, manuals, _common_prefix([one.measurement.site for one in subject.findings]))

    @property
    def indent(self) -> int:
        """Columns in front of what is said of a rule."""
        return 11 if self.console.width >= 60 else 4

    @property
    def width(self) -> int:
        """Columns that are left of them."""
        return self.console.width - self.indent

    def named(self, site: str) -> str:
        """A name without the prefix, cut only where it would fill the screen, and then in front."""
        name = site.removeprefix(self.prefix)
        longest = max(self.width // 2, 3 * self.width if self.width < _WIDE else 0)
        return tail(name if name == site else f"…{name}", longest)


def marked(severity: Severity, text: Text) -> Table:
    """`✖ error   ` and a text that wraps beside it."""
    shape, style = SHAPES[severity]
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(f" {shape} {severity:<7}", style=style), text)
    return grid


def print_entries(paper: Paper, findings: Sequence[Finding], *, opening: str | None = None) -> None:
    """Findings of one rule and severity together: sixty layers with one illness are one entry with sixty sites.

    A remedy stands under the last rule of its analyzer, once for the subject. With an opening the rules stand under a
    title: without words it has said their severity already.
    """
    groups = _grouped(findings)
    for position, group in enumerate(groups):
        first = group[0].measurement
        manual = paper.manuals.get(first.analyzer)
        head, inner = _rule(paper.subject, group), (0, 0, 0, paper.indent)
        if opening:
            shape, style = SHAPES[group[0].severity]
            head = Text.assemble(f"{opening} ", (f"{shape} {group[0].severity}", style), " ", head)
        paper.console.print(marked(group[0].severity, head) if opening is None else Padding(head, inner))
        body = [*_sites(paper, group, chance=_chance(manual, first.metric))]
        follows = groups[position + 1][0] if position + 1 < len(groups) else None
        is_last = follows is None or (follows.severity, follows.measurement.analyzer) != (
            group[0].severity,
            first.analyzer,
        )
        if is_last and group[0].remedy not in paper.advised:
            paper.advised.add(group[0].remedy)
            body.append(_remedy(group[0], paper.width))
        paper.console.print(Padding(Group(*body), inner))


def _grouped(findings: Sequence[Finding]) -> list[list[Finding]]:
    """By severity, then analyzer in the order of its first finding, then rule."""
    groups: dict[tuple[str, str], dict[str, list[Finding]]] = {}
    for finding in findings:
        key = (finding.severity.value, finding.measurement.analyzer)
        groups.setdefault(key, {}).setdefault(finding.measurement.rule, []).append(finding)
    return [group for rules in groups.values() for group in rules.values()]


def _rule(subject: Subject, group: Sequence[Finding]) -> Text:
    """`effective-rank/effective_rank_ratio   limit < 0.05   3 sites   layer 0 █▁ 1`."""
    first = group[0]
    parts = [limit_words(first.limit)]
    if len(group) > 1:
        parts.append(counted(len(group), "site"))
    curve = _layer_curve(subject, group)
    parts += [curve] if curve else []
    return Text.assemble((plain(first.measurement.rule), "bold"), "   " + "   ".join(parts))


def _sites(paper: Paper, group: Sequence[Finding], *, chance: str) -> Iterator[RenderableType]:
    """One line a site; when there are too many the worst, and how many more there are. One message is said once."""
    shown = list(group) if len(group) <= _SITES_SHOWN else sorted(group, key=_mildness)[:_SITES_SHOWN]
    is_shared = len(group) > 1 and len({finding.message for finding in group}) == 1
    is_beside = paper.width >= _WIDE
    grid = Table.grid(padding=(0, 3, 0, 0))
    for justify, is_whole in (("left", False), ("right", True), ("left", True), ("left", False)):
        grid.add_column(justify=justify, no_wrap=is_whole, overflow="fold")  # type: ignore[arg-type]
    for finding in shown:
        cells = _cells(paper, finding, chance)
        message = Text("" if is_shared else plain(finding.message), style="dim")
        if is_beside:
            grid.add_row(*cells, message)
            continue
        yield Text("   ").join(cell for cell in cells if cell.plain)
        if message.plain:
            yield Padding(message, (0, 0, 0, 2))
    if is_beside:
        yield grid
    if len(group) > len(shown):
        yield Text(f"+{len(group) - len(shown):,} more, none worse: -f concise lists them all")
    if is_shared:
        yield Text(plain(group[0].message), style="dim")


def _cells(paper: Paper, finding: Finding, chance: str) -> tuple[Text, Text, Text]:
    one = finding.measurement
    null = "" if one.null is None else f"{chance} {number(one.null)}"
    return Text(paper.named(one.site), overflow="fold"), Text(number(one.value)), Text(null)


def _chance(manual: Manual | None, metric: str) -> str:
    """`random` where the null is what random numbers give, else `null`: `collapse explain` says which one it is."""
    declared = next((one for one in manual.metrics if one.name == metric), None) if manual else None
    words = (declared.null or "") if declared else ""
    return "random" if any(word in words for word in ("Gaussian", "random", "uniform")) else "null"


def _remedy(finding: Finding, width: int) -> RenderableType:
    more = f"collapse explain {plain(finding.measurement.analyzer)}"
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    text = Text(plain(finding.remedy))
    if len(finding.remedy) + len(more) + 5 <= width:
        text.append(f"   {more}", style="dim")
    else:
        text.append(f"\n{more}", style="dim")
    grid.add_row("→", text)
    return grid


def _mildness(finding: Finding) -> float:
    """Worst first: far below a lower bound, far above an upper one, in units of the null where the limit is."""
    measured, limit = finding.measurement, finding.limit
    value = measured.value
    if limit.of == "null" and measured.null:
        value /= measured.null
    return value if limit.side == "below" else -value


def _layer_curve(subject: Subject, group: Sequence[Finding]) -> str:
    """`layer 0 ▇▁ 1`: the worst value of each layer, on a scale from zero to the greatest value or null."""
    rule, side = group[0].measurement.rule, group[0].limit.side
    layers = {site.name: site.layer for site in subject.sites if site.layer is not None}
    if not any(finding.measurement.site in layers for finding in group):
        return ""
    worst: dict[int, float] = {}
    ceiling = 0.0
    for measured in subject.measurements:
        layer = layers.get(measured.site)
        if measured.rule == rule and layer is not None:
            best = min if side == "below" else max
            worst[layer] = best(worst.get(layer, measured.value), measured.value)
            ceiling = max(ceiling, measured.null or 0.0)
    if len(worst) < 2:
        return ""
    order = sorted(worst)
    return f"layer {order[0]} {spark([worst[layer] for layer in order], ceiling=ceiling)} {order[-1]}"


def _common_prefix(names: Sequence[str]) -> str:
    """What all names begin with, up to a dot; the tail of a name is never cut."""
    first, last = min(names, default=""), max(names, default="")
    if first == last:
        return ""
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    prefix = first[: first[:length].rfind(".") + 1]
    return prefix if len(prefix) >= _SHORTEST_CUT else ""
