"""Dumps: named arrays of activations over one or several files, as hook points in depth order, read by rows."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

from collapse_cli.core.report import Skip
from collapse_cli.core.roles import ROLES, SCHEMA_KEY, SHARD_KEY, split_name
from collapse_cli.core.site import Site
from collapse_cli.errors import UnreadableCheckpoint, UnreadableDump, UnsafeCheckpoint
from collapse_cli.sources.base import Checkpoint
from collapse_cli.sources.bytes import kind_of
from collapse_cli.sources.dump_arrays import DumpArray, Piece, Resolved, joined, resolved
from collapse_cli.sources.dump_points import HookPoint, hook_points
from collapse_cli.sources.dump_rows import row_reader, translated
from collapse_cli.sources.dump_shards import Opened, Shard, ShardList, dump_files, entries_of, is_dump_folder, shards_of
from collapse_cli.sources.memory import memory_checkpoint
from collapse_cli.sources.quoting import quoted

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Dump", "HookPoint", "is_dump", "memory_dump", "open_dump"]

#: Rows that are read together, all roles of a site; fewer where they would take more than `_WINDOW` bytes.
ROWS = 4096
_WINDOW = 256 << 20


@final
class Dump:
    """A readable set of named arrays: `points` in depth order; rows come from their byte ranges, whatever the size.

    `arrays` are all arrays that have a role, in file order; `unreadable` says which exist but cannot be read.
    `notices` say what was assumed: synonyms, arrays left out, mixed dtypes, roles that lack another.
    """

    def __init__(self, path: str, opened: Opened, *, points: Sequence[HookPoint], arrays: Sequence[DumpArray]) -> None:
        self.path, self._opened = path, opened
        self.points, self.arrays = tuple(points), tuple(arrays)
        self.format = "dump"
        self.nbytes = 0
        self.files: tuple[str, ...] = ()
        self.metadata: Mapping[str, str] = {}
        self.notices: tuple[str, ...] = ()
        self.unreadable: tuple[Skip, ...] = ()
        self._by_name = {point.name: point for point in points}

    def __getitem__(self, site: str) -> HookPoint:
        return self._by_name[site]

    def sites(self) -> tuple[Site, ...]:
        """Every hook point as reports name it, in depth order: numbered layers first, `output` last."""
        return tuple(point.site for point in self.points)

    def batches(self, site: str, roles: Sequence[str], rows: int = ROWS) -> "Iterator[dict[str, Tensor]]":
        """Windows of consecutive rows, the same for every role; each holds at most `rows` rows and 256 MiB.

        Windows do not depend on how the dump is cut into shards. Each tensor is the reader's own memory.

        Raises:
            UnreadableDump: a role has no rows, its rows are those of another population, or its bytes are gone.
        """
        arrays = [self._by_name[site].arrays[role] for role in roles]
        lengths = {array.role.rows: array.shape[0] for array in arrays}
        if None in lengths or len(lengths) != 1:
            raise UnreadableDump(
                f"{' and '.join(roles)} of site {quoted(site)} should have rows in common, they have not",
                where=self.path,
                hint="read each on its own",
            )
        (total,) = lengths.values()
        readers = {array.role.name: row_reader(array, self._opened, self.path) for array in arrays}
        step = max(1, min(rows, _WINDOW // max(1, sum(array.row_bytes for array in arrays))))
        for begin in range(0, total, step):
            end = min(begin + step, total)
            yield {role: read_rows(begin, end) for role, read_rows in readers.items()}

    def read(self, site: str, role: str) -> "Tensor":
        """A whole array, for what is not per sample (a head, a codebook) or known to be small.

        Raises:
            UnreadableDump: its bytes are gone.
        """
        array = self._by_name[site].arrays[role]
        if array.role.rows is not None:
            return row_reader(array, self._opened, self.path)(0, array.shape[0])
        (piece,) = array.pieces
        return translated(partial(self._opened[piece.shard].read, piece.stored.name), self.path)

    def read_rows(self, site: str, role: str, begin: int, end: int) -> "Tensor":
        """The rows from `begin` up to `end` of one array.

        Raises:
            UnreadableDump: its bytes are gone.
        """
        return row_reader(self._by_name[site].arrays[role], self._opened, self.path)(begin, end)

    def close(self) -> None:
        """Release the files."""
        self._opened.close()


# --- opening ---------------------------------------------------------------------------------------------------------


def open_dump(
    path: str | os.PathLike[str], *, roles: Mapping[str, str] = MappingProxyType({}), as_dump: bool = False
) -> Dump:
    """The dump at a path, its headers read and validated, no value read yet.

    `roles` maps a role, or `<site>/<role>`, to the name of a foreign array. With `as_dump` a folder without index is
    one dump, its files in natural order of their names.

    Raises:
        UnreadableDump: there is none, a shard is not whole, or its arrays contradict one another.
        BadPolicy: `roles` names what is no role.
        UnsafeCheckpoint: reading it would mean executing it.
    """
    place = Path(path)
    try:
        listed = dump_files(place, as_dump=as_dump)
    except UnreadableCheckpoint as error:
        raise _as_dump_error(error) from error
    return _dump(str(place), listed, roles)


def memory_dump(
    arrays: Mapping[str, Any],
    *more: Mapping[str, Any],
    metadata: Mapping[str, str] | None = None,
    roles: Mapping[str, str] = MappingProxyType({}),
    path: str = "memory",
) -> Dump:
    """A dump over numpy arrays or torch tensors; each further mapping is one more shard.

    Raises:
        UnreadableDump: the arrays contradict one another.
    """
    checkpoints = [memory_checkpoint(shard, metadata=metadata) for shard in (arrays, *more)]
    shards = [Shard(f"shard {number}", partial(_itself, held)) for number, held in enumerate(checkpoints)]
    return _dump(path, ShardList(tuple(shards), metadata or {}), roles)


def _itself(checkpoint: Checkpoint) -> Checkpoint:
    return checkpoint


def is_dump(source: Checkpoint | str | os.PathLike[str]) -> bool:
    """Whether a checkpoint, or what a path holds, is a dump: its metadata says so, or an array is named by a role.

    Roles without rows (`codebook`, `head_weight`) and annotations (`labels`, `ids`, `mask`) alone make none: a
    model may have buffers of such names. What cannot be read is none, unless the header of a truncated file still says
    it.
    """
    if not isinstance(source, str | os.PathLike):
        return _says_dump(source.metadata, [site.name for site in source.sites()])
    from collapse_cli.sources import open_checkpoint

    place = Path(source)
    if is_dump_folder(place):
        return True
    if kind_of(place) != "file":
        return False
    try:
        checkpoint = open_checkpoint(place)
    except (UnreadableCheckpoint, UnsafeCheckpoint):
        return _says_dump({}, [entry.name for entry in entries_of(place)[0]])
    try:
        return _says_dump(checkpoint.metadata, [site.name for site in checkpoint.sites()])
    finally:
        checkpoint.close()


def _says_dump(metadata: Mapping[str, str], names: Sequence[str]) -> bool:
    roles = (ROLES.get(split_name(name)[1]) for name in names)
    return SCHEMA_KEY in metadata or any(
        role is not None and role.rows is not None and not role.is_shared for role in roles
    )


def _dump(path: str, listed: ShardList, mapped: Mapping[str, str]) -> Dump:
    opened = Opened(listed.shards)
    try:
        return _opened_dump(path, listed, opened, mapped)
    except UnreadableCheckpoint as error:
        opened.close()
        raise _as_dump_error(error) from error
    except BaseException:
        opened.close()
        raise


def _opened_dump(path: str, listed: ShardList, opened: Opened, mapped: Mapping[str, str]) -> Dump:
    stored: dict[str, list[tuple[str, Piece]]] = {}
    metadata = dict(listed.metadata)
    nbytes, files, skips = 0, list[str](), list[Skip]()
    for position, checkpoint in shards_of(listed, opened, path):
        shard = listed.shards[position]
        nbytes, files = nbytes + checkpoint.nbytes, [*files, *checkpoint.files]
        skips += [skip for skip in checkpoint.unreadable if skip not in skips]
        metadata = {**checkpoint.metadata, **metadata}
        for site in checkpoint.sites():
            name = shard.names.get(site.name, site.name) if site.name not in mapped.values() else site.name
            is_by_rows = checkpoint.row_reader(site.name) is not None
            stored.setdefault(name, []).append((shard.label, Piece(position, site, is_by_rows)))
    found = resolved({name: pieces[0][1].stored for name, pieces in stored.items()}, mapped, path)
    arrays, notices = _arrays(stored, found, opened, path)
    points, missing = hook_points(arrays, path)
    if not points:
        raise _no_content(path, stored, arrays)
    dump = Dump(path, opened, points=points, arrays=arrays)
    dump.nbytes, dump.files, dump.unreadable = nbytes, tuple(files), tuple(skips)
    dump.metadata = {key: value for key, value in metadata.items() if key != SHARD_KEY}
    is_lone = SHARD_KEY in metadata and len(listed.shards) == 1 and listed.shards[0].rows is None
    alone = (f"the file is shard {metadata[SHARD_KEY]} of a dump of its own folder",) if is_lone else ()
    renamed = [
        f"array {quoted(old)} is read as {quoted(new)}" for shard in listed.shards for old, new in shard.names.items()
    ]
    dump.notices = (*listed.notices, *alone, *renamed[:1], *found.notices, *notices, *missing)
    return dump


def _arrays(
    stored: Mapping[str, Sequence[tuple[str, Piece]]], found: Resolved, opened: Opened, path: str
) -> tuple[list[DumpArray], list[str]]:
    arrays, notices = [], []
    for name, place in found.roles.items():
        if place[1] == "labels" and all(piece.stored.is_floating for _, piece in stored[name]):
            raise _float_labels(name, stored[name], opened, path)
        array, said = joined(place, stored[name], path)
        arrays.append(array)
        notices += said
        whole = [label for label, piece in stored[name] if not piece.is_by_rows]
        if whole and array.role.rows is not None:
            notices.append(
                f"array {quoted(name)} is read whole from {whole[0]}: it is compressed or not stored row by row"
            )
    return arrays, notices


def _float_labels(name: str, pieces: Sequence[tuple[str, Piece]], opened: Opened, path: str) -> UnreadableDump:
    """What is wrong with labels that are no integers; the values are looked at to say which remedy is right."""
    label, piece = pieces[0]
    values = opened[piece.shard].read(piece.stored.name).double()
    fractions = values[values != values.floor()]
    if len(fractions) == 0:
        got, hint = f"they are {piece.stored.dtype}, every value whole", "save them as int64: labels.astype('int64')"
    else:
        got = f"they are {piece.stored.dtype}, and {fractions[0].item():g} is no class"
        hint = "for a regression call the array targets"
    said = f" in {label}" if len(pieces) > 1 else ""
    return UnreadableDump(
        f"labels {quoted(name)}{said} should be whole numbers in an integer dtype", where=path, got=got, hint=hint
    )


def _no_content(path: str, stored: Mapping[str, Any], arrays: Sequence[DumpArray]) -> UnreadableDump:
    names = ", ".join(quoted(name) for name in list(stored)[:6]) or "no array"
    if arrays:
        what, got = "the dump should hold features, or another role that can be measured", f"it holds only {names}"
    else:
        what, got = "an array should be named by its role: features, or <site>/features", f"it holds {names}"
    return UnreadableDump(
        what, where=path, got=got, hint="--map features=ARRAY names the array that holds the features"
    )


def _as_dump_error(error: UnreadableCheckpoint) -> UnreadableDump:
    return UnreadableDump(error.what, where=error.where, expected=error.expected, got=error.got, hint=error.hint)
