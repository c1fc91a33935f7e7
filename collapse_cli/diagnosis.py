"""Findings → diagnoses: what shares a cause is said once. Pure, and without torch."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import final

from collapse_cli.core.causes import CAUSES, Cause
from collapse_cli.core.diagnosis import Diagnosis
from collapse_cli.core.finding import Finding
from collapse_cli.core.manual import Manual
from collapse_cli.core.report import Subject

__all__ = ["diagnosed"]


def diagnosed(subject: Subject, manuals: Iterable[Manual], causes: Sequence[Cause] = CAUSES) -> Subject:
    """The subject with its findings grouped by cause, worst first.

    The primary finding of a diagnosis is the worst that is left; among equals the one whose cause stands first, then
    the most telling sign, then the first in depth. It takes with it every other sign of its cause, and what its cause
    explains within reach; a consequence is never worse than its primary finding. A finding that no cause knows stands
    for its analyzer. Suppressed findings belong to no diagnosis.
    """
    titles = {manual.name: manual.title for manual in manuals}
    places = _Places(subject)
    left = [finding for finding in subject.findings if finding.suppressed is None]
    found = []
    while left:
        primary = min(left, key=lambda finding: _rank(finding, causes, places))
        cause = _cause(primary, causes)
        if cause is None:
            analyzer = primary.measurement.analyzer
            cause = Cause(analyzer, titles.get(analyzer, analyzer), (f"{analyzer}/*",))
        signs = [finding for finding in left if _place(finding, cause.signs) is not None]
        sites = {finding.measurement.site for finding in signs}
        follows = [
            finding
            for finding in left
            if finding is not primary
            and (
                finding in signs
                or (_place(finding, cause.explains) is not None and places.reaches(sites, finding, cause.reach))
            )
        ]
        found.append(
            Diagnosis(cause.kind, cause.title, primary.fingerprint, tuple(finding.fingerprint for finding in follows))
        )
        taken = {primary.fingerprint, *found[-1].consequences}
        left = [finding for finding in left if finding.fingerprint not in taken]
    return replace(subject, diagnoses=tuple(found))


def _rank(finding: Finding, causes: Sequence[Cause], places: "_Places") -> tuple[int, int, int, int]:
    cause = _cause(finding, causes)
    if cause is None:
        return -finding.severity.rank, len(causes), 0, places.order(finding.measurement.site)
    sign = _place(finding, cause.signs) or 0
    return -finding.severity.rank, list(causes).index(cause), sign, places.order(finding.measurement.site)


def _cause(finding: Finding, causes: Sequence[Cause]) -> Cause | None:
    return next((cause for cause in causes if _place(finding, cause.signs) is not None), None)


def _place(finding: Finding, patterns: Sequence[str]) -> int | None:
    """The number of the first pattern that the rule of the finding matches."""
    rule = finding.measurement.rule
    return next((place for place, pattern in enumerate(patterns) if fnmatchcase(rule, pattern)), None)


@final
class _Places:
    """Where the sites of a subject stand: their order in depth, and which belong to one layer."""

    def __init__(self, subject: Subject) -> None:
        self._order = {site.name: place for place, site in enumerate(subject.sites)}
        self._layers = {site.name: site.layer for site in subject.sites}

    def order(self, site: str) -> int:
        """The place of a site in the source; what is derived from a tensor stands where the tensor does."""
        return self._order.get(site, self._order.get(_tensor(site), len(self._order)))

    def reaches(self, sites: set[str], finding: Finding, reach: str) -> bool:
        """Whether a finding lies within reach of sites."""
        site = finding.measurement.site
        if reach == "subject":
            return True
        if reach == "onward" and self.order(site) >= min(self.order(one) for one in sites):
            return True
        layers = {self._layers.get(one) for one in sites} - {None}
        homes = {_home(one) for one in sites}
        return _home(site) in homes or self._layers.get(site) in layers


def _tensor(site: str) -> str:
    return site.partition("#")[0]


def _home(site: str) -> str:
    """The module of a tensor: `layers.1.mlp` of `layers.1.mlp.weight#expert=3`; a hook point is its own."""
    tensor = _tensor(site)
    module, _, leaf = tensor.rpartition(".")
    return module if module and leaf in ("weight", "bias", "lora_A", "lora_B") else tensor
