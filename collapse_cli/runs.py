"""Source → engine → judge → report: what the commands and the Python API call."""

import platform
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

from collapse_cli._version import __version__
from collapse_cli.analyzer import CHECKPOINT_VIEWS, DUMP_VIEWS, Analyzer
from collapse_cli.analyzers import Catalogue, catalogue, find
from collapse_cli.core.contents import Contents
from collapse_cli.core.manual import Manual
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import (
    SCHEMA_VERSION,
    Coverage,
    Failure,
    PolicyRecord,
    Provenance,
    Report,
    Status,
    Subject,
    Tool,
)
from collapse_cli.core.roles import join_name
from collapse_cli.core.site import Role, Site
from collapse_cli.decision import REMARK, Measured, decide
from collapse_cli.errors import InputError
from collapse_cli.judge import judge
from collapse_cli.sources import open_checkpoint
from collapse_cli.sources.digest import digest
from collapse_cli.sources.dump import is_dump, open_dump
from collapse_cli.sources.effective import plan
from collapse_cli.sources.folder import subjects

if TYPE_CHECKING:
    import os

    from collapse_cli.engine import Analysis, Options, Progress
    from collapse_cli.sources.base import Checkpoint
    from collapse_cli.sources.dump import Dump

__all__ = [
    "Assembly",
    "Observer",
    "ScanOptions",
    "assembled",
    "contents",
    "engine_options",
    "measured",
    "one_id_for_many",
    "resolved_device",
    "scan",
    "status_of",
    "subject_id",
    "subject_paths",
]


@final
@dataclass(frozen=True, slots=True)
class ScanOptions:
    """How to measure; what the numbers mean for a verdict is the `Policy`'s.

    `sites`, `ignore_sites`, `include` and `exclude` are globs over tensors and over files of a folder; `roles` names
    the role of tensors the naming table does not know, `arrays` the array that has a role in a dump; `kind` says what
    the paths hold where their content is not to decide; `max_memory` bounds the bytes of one block, `timeout` the
    seconds of one subject, `threads` what is done side by side (default: the processors); `base` is the folder that
    subject ids are relative to (default: the working directory).
    """

    device: str = "auto"
    seed: int = 0
    sites: tuple[str, ...] = ()
    ignore_sites: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    roles: Mapping[str, Role] = field(default_factory=dict)
    arrays: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["checkpoint", "dump"] | None = None
    max_memory: int | None = None
    timeout: float | None = None
    threads: int | None = None
    plugins: bool = True
    base: Path | None = None
    subject_id: str | None = None
    command: tuple[str, ...] = ()

    @property
    def settings(self) -> tuple[str, ...]:
        """What the numbers depend on besides analyzers, intent and seed, as a report records it."""
        maps = sorted((f"{role.value}={name}" for name, role in self.roles.items()))
        maps += sorted(f"{role}={name}" for role, name in self.arrays.items() if f"{role}={name}" not in maps)
        said = {"as": self.kind, "max-memory": self.max_memory, "timeout": self.timeout}
        return (
            *(f"sites={glob}" for glob in sorted(self.sites)),
            *(f"ignore-sites={glob}" for glob in sorted(self.ignore_sites)),
            *(f"map={word}" for word in maps),
            *(f"{name}={value}" for name, value in said.items() if value is not None),
        )


@final
@dataclass(frozen=True, slots=True)
class Observer:
    """Who is told how far a scan is: when a subject begins, its files, after each tensor, and when it is done."""

    begins: Callable[[str], None] = lambda _subject: None
    opens: Callable[[Iterable[str | Path]], None] = lambda _files: None
    advances: Callable[["Progress"], None] = lambda _progress: None
    ends: Callable[[Subject], None] = lambda _subject: None
    notices: Callable[[str], None] = lambda _text: None
    warnings: Callable[[str], None] = lambda _text: None
    timings: Callable[[str, Mapping[str, float]], None] = lambda _subject, _seconds: None


def scan(
    paths: "Iterable[str | os.PathLike[str]]",
    policy: Policy = Policy(),
    options: ScanOptions = ScanOptions(),
    observer: Observer = Observer(),
) -> Report:
    """Measure and judge checkpoints, or every subject of a folder.

    A subject that cannot be read becomes a failed subject of the report; the others go on.

    Raises:
        UnknownAnalyzer: the policy selects what does not exist.
        InputError: the device does not exist, or one subject id is given for several subjects.
    """
    run = assembled(policy, options, views=CHECKPOINT_VIEWS | DUMP_VIEWS)
    every = [
        one for path in paths for one in subject_paths(Path(path), include=options.include, exclude=options.exclude)
    ]
    if options.subject_id and len(every) > 1:
        raise one_id_for_many(f"{len(every):,} subjects")
    found: list[Subject] = []
    notices: list[str] = []
    for subject_path in every:
        identity = options.subject_id or subject_id(subject_path, options.base)
        observer.begins(identity)
        subject, remarks = measured(subject_path, identity, run.analyzers, run.options, observer)
        subject = judge(subject, run.manuals, policy)
        notices += [f"{identity}: {remark}" for remark in remarks]
        observer.ends(subject)
        found.append(subject)
    return run.report(found, policy, observer, notices=notices)


