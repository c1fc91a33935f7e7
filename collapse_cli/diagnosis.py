"""Findings → diagnoses: what shares a cause is said once. Pure, and without torch."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from glob import escape
from typing import final

from collapse_cli.core.causes import CAUSES, Cause
from collapse_cli.core.diagnosis import Diagnosis
from collapse_cli.core.finding import Finding
from collapse_cli.core.manual import Manual
from collapse_cli.core.report import Subject

__all__ = ["diagnosed"]

#: Leaves that are one module: what ails its weight is seen in its bias.
_LEAVES = frozenset({"weight", "bias", "lora_A", "lora_B"})

#: Parts of a name: no model nests as deep, and a file may hold a name of 64 kB that is all dots.
_DEEPEST = 100


def diagnosed(subject: Subject, manuals: Iterable[Manual], causes: Sequence[Cause] = CAUSES) -> Subject:
    """The subject with its findings grouped by cause, worst first.

    The primary finding of a diagnosis is the worst that is left; among equals the one whose cause stands first, then
    the most telling sign, then the first in depth. It takes with it every other sign of its cause, and what its cause
    explains within reach; a consequence is never worse than its primary finding. A finding that no cause knows stands
    for its analyzer. Suppressed findings belong to no diagnosis.
    """
    titles = {manual.name: manual.title for manual in manuals}
    active = [finding for finding in subject.findings if finding.suppressed is None]
    rules = {finding.measurement.rule for finding in active}
    known = {rule: _first_cause(rule, causes) for rule in rules}
    places = _Places(subject)

    def rank(finding: Finding) -> tuple[int, int, int, int]:
        cause, sign = known[finding.measurement.rule] or (len(causes), 0)
        return -finding.severity.rank, cause, sign, places.order(finding.measurement.site)

    # neither the severity nor the cause of a finding depends on what was taken before it: sorted once is enough
    left = sorted(active, key=rank)
    found = []
    while left:
        primary = left[0]
        mine = known[primary.measurement.rule]
        cause = causes[mine[0]] if mine else _own(primary, titles)
        follows, left = _taken(left, cause, rules, places)
        marks = tuple(finding.fingerprint for finding in follows)
        found.append(Diagnosis(cause.kind, cause.title, primary.fingerprint, marks))
    return replace(subject, diagnoses=tuple(found))


def _first_cause(rule: str, causes: Sequence[Cause]) -> tuple[int, int] | None:
    """The numbers of the first cause that a rule is a sign of, and of that sign."""
    signs = ((place, _match(rule, cause.signs)) for place, cause in enumerate(causes))
    return next(((place, sign) for place, sign in signs if sign is not None), None)


def _own(finding: Finding, titles: Mapping[str, str]) -> Cause:
    """The cause of a finding that no cause knows: its analyzer says what it is."""
    analyzer = finding.measurement.analyzer
    return Cause(analyzer, titles.get(analyzer, analyzer), (f"{escape(analyzer)}/*",))


def _taken(
    left: Sequence[Finding], cause: Cause, rules: Iterable[str], places: "_Places"
) -> tuple[list[Finding], list[Finding]]:
    """What follows from the first finding, worst and most telling first, and what is left for other diagnoses."""
    signs = {rule: _match(rule, cause.signs) for rule in rules}
    explains = {rule: _match(rule, cause.explains) for rule in rules}
    primary, *others = left
    sites = {primary.measurement.site} | {
        finding.measurement.site for finding in others if signs[finding.measurement.rule] is not None
    }
    reached = places.reached(sites, cause.reach)
    first = {finding.measurement.rule: place for place, finding in reversed(list(enumerate(others)))}
    follows: list[tuple[tuple[int, int, int, int], Finding]] = []
    rest = []
    for finding in others:
        rule, site = finding.measurement.rule, finding.measurement.site
        place = signs[rule]
        if place is None and explains[rule] is not None and reached(site):
            place = len(cause.signs) + (explains[rule] or 0)
        if place is None:
            rest.append(finding)
        else:
            # one rule at all of its sites, then the next
            follows.append(((-finding.severity.rank, place, first[rule], places.order(site)), finding))
    follows.sort(key=lambda pair: pair[0])
    return [finding for _, finding in follows], rest


def _match(rule: str, patterns: Sequence[str]) -> int | None:
    """The number of the first pattern that a rule matches."""
    return next((place for place, pattern in enumerate(patterns) if fnmatchcase(rule, pattern)), None)


@final
class _Places:
    """Where the sites of a subject stand: their order in depth, and which belong together.

    What is derived from a tensor (`w#expert=3`) stands where the tensor does, a module where its first tensor does.
    """

    def __init__(self, subject: Subject) -> None:
        self._order: dict[str, int] = {}
        self._layers: dict[str, set[int | None]] = {}
        for place, site in enumerate(subject.sites):
            for name in _ancestry(_tensor(site.name)):
                self._order.setdefault(name, place)
                self._layers.setdefault(name, set()).add(site.layer)

    def order(self, site: str) -> int:
        """The place of a site in the source; one that is not there stands behind all."""
        return self._order.get(_tensor(site), len(self._order))

    def reached(self, sites: set[str], reach: str) -> Callable[[str], bool]:
        """Whether a site lies within reach of these."""
        first = min(self.order(site) for site in sites)
        homes = {_home(site) for site in sites}
        around = {name for home in homes for name in _ancestry(home)}
        layers = {self._layer(site) for site in sites} - {None}

        def is_reached(site: str) -> bool:
            if reach == "subject" or (reach == "onward" and self.order(site) >= first):
                return True
            home = _home(site)
            return home in around or self._layer(site) in layers or not homes.isdisjoint(_ancestry(home))

        return is_reached

    def _layer(self, site: str) -> int | None:
        """The layer that a site lies in; None outside the stack, and for what spans several."""
        layers = self._layers.get(_tensor(site), set())
        return next(iter(layers)) if len(layers) == 1 else None


def _ancestry(name: str) -> Iterator[str]:
    """A name and the modules that it lies in: `a.b.c`, `a.b`, `a`. A hostile name lies in none."""
    if name.count(".") > _DEEPEST:
        yield name
        return
    while name:
        yield name
        name = name.rpartition(".")[0]


def _tensor(site: str) -> str:
    """The tensor or module that a site is derived from; `#checkpoint`, the whole of it, is its own."""
    return site.partition("#")[0] or site


def _home(site: str) -> str:
    """The module of a tensor: `layers.1.mlp` of `layers.1.mlp.weight#expert=3`; a hook point is its own."""
    tensor = _tensor(site)
    module, _, leaf = tensor.rpartition(".")
    return module if module and leaf in _LEAVES else tensor
