"""Where the sites of a subject lie, and which findings are there."""

from dataclasses import dataclass
from typing import final

from collapse_cli.core.finding import Finding
from collapse_cli.core.report import Subject
from collapse_cli.core.site import Site
from collapse_cli.render.verdict import findings_by_severity

__all__ = ["Places"]


@final
@dataclass(frozen=True, slots=True)
class Places:
    """The sites of a subject by name, and its findings that count by rule and site."""

    sites: dict[str, Site]
    findings: dict[tuple[str, str], Finding]

    @classmethod
    def of(cls, subject: Subject) -> "Places":
        """Those of one subject."""
        found = {(one.measurement.rule, one.measurement.site): one for one in reversed(findings_by_severity(subject))}
        return cls({site.name: site for site in subject.sites}, found)

    def layer(self, name: str) -> int | None:
        """The layer of a site; of a derived one (`…#head=3`, `…#rule=a/b`) that of the tensor it comes from."""
        while name not in self.sites:
            name, mark, _ = name.rpartition("#")
            if not mark:
                return None
        return self.sites[name].layer

    def mark(self, rule: str, site: str) -> str:
        """The severity of the finding of that rule at that site, or nothing."""
        found = self.findings.get((rule, site))
        return found.severity.value if found else ""