@final
@dataclass(frozen=True, slots=True)
class Assembly:
    """What a run works with: the analyzers selected, the options with the device chosen, and when it began."""

    analyzers: tuple[Analyzer, ...]
    available: Catalogue
    options: ScanOptions
    started: datetime
    clock: float

    @property
    def manuals(self) -> tuple[Manual, ...]:
        """Those of the analyzers."""
        return tuple(analyzer.manual for analyzer in self.analyzers)

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the analyzers."""
        return tuple(analyzer.name for analyzer in self.analyzers)

    def report(
        self, subjects: Sequence[Subject], policy: Policy, observer: Observer, *, notices: Sequence[str] = ()
    ) -> Report:
        """The report over measured subjects: judged, with what the policy accepts and the baseline knows suppressed."""
        said = [*notices, *(f"plugin {name} failed to load: {why}" for name, why in self.available.broken.items())]
        for notice in said:
            observer.notices(notice)
        decided = decide([Measured(tuple(subjects), self.manuals, self.names)], policy)
        for remark in decided.remarks:
            observer.warnings(remark)
        provenance = Provenance(
            started=self.started.strftime("%Y-%m-%dT%H:%M:%SZ"),
            seconds=round(time.monotonic() - self.clock, 3),
            command=self.options.command,
            python=platform.python_version(),
            torch=_torch_version(),
            device=self.options.device,
            seed=self.options.seed,
            intent=policy.intent,
            analyzers=self.names,
            policy=PolicyRecord(policy.file, policy.digest),
            plugins=self.available.plugins,
            notices=(*said, *(REMARK + remark for remark in decided.remarks)),
            settings=self.options.settings,
        )
        return Report(
            SCHEMA_VERSION,
            Tool("collapse", __version__),
            provenance,
            self.manuals,
            decided.subjects,
            decided.verdict,
            decided.exit_code,
        )


def assembled(policy: Policy, options: ScanOptions, *, views: frozenset[str]) -> Assembly:
    """The selected analyzers that are handed one of `views`, and the device, at the beginning of a run.

    Raises:
        UnknownAnalyzer: the policy selects what does not exist.
        InputError: the device does not exist.
    """
    started, clock = datetime.now(UTC), time.monotonic()
    available = catalogue(plugins=options.plugins)
    selected = find(available, select=policy.select, ignore=policy.ignore)
    chosen = tuple(analyzer for analyzer in selected if views & {analyzer.view, *analyzer.also})
    return Assembly(chosen, available, replace(options, device=resolved_device(options.device)), started, clock)


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


def resolved_device(name: str) -> str:
    """`auto` is the first CUDA device where there is one, else the CPU.

    Raises:
        InputError: not a device, or one this machine does not have.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(
            f'--device "{name}"', expected="should be auto, cpu or cuda[:N]", hint="`collapse doctor` lists the devices"
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f'--device "{name}"', expected="should be auto, cpu or cuda[:N]")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f'--device "{name}"',
            expected="should be a device of this machine",
            got=f"it has {torch.cuda.device_count()} CUDA devices",
            hint="--device cpu, or `collapse doctor`",
        )
    return name


def subject_id(path: Path, base: Path | None = None) -> str:
    """The path relative to the base, `/`-separated; an absolute one where it lies outside."""
    base = (base or Path.cwd()).resolve()
    absolute = path if path.is_absolute() else Path.cwd() / path
    try:
        return absolute.resolve().relative_to(base).as_posix()
    except (ValueError, RuntimeError):
        # RuntimeError: a link that leads to itself, before Python 3.13
        return path.as_posix()


def one_id_for_many(given: str) -> InputError:
    """What is wrong when one id would name several subjects: findings are told apart by it."""
    return InputError("--subject-id names one subject", got=f"{given} are given", hint="leave it out, or give one")


def subject_paths(path: Path, *, include: Sequence[str] = (), exclude: Sequence[str] = ()) -> list[Path]:
    """The subjects of a path: the path itself, or of a folder those that the globs want; `exclude` wins."""
    if not path.is_dir():
        return [path]

    def matches(found: Path, patterns: Sequence[str]) -> bool:
        name = found.relative_to(path).as_posix()
        return any(fnmatchcase(name, pattern) or fnmatchcase(found.name, pattern) for pattern in patterns)

    return [
        found for found in subjects(path) if not matches(found, exclude) and (not include or matches(found, include))
    ]


def contents(path: Path, *, roles: Mapping[str, Role] | None = None) -> Contents:
    """What headers say is in a checkpoint or a dump: its tensors with layer and role, its arrays by hook point.

    No number is read, and torch is not imported.

    Raises:
        InputError: it is neither.
    """
    if is_dump(path):
        return _dump_contents(path)
    checkpoint = open_checkpoint(path)
    try:
        planned = plan(checkpoint, roles=roles)
        lost = (*checkpoint.unreadable, *planned.skips)
        return Contents(
            subject_id(path),
            path.as_posix(),
            checkpoint.format,
            checkpoint.nbytes,
            planned.sites,
            lost,
            checkpoint.notices,
        )
    finally:
        checkpoint.close()


