"""The files of a dump: which there are, in which order, and how far each of them is whole."""

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, final

from collapse_cli.core.order import natural_order
from collapse_cli.core.roles import INDEX_NAME, ROLES, SYNONYMS, split_name
from collapse_cli.errors import UnreadableCheckpoint, UnreadableDump
from collapse_cli.sources.base import Checkpoint
from collapse_cli.sources.bytes import kind_of, open_local
from collapse_cli.sources.configuration import weight_files
from collapse_cli.sources.dtypes import BITS
from collapse_cli.sources.quoting import quoted
from collapse_cli.sources.safetensors_header import Entry, header_end, parse_entries
from collapse_cli.sources.signatures import format_of

__all__ = ["Opened", "Shard", "ShardList", "dump_files", "entries_of", "is_dump_folder", "shards_of"]

#: Files of a dump that are open at once; the usual limit of a process is 1,024.
_MOST_OPEN = 64
#: An index takes some 100 bytes per array and shard.
_LONGEST_INDEX = 100_000_000


@final
@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a dump.

    `names` says what its arrays are called in the dump, `rows` how many the index promises of each.
    """

    label: str
    open: Callable[[], Checkpoint]
    names: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, int] | None = None


@final
@dataclass(frozen=True, slots=True)
class ShardList:
    """The files of a dump in order, and what its index says beside them."""

    shards: tuple[Shard, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


@final
class Opened:
    """The shards of a dump, each opened when it is read and let go when many others were read since; for any thread."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards
        self._open: OrderedDict[int, Checkpoint] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, position: int) -> Checkpoint:
        with self._lock:
            checkpoint = self._open.pop(position, None) or self._shards[position].open()
            self._open[position] = checkpoint
            while len(self._open) > _MOST_OPEN:
                # not closed: another thread may read it; its file closes with the last reference
                self._open.popitem(last=False)
            return checkpoint

    def close(self) -> None:
        """Release the files."""
        with self._lock:
            for checkpoint in self._open.values():
                checkpoint.close()
            self._open.clear()


def is_dump_folder(path: Path) -> bool:
    """Whether a path is a folder that an index makes one dump, or that index."""
    return kind_of(path / INDEX_NAME) == "file" or (path.name == INDEX_NAME and kind_of(path) == "file")


def dump_files(path: Path, *, as_dump: bool) -> ShardList:
    """The files of the dump at a path, in the order of its index, or by name in natural order.

    Raises:
        UnreadableDump: the index is damaged or names what is not there; a folder has no index and is not said to be one
            dump.
        UnreadableCheckpoint: there is no such path.
    """
    if kind_of(path) != "folder" and path.name != INDEX_NAME:
        return ShardList((_shard(path, path.name),))
    if is_dump_folder(path):
        return _indexed(path.parent if path.name == INDEX_NAME else path)
    files = sorted(weight_files(path), key=natural_order)
    if not files:
        raise UnreadableDump("the folder holds no arrays", where=str(path), hint="check the path")
    if not as_dump:
        raise UnreadableDump(
            f"the folder holds {len(files):,} files and no {INDEX_NAME}",
            where=str(path),
            hint=f"collapse scan --as dump {path} reads its files as one dump, in the order of their names; if a "
            "capture was interrupted, these are the shards that were completed",
        )
    joined = f"{len(files):,} files are read as one dump, from {quoted(files[0].name)} to {quoted(files[-1].name)}"
    return ShardList(tuple(_shard(file, file.name) for file in files), notices=(joined,))


def _shard(path: Path, label: str, rows: Mapping[str, int] | None = None) -> Shard:
    from collapse_cli.sources import open_checkpoint

    names = {}
    if kind_of(path) == "file" and format_of(path) == "npy" and rows is None:
        # the one array of such a file has no name of its own
        role = split_name(path.stem)[1]
        names = {} if role in ROLES or role in SYNONYMS else {path.stem: "features"}
    return Shard(label, partial(open_checkpoint, path), names, rows)


# --- the index -------------------------------------------------------------------------------------------------------


def _indexed(folder: Path) -> ShardList:
    index = _index(folder / INDEX_NAME)
    metadata, listed = index.get("metadata", {}), index.get("shards")
    where = str(folder / INDEX_NAME)
    if not _maps(metadata, str):
        _refuse(where, "metadata should map strings to strings, it does not")
    if not isinstance(listed, list) or not listed:
        _refuse(where, "the index should list at least one shard, it does not")
    shards = []
    for position, entry in enumerate(listed):
        file, rows = (entry.get("file"), entry.get("rows")) if isinstance(entry, dict) else (None, None)
        if not isinstance(file, str) or not isinstance(rows, dict) or not _maps(rows, int):
            _refuse(where, f"shard {position:,} should have a file and the rows of its arrays, it does not")
        if PurePosixPath(file).is_absolute() or ".." in re.split(r"[/\\]", file) or not file:
            _refuse(where, f"shard {quoted(file)} should lie in the folder of the index, it does not")
        if kind_of(folder / file) != "file":
            raise UnreadableDump(
                f"shard {quoted(file)} is named in {INDEX_NAME}",
                where=str(folder),
                got=f"it is not there; {_whole(listed[:position])} before it are whole",
                hint="copy the whole folder again; `--as dump` without the index reads the shards that are there",
            )
        shards.append(_shard(folder / file, file, rows))
    named = {shard.label for shard in shards}
    stray = [file.name for file in sorted(weight_files(folder), key=natural_order) if file.name not in named]
    notices = (f"{len(stray):,} files beside the index belong to no shard: {', '.join(stray[:3])}",) if stray else ()
    return ShardList(tuple(shards), metadata, notices)


