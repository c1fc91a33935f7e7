"""Pairs, pools and runs: what `diff` and `trend` call. Sites are matched by name, rows by position and id."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

from collapse_cli.analyzer import CHECKPOINT_VIEWS, DUMP_VIEWS, Analyzer
from collapse_cli.analyzers import catalogue, find
from collapse_cli.core.manual import Manual
from collapse_cli.core.order import natural_order
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import Coverage, Failure, Part, Report, Subject
from collapse_cli.errors import InputError
from collapse_cli.history import members as past_members
from collapse_cli.runs import (
    Observer,
    ScanOptions,
    assembled,
    engine_options,
    measured,
    one_id_for_many,
    status_of,
    subject_id,
    subject_paths,
)
from collapse_cli.sources import open_checkpoint
from collapse_cli.sources.digest import digest
from collapse_cli.sources.dump import is_dump, open_dump
from collapse_cli.stored import batch_reports, is_report, read_report

if TYPE_CHECKING:
    import os

    from collapse_cli.engine.options import Analysis
    from collapse_cli.sources.base import Checkpoint
    from collapse_cli.sources.dump import Dump

__all__ = ["diff", "trend"]

#: What analyzers of pairs and pools are handed, and those of runs.
PAIR_VIEWS = frozenset({"pair", "pool", "activation_pair", "activation_series"})
RUN_VIEWS = frozenset({"series", "activation_series", "run"})
#: What begins so is a glob over the subjects of the history, in the order of their runs.
HISTORY = "history:"
_NUMBER = re.compile(r"\d+")


@final
@dataclass(frozen=True, slots=True)
class _Member:
    """One checkpoint, dump or stored subject of a comparison."""

    path: Path
    id: str
    kind: Literal["checkpoint", "dump", "report"]
    subject: Subject | None = None
    manuals: tuple[Manual, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


# --- two or more, unordered ------------------------------------------------------------------------------------------


def diff(
    old: "str | os.PathLike[str]",
    new: "Iterable[str | os.PathLike[str]]",
    policy: Policy = Policy(),
    options: ScanOptions = ScanOptions(),
    observer: Observer = Observer(),
) -> Report:
    """What changed from OLD to each NEW; several NEW are besides a pool of descendants of OLD.

    Raises:
        InputError: there is no NEW, or some are checkpoints and others dumps.
        UnknownAnalyzer: the policy selects what does not exist.
    """
    begun = assembled(policy, options, views=PAIR_VIEWS)
    members = [_member(Path(path), options) for path in (old, *new)]
    if len(members) < 2:
        raise InputError("diff compares OLD with at least one NEW", got="only OLD is given")
    if options.subject_id and len(members) > 2:
        raise one_id_for_many(f"{len(members) - 1:,} NEW")
    _check_one_kind(members)
    base, *others = members
    subjects, notices = [], list[str]()
    for other in others:
        subject, said = _compared((base, other), "pair", begun.analyzers, begun.options, observer)
        subjects.append(subject)
        notices += said
    if len(others) > 1 and base.kind == "checkpoint":
        subject, said = _compared(tuple(members), "pool", begun.analyzers, begun.options, observer)
        subjects.append(subject)
        notices += said
    return begun.report(subjects, policy, observer, notices=notices)


def _compared(
    members: tuple[_Member, ...],
    kind: Literal["pair", "pool", "series"],
    analyzers: Sequence[Analyzer],
    options: ScanOptions,
    observer: Observer,
    steps: tuple[float, ...] = (),
) -> tuple[Subject, tuple[str, ...]]:
    """One pair, pool or run of checkpoints or dumps, measured and not judged."""
    identity = options.subject_id or _identity(members, kind)
    observer.begins(identity)
    with ExitStack() as stack:
        try:
            if members[0].kind == "dump":
                sources: Sequence[Checkpoint | Dump] = [_opened_dump(one, options, stack) for one in members]
                analysis = _of_dumps(sources, members, kind, analyzers, options, observer, steps)  # type: ignore[arg-type]
            else:
                sources = [_opened(one, stack) for one in members]
                analysis = _of_checkpoints(sources, members, kind, analyzers, options, observer, steps)  # type: ignore[arg-type]
            digests = [digest(source.files) if analysis.coverage.read else None for source in sources]
        except InputError as error:
            subject = _failed(members, identity, kind, error)
            observer.ends(subject)
            return subject, ()
    observer.timings(identity, analysis.seconds)
    subject = Subject(
        id=identity,
        path=members[-1].path.as_posix(),
        kind="run" if kind == "series" else "pair",
        format=sources[-1].format,
        digest=None,
        bytes=sum(source.nbytes for source in sources),
        status=status_of(analysis),
        coverage=analysis.coverage,
        sites=analysis.sites,
        measurements=analysis.measurements,
        skips=analysis.skips,
        failures=analysis.failures,
        parts=tuple(
            Part(one.id, one.path.as_posix(), digested) for one, digested in zip(members, digests, strict=True)
        ),
    )
    remarks = [remark for source in sources for remark in source.notices]
    return subject, tuple(dict.fromkeys(f"{identity}: {remark}" for remark in (*remarks, *analysis.notices)))


def _identity(members: Sequence[_Member], kind: str) -> str:
    if kind == "pool":
        return f"{members[0].id}..{{{','.join(one.id for one in members[1:])}}}"
    return f"{members[0].id}..{members[-1].id}"


def _of_checkpoints(
    sources: "Sequence[Checkpoint]",
    members: Sequence[_Member],
    kind: Literal["pair", "pool", "series"],
    analyzers: Sequence[Analyzer],
    options: ScanOptions,
    observer: Observer,
    steps: tuple[float, ...],
) -> "Analysis":
    from collapse_cli.engine.comparison import Lineup, analyse_together

    lineup = Lineup(kind, tuple(sources), tuple(one.id for one in members), steps)
    return analyse_together(lineup, analyzers, engine_options(options), progress=observer.advances)


def _of_dumps(
    sources: "Sequence[Dump]",
    members: Sequence[_Member],
    kind: Literal["pair", "pool", "series"],
    analyzers: Sequence[Analyzer],
    options: ScanOptions,
    observer: Observer,
    steps: tuple[float, ...],
) -> "Analysis":
    from collapse_cli.engine.dump import analyse_dump
    from collapse_cli.engine.dump_series import analyse_dump_series
    from collapse_cli.sources.paired import paired_dump

    how, labels = engine_options(options), tuple(one.id for one in members)
    if kind == "series":
        return analyse_dump_series(sources, analyzers, how, labels=labels, steps=steps, progress=observer.advances)
    paired = paired_dump(sources[0], sources[1], (labels[0], labels[1]))
    return analyse_dump(paired, analyzers, how, progress=observer.advances)


def _opened(member: _Member, stack: ExitStack) -> "Checkpoint":
    checkpoint = open_checkpoint(member.path)
    stack.callback(checkpoint.close)
    return checkpoint


def _opened_dump(member: _Member, options: ScanOptions, stack: ExitStack) -> "Dump":
    dump = open_dump(member.path, roles=options.arrays, as_dump=options.kind == "dump")
    stack.callback(dump.close)
    return dump


def _failed(members: Sequence[_Member], identity: str, kind: str, error: InputError) -> Subject:
    message = f"{error}; {error.hint}" if error.hint else str(error)
    return Subject(
        id=identity,
        path=members[-1].path.as_posix(),
        kind="run" if kind == "series" else "pair",
        format="unknown",
        digest=None,
        bytes=0,
        status="failed",
        coverage=Coverage(0, 0, 0),
        failures=(Failure(None, None, type(error).__name__, message),),
        parts=tuple(Part(one.id, one.path.as_posix(), None) for one in members),
    )


def _member(path: Path, options: ScanOptions) -> _Member:
    identity = subject_id(path, options.base)
    is_of_rows = options.kind == "dump" or (options.kind is None and is_dump(path))
    return _Member(path, identity, "dump" if is_of_rows else "checkpoint")


def _check_one_kind(members: Sequence[_Member]) -> None:
    kinds = {member.kind for member in members}
    if len(kinds) > 1:
        for member in members:
            _check_is_there(member.path)
        said = ", ".join(f"{member.id} is a {member.kind}" for member in members[:4])
        hint = "compare like with like; --as checkpoint or --as dump where one is taken for what it is not"
        raise InputError("all that is compared should be of one kind", got=said, hint=hint)


def _check_is_there(path: Path) -> None:
    if not path.exists() and not str(path).startswith(HISTORY):
        raise InputError(f"cannot read {path}", got="there is no such file or folder", hint="check the path")


# --- an ordered run --------------------------------------------------------------------------------------------------


def trend(
    paths: "Iterable[str | os.PathLike[str]]",
    policy: Policy = Policy(),
    options: ScanOptions = ScanOptions(),
    observer: Observer = Observer(),
) -> Report:
    """What an ordered run of checkpoints, dumps or stored reports says; reports are not measured again.

    A folder gives its subjects in natural order. Members are ordered by `step` or `generation` where all have one.

    Raises:
        InputError: fewer than two members, or members of several kinds.
        UnknownAnalyzer: the policy selects what does not exist.
    """
    begun = assembled(policy, options, views=RUN_VIEWS)
    members = [member for path in paths for member in _run_members(Path(path), options)]
    if len(members) < 2:
        raise InputError(
            "a trend needs at least 2 members in order",
            got=f"{len(members)} given",
            hint="collapse trend ckpt-100 ckpt-200 …, or a folder of checkpoints, dumps or reports",
        )
    _check_one_kind(members)
    members, steps, notices = _in_order([_with_metadata(member, options) for member in members])
    measuring = find(catalogue(plugins=options.plugins), select=(), ignore=policy.ignore)
    wants_reports = any(analyzer.view == "run" for analyzer in begun.analyzers)
    scanned = (
        [_scanned(member, measuring, begun.options, observer) for member in members]
        if wants_reports and members[0].kind != "report"
        else [member.subject for member in members if member.subject is not None]
    )
    manuals = _manuals(members, measuring)
    if members[0].kind == "report":
        subject = _of_reports(members)
    else:
        subject, said = _compared(tuple(members), "series", begun.analyzers, begun.options, observer, steps)
        notices += said
    if scanned and subject.status != "failed":
        subject = _with_run(subject, scanned, members, manuals, begun.analyzers, options=begun.options, steps=steps)
    return begun.report([subject], policy, observer, notices=notices)


def _run_members(path: Path, options: ScanOptions) -> list[_Member]:
    if str(path).startswith(HISTORY):
        past = past_members(str(path).removeprefix(HISTORY))
        return [_Member(path, subject.id, "report", subject, manuals) for subject, manuals in past]
    if path.is_file() and is_report(path):
        stored = read_report(path)
        return [_Member(path, subject.id, "report", subject, stored.manuals) for subject in stored.subjects]
    if path.is_dir() and not is_dump(path):
        reports = sorted(batch_reports(path) or path.glob("*.json"), key=natural_order)
        found = [member for one in reports if is_report(one) for member in _run_members(one, options)]
        if found:
            return found
    _check_is_there(path)
    return [_member(found, options) for found in subject_paths(path, include=options.include, exclude=options.exclude)]


def _in_order(members: list[_Member]) -> tuple[list[_Member], tuple[float, ...], list[str]]:
    """Members by step, the steps, and what is to be said about their order."""
    steps = [_step(member) for member in members]
    places = tuple(float(place) for place in range(len(members)))
    if any(step is None for step in steps):
        steps = _numbers_in_names(members)
    if any(step is None for step in steps):
        return members, places, ["the members carry no step: order and distance are those in which they were given"]
    known = [step for step in steps if step is not None]
    if len(set(known)) < len(known):
        return members, places, ["several members have the same step: order and distance are those given"]
    order = sorted(range(len(members)), key=lambda place: known[place])
    said = ["the members were put in the order of their steps"] if order != list(range(len(members))) else []
    return [members[place] for place in order], tuple(known[place] for place in order), said


def _numbers_in_names(members: Sequence[_Member]) -> list[float | None]:
    """The last number of each name, where the names differ in nothing else: ckpt-100, ckpt-200."""
    shapes = {_NUMBER.sub("#", member.id) for member in members}
    if len(shapes) > 1:
        return [None] * len(members)
    found = [_NUMBER.findall(member.id) for member in members]
    differing = [place for place in range(len(found[0])) if len({numbers[place] for numbers in found}) > 1]
    return [float(numbers[differing[0]]) for numbers in found] if len(differing) == 1 else [None] * len(members)


def _with_metadata(member: _Member, options: ScanOptions) -> _Member:
    """The member with what its file says of itself; a report says nothing, and neither does what cannot be opened."""
    if member.kind == "report":
        return member
    try:
        with ExitStack() as stack:
            source: Checkpoint | Dump = (
                _opened_dump(member, options, stack) if member.kind == "dump" else _opened(member, stack)
            )
            return replace(member, metadata=dict(source.metadata))
    except InputError:
        return member


def _step(member: _Member) -> float | None:
    """What the metadata of a member says of its place in the run."""
    said = next((member.metadata[key] for key in ("step", "generation") if key in member.metadata), None)
    try:
        step = None if said is None else float(said)
    except ValueError:
        return None
    return step if step is not None and math.isfinite(step) else None


def _scanned(member: _Member, analyzers: Sequence[Analyzer], options: ScanOptions, observer: Observer) -> Subject:
    views = DUMP_VIEWS if member.kind == "dump" else CHECKPOINT_VIEWS
    observer.begins(member.id)
    subject, _said = measured(
        member.path, member.id, [one for one in analyzers if views & {one.view, *one.also}], options, observer
    )
    observer.ends(subject)
    return subject


def _manuals(members: Sequence[_Member], measuring: Sequence[Analyzer]) -> tuple[Manual, ...]:
    """The manuals of what the members were measured with: their own, or those of this version."""
    stored = {manual.name: manual for member in members for manual in member.manuals}
    return tuple(({analyzer.name: analyzer.manual for analyzer in measuring} | stored).values())


def _of_reports(members: Sequence[_Member]) -> Subject:
    """The subject of a run whose members are known by their reports alone."""
    parts = [
        Part(one.id, one.path.as_posix(), one.subject.digest if one.subject is not None else None) for one in members
    ]
    return Subject(
        id=_identity(members, "series"),
        path=members[-1].path.as_posix(),
        kind="run",
        format="report",
        digest=None,
        bytes=0,
        status="complete",
        coverage=Coverage(len(members), len(members), len(members)),
        parts=tuple(parts),
    )


def _with_run(
    subject: Subject,
    scanned: Sequence[Subject],
    members: Sequence[_Member],
    manuals: Sequence[Manual],
    analyzers: Sequence[Analyzer],
    *,
    options: ScanOptions,
    steps: tuple[float, ...],
) -> Subject:
    """The subject with what the reports of its members say together."""
    from collapse_cli.engine.run import analyse_run

    metadata = tuple(member.metadata for member in members)
    analysis = analyse_run(scanned, manuals, analyzers, engine_options(options), steps=steps, metadata=metadata)
    known = {site.name for site in subject.sites}
    joined = replace(
        subject,
        sites=(*subject.sites, *(site for site in analysis.sites if site.name not in known)),
        measurements=(*subject.measurements, *analysis.measurements),
        skips=(*subject.skips, *analysis.skips),
        failures=(*subject.failures, *analysis.failures),
    )
    if joined.status == "empty" and joined.measurements:
        return replace(joined, status="complete")
    return joined