def _dump_contents(path: Path) -> Contents:
    dump = open_dump(path)
    try:
        layers = {point.name: point.layer for point in dump.points}
        sites = tuple(
            Site(
                join_name(array.site, array.role.name),
                tuple(array.shape),
                array.dtype,
                layers.get(array.site),
                Role.ACTIVATION,
            )
            for array in dump.arrays
        )
        return Contents(
            subject_id(path), path.as_posix(), dump.format, dump.nbytes, sites, dump.unreadable, dump.notices
        )
    finally:
        dump.close()


def measured(
    path: Path, identity: str, analyzers: Sequence[Analyzer], options: ScanOptions, observer: Observer
) -> tuple[Subject, tuple[str, ...]]:
    """One subject measured, not judged, and what is worth a notice."""
    if options.kind == "dump" or (options.kind is None and is_dump(path)):
        return _scan_dump(path, identity, analyzers, options, observer)
    try:
        checkpoint = open_checkpoint(path)
    except InputError as error:
        return _failed(path, identity, error), ()
    observer.opens(checkpoint.files)
    try:
        analysis, digested = _analysed(checkpoint, analyzers, options, observer)
    except InputError as error:
        return _failed(path, identity, error), ()
    finally:
        checkpoint.close()
    observer.timings(identity, analysis.seconds)
    return _subject(checkpoint, path, identity, analysis, digested), (*checkpoint.notices, *analysis.notices)


def _analysed(
    checkpoint: "Checkpoint", analyzers: Sequence[Analyzer], options: ScanOptions, observer: Observer
) -> "tuple[Analysis, str | None]":
    from collapse_cli.engine import analyse

    of_weights = [analyzer for analyzer in analyzers if CHECKPOINT_VIEWS & {analyzer.view, *analyzer.also}]
    analysis = analyse(checkpoint, of_weights, engine_options(options), progress=observer.advances)
    # a file of which nothing was read is named by nothing: its digest would read it all
    return analysis, digest(checkpoint.files) if analysis.coverage.read else None


def engine_options(options: ScanOptions) -> "Options":
    """What of the options concerns an engine."""
    from collapse_cli.engine import Options

    return Options(
        device=options.device,
        seed=options.seed,
        sites=options.sites,
        ignore_sites=options.ignore_sites,
        roles=options.roles,
        max_memory=options.max_memory,
        timeout=options.timeout,
        threads=options.threads,
    )


def _scan_dump(
    path: Path, identity: str, analyzers: Sequence[Analyzer], options: ScanOptions, observer: Observer
) -> tuple[Subject, tuple[str, ...]]:
    from collapse_cli.engine.dump import analyse_dump

    of_dumps = [analyzer for analyzer in analyzers if DUMP_VIEWS & {analyzer.view, *analyzer.also}]
    try:
        dump = open_dump(path, roles=options.arrays, as_dump=options.kind == "dump")
    except InputError as error:
        return _failed(path, identity, error, kind="dump"), ()
    observer.opens(dump.files)
    try:
        analysis = analyse_dump(dump, of_dumps, engine_options(options), progress=observer.advances)
        digested = digest(dump.files) if analysis.coverage.read else None
    except InputError as error:
        return _failed(path, identity, error, kind="dump"), ()
    finally:
        dump.close()
    observer.timings(identity, analysis.seconds)
    return _subject(dump, path, identity, analysis, digested, kind="dump"), (*dump.notices, *analysis.notices)


def _failed(
    path: Path, identity: str, error: InputError, *, kind: Literal["checkpoint", "dump"] = "checkpoint"
) -> Subject:
    message = f"{error}; {error.hint}" if error.hint else str(error)
    size = path.stat().st_size if path.is_file() else 0
    return Subject(
        id=identity,
        path=path.as_posix(),
        kind=kind,
        format="unknown",
        digest=None,
        bytes=size,
        status="failed",
        coverage=Coverage(0, 0, 0),
        failures=(Failure(None, None, type(error).__name__, message),),
    )


def _subject(
    source: "Checkpoint | Dump",
    path: Path,
    identity: str,
    analysis: "Analysis",
    digested: str | None,
    *,
    kind: Literal["checkpoint", "dump"] = "checkpoint",
) -> Subject:
    return Subject(
        id=identity,
        path=path.as_posix(),
        kind=kind,
        format=source.format,
        digest=digested,
        bytes=source.nbytes,
        status=status_of(analysis),
        coverage=analysis.coverage,
        sites=analysis.sites,
        measurements=analysis.measurements,
        skips=analysis.skips,
        failures=analysis.failures,
    )


def status_of(analysis: "Analysis") -> Status:
    """How far a subject was measured: partial where something failed or could not be read."""
    is_partial = bool(analysis.failures) or any(skip.analyzer is None for skip in analysis.skips)
    # read and measured by nobody is no clean subject either
    if not analysis.measurements and not (is_partial and analysis.coverage.wanted):
        return "empty"
    return "partial" if is_partial else "complete"
