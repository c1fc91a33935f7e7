"""Workflow commands: findings as annotations of a GitHub Actions step."""

from collections.abc import Iterator
from typing import Final

from collapse_cli.core.finding import Severity
from collapse_cli.core.report import Report, Subject
from collapse_cli.core.text import plain, tail
from collapse_cli.render.diagnoses import ranked
from collapse_cli.render.look import Look
from collapse_cli.render.ranking import finding_words, ranked_suppressed, repository_path, unanalysed
from collapse_cli.render.verdict import counted, verdict_line

__all__ = ["render"]

_LEVELS: Final = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}
#: GitHub keeps ten annotations per level and step, and drops the rest in silence.
_MOST: Final = 10
#: A longer title is refused.
_LONGEST_TITLE: Final = 255


def render(report: Report, look: Look) -> str:
    """One command a finding and failure, worst first, and first of all what names a diagnosis.

    Of more than ten of a level the tenth says how many there are.
    """
    lines: dict[str, list[str]] = {"error": [], "warning": [], "notice": []}
    for level, line in _commands(report, look):
        lines[level].append(line)
    kept = [line for level, found in lines.items() for line in _bounded(level, found)]
    return "".join(line + "\n" for line in kept)


def _commands(report: Report, look: Look) -> Iterator[tuple[str, str]]:
    unread = unanalysed(report)
    if report.verdict.outcome == "empty" and not report.subjects:
        yield "error", _command("error", "collapse", plain(verdict_line(report)))
    whole = [one for one in unread if one.site is None and one.analyzer is None]
    for one in whole:
        yield "error", _command("error", "collapse: not analysed", f"{plain(one.subject.id)}: {one.words}", one.subject)
    for found in ranked(report.subjects):
        finding, diagnosis = found.finding, found.group.diagnosis
        level, rule = _LEVELS[finding.severity], finding.measurement.rule
        title = f"{diagnosis.title}: {rule}" if diagnosis and found.is_primary else rule
        text = f"{plain(found.subject.id)}: {finding_words(finding, found.place)}\n→ {plain(finding.remedy)}"
        yield level, _command(level, title, text, found.subject)
    for one in unread[len(whole) :]:
        title = f"{one.analyzer or 'collapse'}: {'failed' if one.is_failure else 'not analysed'}"
        level = "error" if one.is_failure else "warning"
        yield level, _command(level, title, f"{plain(one.subject.id)}: {one.words}", one.subject)
    for subject, finding in ranked_suppressed(report) if look.show_suppressed else ():
        text = f"{plain(subject.id)}: {finding_words(finding)}"
        yield "notice", _command("notice", finding.measurement.rule, text, subject)


def _command(level: str, title: str, text: str, subject: Subject | None = None) -> str:
    properties = [f"title={_property(tail(title, _LONGEST_TITLE))}"]
    if subject is not None:
        properties += [f"file={_property(plain(repository_path(subject)))}", "line=1"]
    return f"::{level} {','.join(properties)}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _bounded(level: str, lines: list[str]) -> list[str]:
    if len(lines) <= _MOST:
        return lines
    left = len(lines) - _MOST + 1
    text = f"+{left:,} more of this level: GitHub shows {_MOST} per step, the other reports of this run have them all"
    return [*lines[: _MOST - 1], _command(level, f"collapse: +{counted(left, f'more {level}')}", text)]
