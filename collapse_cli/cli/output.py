"""Where a report goes: stdout in one format, and any number of files, each written whole or not at all."""

import io
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, final

from collapse_cli.cli.messages import say
from collapse_cli.cli.request import choice
from collapse_cli.errors import BadPolicy
from collapse_cli.whole_file import write_whole

if TYPE_CHECKING:
    from collapse_cli.cli.asked import Reporting
    from collapse_cli.core.report import Report

__all__ = ["Destinations", "deliver", "has_color", "terminal_width", "write_text", "write_whole"]


@final
@dataclass(frozen=True, slots=True)
class Destinations:
    """The format of stdout, the files, and how the table looks."""

    format: str
    files: tuple[tuple[str, Path], ...]
    color: str
    show_all: bool = False
    is_quiet: bool = False
    show_suppressed: bool = False
    sarif_anchor: str | None = None
    category: str = "default"
    detail: str | None = None

    @classmethod
    def asked(cls, reporting: "Reporting", *, quiet: bool) -> "Destinations":
        """What the flags of a command ask for.

        Raises:
            BadPolicy: as for `parsed`, or SARIF results are to be placed outside of the repository.
        """
        found = cls.parsed(
            reporting.format,
            tuple(reporting.output or ()),
            color=reporting.color,
            show_all=reporting.show_all,
            quiet=quiet,
            show_suppressed=reporting.show_suppressed,
        )
        return replace(
            found,
            sarif_anchor=_anchor(reporting.sarif_anchor),
            category=reporting.category,
            detail=reporting.detail,
        )

    @classmethod
    def parsed(
        cls,
        chosen: str,
        output: tuple[str, ...],
        *,
        color: str,
        show_all: bool,
        quiet: bool,
        show_suppressed: bool = False,
    ) -> "Destinations":
        """What `-f`, `-o` and `--color` ask for.

        Raises:
            BadPolicy: an unknown format or suffix, or a folder that does not exist: said before anything is measured.
        """
        from collapse_cli.render import FORMATS

        choice("--format", chosen, FORMATS)
        choice("--color", color, ("auto", "always", "never"))
        files = tuple(_destination(word) for word in output)
        return cls(chosen, files, color, show_all, quiet, show_suppressed)


def _destination(word: str) -> tuple[str, Path]:
    from collapse_cli.render import FORMATS, SUFFIXES

    name, equals, rest = word.partition("=")
    if equals and name in FORMATS:
        chosen, path = name, Path(rest)
    else:
        path = Path(word)
        chosen = SUFFIXES.get(path.suffix.lower(), "")
        if not chosen:
            raise BadPolicy(
                f'--output "{word}"',
                expected=f"should end in one of {', '.join(SUFFIXES)} or begin with a format",
                hint=f"-o json={word}",
            )
    if not path.parent.is_dir():
        raise BadPolicy(
            f'--output "{word}"', expected="should lie in a folder that exists", hint=f"mkdir {path.parent}"
        )
    return chosen, path


def _anchor(given: str | None) -> str | None:
    if not given:
        return None
    path = PurePosixPath(Path(given).as_posix())
    if path.is_absolute() or ".." in path.parts:
        raise BadPolicy(
            f'--sarif-anchor "{given}"', expected="should be a file of the repository, relative to its root"
        )
    return path.as_posix()


def has_color(when: str, *, is_terminal: bool) -> bool:
    """Whether to colour: the flag, then `NO_COLOR`, then `FORCE_COLOR`, then whether a terminal is there."""
    if when != "auto":
        return when == "always"
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or is_terminal


def deliver(report: "Report", to: Destinations) -> None:
    """Write the files, then the one report on stdout; the verdict goes to stderr where stdout does not close with it.

    Raises:
        BadPolicy: a file cannot be written; what could be is written, stdout too.
    """
    from collapse_cli.render import RENDERERS, Look, verdict_line
    from collapse_cli.render.verdict import has_suppressed

    plain = Look(
        show_all=to.show_all,
        show_suppressed=to.show_suppressed,
        sarif_anchor=to.sarif_anchor,
        category=to.category,
        detail=to.detail,
    )
    unwritten = []
    for name, path in to.files:
        try:
            write_whole(path, RENDERERS[name](report, plain))
        except BadPolicy as error:
            unwritten.append(error)
    is_terminal = sys.stdout.isatty()
    is_for_people = is_terminal or to.color == "always" or to.detail is not None
    chosen = "concise" if to.format == "table" and not is_for_people else to.format
    look = replace(
        plain,
        width=terminal_width(),
        has_color=has_color(to.color, is_terminal=is_terminal),
        is_quiet=to.is_quiet,
    )
    is_machine = chosen not in ("table", "concise")
    write_text(RENDERERS[chosen](report, look), is_machine=is_machine)
    if is_machine and not (to.is_quiet and report.verdict.outcome == "pass" and not has_suppressed(report)):
        say(verdict_line(report))
    if unwritten:
        raise unwritten[0]


def terminal_width() -> int:
    """Columns of the terminal, as `COLUMNS` or the terminal itself says."""
    import shutil

    return shutil.get_terminal_size((100, 24)).columns


def write_text(text: str, *, is_machine: bool) -> None:
    r"""Text on stdout: what programs read is UTF-8 with `\n`, what people read is what their terminal can show."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        if is_machine:
            sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace", newline="\n")
        else:
            sys.stdout.reconfigure(errors="backslashreplace")
    sys.stdout.write(text)
    sys.stdout.flush()
