"""The flags that measuring commands share, each with its environment variable, as types of parameters."""

from collections.abc import Iterable
from typing import Annotated

import typer

from collapse_cli.errors import BadPolicy

__all__ = [
    "All",
    "AllowPartial",
    "As",
    "Baseline",
    "Category",
    "Color",
    "Compare",
    "Config",
    "Detail",
    "Device",
    "Exclude",
    "ExecutorKind",
    "ExitZero",
    "FailOn",
    "Format",
    "Ignore",
    "IgnoreSites",
    "Include",
    "Intent",
    "Isolated",
    "Jobs",
    "Map",
    "MaxMemory",
    "NoBaseline",
    "NoPlugins",
    "Out",
    "Output",
    "ProgressFlag",
    "Quiet",
    "Record",
    "Rehash",
    "SarifAnchor",
    "Seed",
    "Select",
    "ShowSuppressed",
    "Sites",
    "SubjectId",
    "Timeout",
    "Verbose",
    "byte_count",
    "words",
]

List = list[str] | None
Select = Annotated[
    List,
    typer.Option(
        "--select", envvar="COLLAPSE_SELECT", metavar="LIST",
        help="Analyzers, families, globs, or all; comma-separated or repeated.",
    ),
]  # fmt: skip
Ignore = Annotated[
    List,
    typer.Option(
        "--ignore", envvar="COLLAPSE_IGNORE", metavar="LIST",
        help="The same, left out; wins over --select.",
    ),
]  # fmt: skip
Sites = Annotated[
    List,
    typer.Option("--sites", envvar="COLLAPSE_SITES", metavar="GLOB", help="Only tensors of these names."),
]
IgnoreSites = Annotated[
    List,
    typer.Option(
        "--ignore-sites", envvar="COLLAPSE_IGNORE_SITES", metavar="GLOB",
        help="No tensors of these names.",
    ),
]  # fmt: skip
Include = Annotated[
    List,
    typer.Option(
        "--include", envvar="COLLAPSE_INCLUDE", metavar="GLOB",
        help="Only these files of a folder.",
    ),
]  # fmt: skip
Exclude = Annotated[
    List,
    typer.Option(
        "--exclude", envvar="COLLAPSE_EXCLUDE", metavar="GLOB",
        help="Not these files of a folder; wins over --include.",
    ),
]  # fmt: skip
Map = Annotated[
    List,
    typer.Option(
        "--map", envvar="COLLAPSE_MAP", metavar="ROLE=NAME",
        help="The role of tensors (glob) or dump arrays with foreign names, e.g. codebook=vq.table, features=x.",
    ),
]  # fmt: skip
As = Annotated[
    str | None,
    typer.Option(
        "--as", envvar="COLLAPSE_AS", metavar="KIND",
        help="checkpoint or dump, where the content is not to decide.", show_default="by content",
    ),
]  # fmt: skip
Intent = Annotated[
    str | None,
    typer.Option(
        "--intent", envvar="COLLAPSE_INTENT", metavar="INTENT",
        help="classifier, representation, language-model or generative; without one, metrics that need it are "
        "reported and not judged.",
    ),
]  # fmt: skip
FailOn = Annotated[
    str,
    typer.Option(
        "--fail-on", envvar="COLLAPSE_FAIL_ON", metavar="SEVERITY",
        help="info, warning or error: findings from here on exit with 1.",
    ),
]  # fmt: skip
ExitZero = Annotated[
    bool,
    typer.Option("--exit-zero", envvar="COLLAPSE_EXIT_ZERO", help="Exit 0 instead of 1."),
]
AllowPartial = Annotated[
    bool,
    typer.Option(
        "--allow-partial", envvar="COLLAPSE_ALLOW_PARTIAL",
        help="A partial analysis does not exit with 2.",
    ),
]  # fmt: skip
Format = Annotated[
    str,
    typer.Option(
        "-f", "--format", envvar="COLLAPSE_FORMAT", metavar="FORMAT",
        help="What stdout carries: table, concise, json, jsonl, csv, md, sarif, github, gitlab, junit or card.",
    ),
]  # fmt: skip


def _separated(context: typer.Context, parameter: typer.CallbackParam, value: List) -> List:
    """A list that came from a variable is separated by commas; the parser splits at blanks, which paths may hold."""
    source = context.get_parameter_source(parameter.name or "")
    if value and source is not None and source.name == "ENVIRONMENT":
        return [word.strip() for word in " ".join(value).split(",") if word.strip()]
    return value