def _index(path: Path) -> dict[str, Any]:
    source = open_local(path)
    try:
        if source.size > _LONGEST_INDEX:
            _refuse(str(path), f"the index should have at most {_LONGEST_INDEX:,} bytes, it has {source.size:,}")
        text = source.read(0, source.size)
    finally:
        source.close()
    try:
        index = json.loads(text)
    except (ValueError, RecursionError):
        index = None
    if not isinstance(index, dict):
        _refuse(str(path), "the index should be a JSON object, it is not")
    return index


def _maps(value: Any, kind: type) -> bool:
    return isinstance(value, dict) and all(isinstance(item, kind) for item in value.values())


def _whole(listed: Iterable[Mapping[str, Any]]) -> str:
    """How many rows the shards of an index have, said in words."""
    return f"{sum(max(entry['rows'].values(), default=0) for entry in listed):,} rows"


def _refuse(where: str, what: str) -> NoReturn:
    raise UnreadableDump(what, where=where, hint="the index was damaged or written by another program; capture again")


# --- headers ---------------------------------------------------------------------------------------------------------


def shards_of(listed: ShardList, opened: Opened, where: str) -> Iterator[tuple[int, Checkpoint]]:
    """Every shard with its header read, in order; whoever keeps none keeps few files open.

    Raises:
        UnreadableDump: one is not whole; the message names it and says how many rows are.
    """
    rows_before = 0
    for position, shard in enumerate(listed.shards):
        try:
            checkpoint = opened[position]
        except UnreadableCheckpoint as error:
            raise _not_whole(error, listed, position, rows_before, where) from error
        rows = {site.name: site.shape[0] for site in checkpoint.sites() if site.shape}
        for name, promised in (shard.rows or {}).items():
            if rows.get(name) != promised:
                raise UnreadableDump(
                    f"shard {quoted(shard.label)} should hold {promised:,} rows of {quoted(name)}",
                    where=where,
                    got=f"it holds {rows[name]:,}" if name in rows else "it has no such array",
                    hint="the shard is of another capture; copy the whole folder again",
                )
        rows_before += max(rows.values(), default=0)
        yield position, checkpoint


def _not_whole(
    error: UnreadableCheckpoint, listed: ShardList, position: int, rows_before: int, where: str
) -> UnreadableDump:
    """What is wrong with a shard, and what of it and before it is whole."""
    entries, size = entries_of(Path(error.where)) if kind_of(Path(error.where)) == "file" else ((), 0)
    rows = [_whole_rows(entry, size) for entry in entries if entry.shape]
    if not rows and len(listed.shards) == 1:
        return UnreadableDump(error.what, where=where, expected=error.expected, got=error.got, hint=error.hint)
    some = rows_before + min(rows, default=0)
    lengths = [entry.shape[0] for entry in entries if entry.shape]
    total = f" of {rows_before + max(lengths):,}" if lengths and position == len(listed.shards) - 1 else ""
    label = "" if len(listed.shards) == 1 else f"shard {quoted(listed.shards[position].label)}: "
    said = error.got or error.what
    return UnreadableDump(
        f"{label}{' '.join(part for part in (error.what, error.expected) if part)}" if error.got else f"{label}{said}",
        where=where,
        got=f"{error.got}; {some:,}{total} rows are whole" if error.got else f"{some:,}{total} rows are whole",
        hint="the writer was interrupted or the copy failed; copy it again, or remove this file and read the others "
        "with `--as dump`",
    )


def entries_of(path: Path) -> tuple[tuple[Entry, ...], int]:
    """The arrays in the header of a safetensors file, however early it ends, and its size; none for another file."""
    source = open_local(path)
    try:
        prefix = source.read(0, min(8, source.size))
        beginning = prefix + source.read(8, header_end(prefix, source.size, source.where))
        return parse_entries(beginning, source.size, source.where).entries, source.size
    except UnreadableCheckpoint:
        return (), source.size
    finally:
        source.close()


def _whole_rows(entry: Entry, size: int) -> int:
    row_bytes = prod(entry.shape[1:]) * BITS[entry.dtype] // 8
    present = max(0, min(entry.end, size) - entry.begin)
    return min(entry.shape[0], present // row_bytes) if row_bytes else entry.shape[0]
