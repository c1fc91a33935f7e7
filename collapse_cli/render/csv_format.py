"""CSV: tidy, one row per measurement, skip and failure, for a spreadsheet or a data frame."""

import csv
import io
from collections.abc import Iterator, Mapping

from collapse_cli.core.diagnosis import Diagnosis
from collapse_cli.core.finding import Finding
from collapse_cli.core.report import Failure, Report, Skip, Subject
from collapse_cli.core.text import inert
from collapse_cli.render.diagnoses import diagnosis_of
from collapse_cli.render.look import Look

__all__ = ["COLUMNS", "render"]

#: The contract: names and order never change within a major schema version.
COLUMNS = (
    *("subject", "kind", "site", "layer", "role", "shape", "dtype", "analyzer", "metric", "unit", "value", "null"),
    *("status", "severity", "limit_side", "limit_bound", "suppressed", "fingerprint", "message"),
    # since schema 1.1: the kind, and the fingerprint of the primary finding, which itself follows from none
    *("diagnosis", "follows_from"),
)
#: Columns of numbers: a minus sign there begins no formula.
_NUMBERS = frozenset({"layer", "value", "null", "limit_bound"})


def render(report: Report, _look: Look) -> str:
    r"""UTF-8 without BOM, `\n`, header always, shortest exact floats; text that a spreadsheet would run gets a `'`."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for subject in report.subjects:
        for row in _rows(report, subject):
            writer.writerow({key: value if key in _NUMBERS else inert(value) for key, value in row.items()})
    return stream.getvalue()


def _rows(report: Report, subject: Subject) -> Iterator[dict[str, str]]:
    sites = {site.name: site for site in subject.sites}
    findings = {(f.measurement.rule, f.measurement.site): f for f in subject.findings}
    told = diagnosis_of(subject)
    units = {(manual.name, metric.name): metric.unit for manual in report.manuals for metric in manual.metrics}

    def place(name: str | None) -> dict[str, str]:
        row = {"subject": subject.id, "kind": subject.kind, "site": name or ""}
        site = sites.get(name or "")
        if site is not None:
            layer = "" if site.layer is None else str(site.layer)
            shape = "x".join(map(str, site.shape))
            row |= {"layer": layer, "role": site.role.value, "shape": shape, "dtype": site.dtype}
        return row

    for measured in subject.measurements:
        row = place(measured.site) | {"analyzer": measured.analyzer, "metric": measured.metric, "status": "measured"}
        row |= {"unit": units.get((measured.analyzer, measured.metric), ""), "value": repr(measured.value)}
        row["null"] = "" if measured.null is None else repr(measured.null)
        yield row | _judged(findings.get((measured.rule, measured.site)), told)
    rest: list[Skip | Failure] = [*subject.skips, *subject.failures]
    for unmeasured in rest:
        yield place(unmeasured.site) | _unmeasured(unmeasured)


def _judged(finding: Finding | None, told: Mapping[str, Diagnosis]) -> dict[str, str]:
    if finding is None:
        return {}
    diagnosis = told.get(finding.fingerprint)
    return {
        "severity": finding.severity.value,
        "limit_side": finding.limit.side,
        "limit_bound": repr(_bound(finding)),
        "suppressed": finding.suppressed.by if finding.suppressed else "",
        "fingerprint": finding.fingerprint,
        "message": finding.message,
        "diagnosis": diagnosis.kind if diagnosis else "",
        "follows_from": diagnosis.primary if diagnosis and diagnosis.primary != finding.fingerprint else "",
    }


def _bound(finding: Finding) -> float:
    """The bound on the value itself: a limit on value ÷ null comes out multiplied by the null."""
    bound, null = finding.limit.bound, finding.measurement.null
    return bound * null if finding.limit.of == "null" and null is not None else bound


def _unmeasured(given: Skip | Failure) -> dict[str, str]:
    if isinstance(given, Skip):
        return {"analyzer": given.analyzer or "", "status": "skipped", "message": given.reason}
    return {"analyzer": given.analyzer or "", "status": "failed", "message": f"{given.error}: {given.message}"}