Output = Annotated[
    List,
    typer.Option(
        "-o", "--output", callback=_separated, envvar="COLLAPSE_OUTPUT", metavar="[FMT=]FILE",
        help="Also write a file, format by suffix unless named; repeatable.",
    ),
]  # fmt: skip
All = Annotated[
    bool,
    typer.Option("--all", envvar="COLLAPSE_ALL", help="The table shows every measurement."),
]
ShowSuppressed = Annotated[
    bool,
    typer.Option(
        "--show-suppressed", envvar="COLLAPSE_SHOW_SUPPRESSED",
        help="Accepted findings and those of the baseline are shown as well.",
    ),
]  # fmt: skip
Detail = Annotated[
    str | None,
    typer.Option(
        "--detail", envvar="COLLAPSE_DETAIL", metavar="TENSOR", show_default="none",
        help="The table shows all that is known of this tensor or hook point (a glob), its spectrum as a plot.",
    ),
]  # fmt: skip
SarifAnchor = Annotated[
    str | None,
    typer.Option(
        "--sarif-anchor", envvar="COLLAPSE_SARIF_ANCHOR", metavar="FILE", show_default="none",
        help="Text file of the repository that SARIF results are placed on, so that a pull request shows them.",
    ),
]  # fmt: skip
Category = Annotated[
    str,
    typer.Option(
        "--category", envvar="COLLAPSE_CATEGORY", metavar="NAME",
        help="Tells several SARIF uploads of one commit apart.",
    ),
]  # fmt: skip
Baseline = Annotated[
    str | None,
    typer.Option(
        "--baseline", envvar="COLLAPSE_BASELINE", metavar="FILE", show_default="none",
        help="Findings that are known and do not count unless they get worse; see `collapse baseline`.",
    ),
]  # fmt: skip
NoBaseline = Annotated[
    bool,
    typer.Option("--no-baseline", envvar="COLLAPSE_NO_BASELINE", help="Every finding counts; wins over --baseline."),
]
Compare = Annotated[
    str | None,
    typer.Option(
        "--compare", envvar="COLLAPSE_COMPARE", metavar="OLD.json", show_default="none",
        help="Report of the last release: what got worse since then is a finding.",
    ),
]  # fmt: skip
Config = Annotated[
    str | None,
    typer.Option(
        "--config", envvar="COLLAPSE_CONFIG", metavar="FILE", show_default="nearest",
        help="This configuration, not the nearest collapse.toml or pyproject.toml upwards from here.",
    ),
]  # fmt: skip
Isolated = Annotated[
    bool,
    typer.Option("--isolated", envvar="COLLAPSE_ISOLATED", help="No configuration file at all."),
]
Quiet = Annotated[
    bool,
    typer.Option("-q", "--quiet", envvar="COLLAPSE_QUIET", help="Findings and errors only; no progress."),
]
Verbose = Annotated[
    int,
    typer.Option(
        "-v", "--verbose", count=True, envvar="COLLAPSE_VERBOSITY",
        help="-v timings, -vv the debug log.",
    ),
]  # fmt: skip
Color = Annotated[
    str,
    typer.Option("--color", envvar="COLLAPSE_COLOR", metavar="WHEN", help="auto, always or never."),
]
ProgressFlag = Annotated[
    bool | None,
    typer.Option(
        "--progress/--no-progress", envvar="COLLAPSE_PROGRESS", help="On stderr.",
        show_default="on a terminal",
    ),
]  # fmt: skip
SubjectId = Annotated[
    str | None,
    typer.Option(
        "--subject-id", envvar="COLLAPSE_SUBJECT_ID", metavar="ID",
        help="The subject's name in the report, instead of its path.",
    ),
]  # fmt: skip
Device = Annotated[
    str,
    typer.Option("--device", envvar="COLLAPSE_DEVICE", metavar="DEVICE", help="auto, cpu or cuda[:N]."),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        "--max-memory", envvar="COLLAPSE_MAX_MEMORY", metavar="BYTES",
        help="Most bytes of tensors held at once for one block, e.g. 4GiB.", show_default="1GiB or two tensors",
    ),
]  # fmt: skip
Timeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", envvar="COLLAPSE_TIMEOUT", metavar="SECONDS", min=0.0,
        help="Most seconds for one subject; what was not reached is stated.", show_default="none",
    ),
]  # fmt: skip
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", envvar="COLLAPSE_JOBS", metavar="N", min=1,
        help="Subjects measured at once, each in a process of its own.", show_default="processors; 1 on a GPU",
    ),
]  # fmt: skip
Out = Annotated[
    str,
    typer.Option("--out", envvar="COLLAPSE_OUT", metavar="DIR", help="The folder of the reports and the summary."),
]
Rehash = Annotated[
    bool,
    typer.Option(
        "--rehash", envvar="COLLAPSE_REHASH",
        help="Compute the digest of every file again, whatever its size and time of change say.",
    ),
]  # fmt: skip
ExecutorKind = Annotated[
    str,
    typer.Option(
        "--executor", envvar="COLLAPSE_EXECUTOR", metavar="KIND",
        help="process: workers on this machine; ray: tasks on a Ray cluster (RAY_ADDRESS, else one of this machine).",
    ),
]  # fmt: skip
Record = Annotated[
    bool,
    typer.Option(
        "--record", envvar="COLLAPSE_RECORD",
        help="Keep the report in the history, see `collapse history`.",
    ),
]  # fmt: skip
Seed = Annotated[int, typer.Option("--seed", envvar="COLLAPSE_SEED", help="Recorded.")]
NoPlugins = Annotated[
    bool,
    typer.Option("--no-plugins", envvar="COLLAPSE_NO_PLUGINS", help="No third-party analyzers."),
]


def words(given: Iterable[str] | None) -> tuple[str, ...]:
    """The words of a list flag: repeated or comma-separated, blanks dropped."""
    return tuple(word.strip() for item in given or () for word in item.split(",") if word.strip())


def byte_count(text: str | None) -> int | None:
    """`4GiB`, `500MB`, `2e9` or a plain number as bytes.

    Raises:
        BadPolicy: it is none of these.
    """
    if text is None:
        return None
    word = text.strip().upper().removesuffix("B")
    base = 1024 if word.endswith("I") else 1000
    word = word.removesuffix("I")
    unit = word[-1:] if word[-1:] in ("K", "M", "G", "T") else ""
    try:
        number = float(word.removesuffix(unit) if unit else word)
        count = int(number * base ** ["", "K", "M", "G", "T"].index(unit))
    except (ValueError, OverflowError) as error:
        raise BadPolicy(f'--max-memory "{text}"', expected="should be a size such as 4GiB or 500MB") from error
    if count <= 0:
        raise BadPolicy(f'--max-memory "{text}"', expected="should be more than 0")
    return count
