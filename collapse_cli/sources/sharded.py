"""Sharded checkpoints: an `*.index.json` over several files, read as the union of the index and their headers."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from collapse_cli.core.layout import ShardLayout
from collapse_cli.core.report import Skip
from collapse_cli.errors import UnreadableCheckpoint
from collapse_cli.sources.base import Checkpoint
from collapse_cli.sources.buffers import Buffers
from collapse_cli.sources.bytes import kind_of, open_local
from collapse_cli.sources.configuration import configuration_beside, weight_files
from collapse_cli.sources.quoting import quoted
from collapse_cli.sources.safetensors import safetensors_checkpoint
from collapse_cli.sources.shard_index import ShardIndex, is_index_name, read_index
from collapse_cli.sources.stored import StoredCheckpoint, StoredTensor, renamed, stored_tensors
from collapse_cli.sources.unwrap import strip_prefixes

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["open_sharded"]

#: Bytes in all of tensors standing in two shards that are compared at opening; what goes beyond is told in a notice.
_COMPARED = 64 << 20
_CHUNK = 1 << 20


def open_sharded(path: Path) -> StoredCheckpoint:
    """The shards that an index names, as one checkpoint; what does not fit together stands in its `layout`.

    Raises:
        UnreadableCheckpoint: the index is not one, or names a file outside its folder.
        UnsafeCheckpoint: a shard would have to be executed.
    """
    index = read_index(path)
    files = tuple(dict.fromkeys(index.weight_map.values()))
    located = {file: _located(path, file) for file in files}
    opened: dict[str, Checkpoint] = {}
    buffers = Buffers()
    faults: dict[str, str] = {}
    absent = tuple(file for file, place in located.items() if kind_of(place) is None)
    try:
        for file, place in located.items():
            if file in absent:
                faults[file] = f"its shard {quoted(file)} is missing"
                continue
            try:
                opened[file] = _open_shard(place, buffers)
            except UnreadableCheckpoint as error:
                faults[file] = f"its shard cannot be read: {error}"
        return _union(path, index, opened, faults=faults, absent=absent)
    except BaseException:
        for shard in opened.values():
            shard.close()
        raise


def _located(index_path: Path, file: str) -> Path:
    """Where a shard lies, which must be below the folder of the index, or of the file the index is a link to.

    The second is how the Hugging Face cache is built: links in `snapshots`, files in `blobs`.
    """
    parts = (*PurePosixPath(file).parts, *PureWindowsPath(file).parts)
    is_absolute = PurePosixPath(file).is_absolute() or bool(PureWindowsPath(file).anchor)
    if is_absolute or ".." in parts or "\0" in file or not parts:
        raise UnreadableCheckpoint(
            f"the index names the shard {quoted(file)}, which is not inside the checkpoint's folder",
            where=str(index_path),
            hint="an index names files in its own folder; do not trust this one",
        )
    place = index_path.parent / file
    folders = (_real(index_path.parent), _real(index_path).parent)
    target = _real(place)
    if not any(target.is_relative_to(folder) for folder in folders):
        raise UnreadableCheckpoint(
            f"the shard {quoted(file)} is a link that leaves the checkpoint's folder",
            where=str(index_path),
            got=f"it leads to {quoted(str(target))}",
            hint="open the index in the folder that the links lead to, or copy the shards beside the index",
        )
    return place


def _real(path: Path) -> Path:
    # unlike Path.resolve it does not raise at links in a circle
    return Path(os.path.realpath(path))


def _open_shard(place: Path, buffers: Buffers) -> Checkpoint:
    from collapse_cli.sources import sniff

    found = sniff(place)
    if found == "torch-zip":
        from collapse_cli.sources.torch_zip import open_torch_zip

        return open_torch_zip(place, is_stripped=False)
    if found != "safetensors":
        from collapse_cli.sources.signatures import refusal

        raise refusal(place)
    source = open_local(place)
    try:
        # wrapper prefixes are a matter of the whole model, and the index names tensors as they are stored
        return safetensors_checkpoint(source, is_stripped=False, buffers=buffers)
    except BaseException:
        source.close()
        raise


def _union(
    path: Path,
    index: ShardIndex,
    opened: Mapping[str, Checkpoint],
    *,
    faults: Mapping[str, str],
    absent: tuple[str, ...],
) -> StoredCheckpoint:
    held = {file: _names(shard) for file, shard in opened.items()}
    everywhere = {name for members in held.values() for name in members}
    names = strip_prefixes([*index.weight_map, *(name for members in held.values() for name in members)])
    tensors, repeated = _chosen(index, opened)
    conflicting, uncompared = _conflicts(repeated)
    skips = [Skip(None, names[name], faults[file]) for name, file in index.weight_map.items() if file in faults]
    skips += [
        Skip(None, names[name], f"its shard {quoted(file)} does not hold it")
        for name, file in index.weight_map.items()
        if file in held and name not in everywhere
    ]
    skips += [
        Skip(skip.analyzer, names.get(skip.site or "", skip.site), skip.reason)
        for shard in opened.values()
        for skip in shard.unreadable
    ]
    beside = configuration_beside(path)
    notices = (*beside.notices, *(notice for shard in opened.values() for notice in shard.notices))
    if uncompared:
        notices += (f"{uncompared:,} bytes of tensors that stand in two shards were not compared",)
    return StoredCheckpoint(
        path=str(path),
        format="sharded",
        nbytes=sum(shard.nbytes for shard in opened.values()),
        files=tuple(file for shard in opened.values() for file in shard.files),
        tensors=renamed(tensors, names),
        release=partial(_close, tuple(opened.values())),
        config=beside.config,
        adapter=beside.adapter,
        unreadable=tuple(skips),
        layout=ShardLayout(
            index={names[name]: file for name, file in index.weight_map.items()},
            # a shard that is there and cannot be read holds none of its tensors
            shards={
                file: tuple(names[name] for name in held.get(file, ()))
                for file in (*held, *faults)
                if file not in absent
            },
            absent=absent,
            stray=_stray(path, index),
            conflicting=tuple(names[name] for name in conflicting),
            total_size=index.total_size,
            actual_size=sum(tensor.origin.end - tensor.origin.begin for tensor in tensors),
        ),
        notices=notices,
    )


def _close(shards: tuple[Checkpoint, ...]) -> None:
    for shard in shards:
        shard.close()


def _names(shard: Checkpoint) -> tuple[str, ...]:
    skipped = (skip.site for skip in shard.unreadable if skip.site is not None)
    return (*(site.name for site in shard.sites()), *skipped)


def _chosen(
    index: ShardIndex, opened: Mapping[str, Checkpoint]
) -> tuple[list[StoredTensor], list[tuple[StoredTensor, StoredTensor]]]:
    """One tensor per name, that of the shard which the index names if there are several; and the pairs of a name."""
    chosen: dict[str, tuple[str, StoredTensor]] = {}
    repeated = []
    for file, shard in opened.items():
        for tensor in stored_tensors(shard):
            name = tensor.site.name
            if name in chosen:
                repeated.append((chosen[name][1], tensor))
            if name not in chosen or index.weight_map.get(name) == file:
                chosen[name] = file, tensor
    order = {file: place for place, file in enumerate(opened)}
    in_order = sorted(chosen.values(), key=lambda pair: (order[pair[0]], pair[1].origin.begin))
    return [tensor for _, tensor in in_order], repeated


def _conflicts(repeated: list[tuple[StoredTensor, StoredTensor]]) -> tuple[list[str], int]:
    """Names whose tensors differ, and how many bytes were left uncompared."""
    conflicting: dict[str, None] = {}
    left, uncompared = _COMPARED, 0
    for one, other in repeated:
        size = one.origin.end - one.origin.begin
        if (one.site.shape, one.site.dtype, size) != (
            other.site.shape,
            other.site.dtype,
            other.origin.end - other.origin.begin,
        ):
            conflicting[one.site.name] = None
            continue
        compared = min(size, left)
        left, uncompared = left - compared, uncompared + size - compared
        pieces = zip(_pieces(one, compared), _pieces(other, compared), strict=True)
        if any(piece != opposite for piece, opposite in pieces):
            conflicting[one.site.name] = None
    return list(conflicting), uncompared


def _pieces(tensor: StoredTensor, length: int) -> "Iterator[bytes]":
    source = open_local(Path(tensor.origin.path))
    try:
        for begin in range(tensor.origin.begin, tensor.origin.begin + length, _CHUNK):
            yield source.read(begin, min(begin + _CHUNK, tensor.origin.begin + length))
    finally:
        source.close()


def _stray(path: Path, index: ShardIndex) -> tuple[str, ...]:
    """Weight files beside the index, of the same kind as its shards, that neither it nor another index there names."""
    named: set[str] = set(index.weight_map.values())
    kinds = {PurePosixPath(file).suffix for file in named}
    for other in path.parent.iterdir():
        if other != path and is_index_name(other.name):
            try:
                named |= set(read_index(other).weight_map.values())
            except UnreadableCheckpoint:
                continue
    return tuple(
        file.name
        for file in weight_files(path.parent)
        if file.suffix in kinds and file.name not in named and not file.name.startswith("adapter_model")
    )
