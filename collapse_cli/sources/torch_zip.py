"""`torch.save` archives: the pickle is read without executing it, storages are read by offset from the zip."""

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, final

from collapse_cli.core.report import Skip
from collapse_cli.core.site import Role, Site
from collapse_cli.errors import OutOfMemory, UnreadableCheckpoint
from collapse_cli.sources.base import OptimizerGroup, Origin
from collapse_cli.sources.buffers import Buffers
from collapse_cli.sources.bytes import ByteSource, open_local
from collapse_cli.sources.configuration import configuration_beside
from collapse_cli.sources.pickled import ITEM_BYTES, StorageRef, TensorRef, UnreadableTensor
from collapse_cli.sources.quoting import quoted
from collapse_cli.sources.stored import StoredCheckpoint, StoredTensor, filled
from collapse_cli.sources.unpickler import Unpickled, unpickled
from collapse_cli.sources.unwrap import Leaf, unwrap
from collapse_cli.sources.zip_member import Member, member_of, member_values

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["open_torch_zip"]

#: A tensor takes about 300 bytes of pickle: this is some 800,000 of them.
LONGEST_PICKLE: Final = 256 << 20
#: An archive packed again shrinks its pickle of names and shapes by 5 to 20; a bomb by up to 1,032.
_LARGEST_RATIO: Final = 200
#: An expanded tensor (stride 0) may be larger than its storage, up to here; beyond, a few bytes would fill the memory.
LARGEST_EXPANSION: Final = 1 << 30

_MOMENTS: Final = {"exp_avg": Role.OPTIMIZER_M, "exp_avg_sq": Role.OPTIMIZER_V, "step": Role.OPTIMIZER_STEP}


@final
@dataclass(frozen=True, slots=True)
class _Archive:
    """The parts of a `torch.save` archive, their places checked against the file."""

    source: ByteSource
    storages: Mapping[str, Member]  # by the key of the storage
    pickle: Unpickled
    is_swapped: bool  # the bytes of an entry stand in the order that this machine does not use
    buffers: Buffers


def open_torch_zip(path: Path, *, is_stripped: bool = True) -> StoredCheckpoint:
    """A `torch.save` archive as a checkpoint: the model first, then averages, optimizer and strays.

    With `is_stripped` the tensors of the model lose the prefixes of wrappers.

    Raises:
        UnreadableCheckpoint: the file is not there, truncated, or not what `torch.save` writes.
        UnsafeCheckpoint: reading it with torch would execute something. Nothing was executed.
    """
    source = open_local(path)
    try:
        checkpoint = _checkpoint(_archive(path, source), is_stripped=is_stripped)
    except BaseException:
        source.close()
        raise
    beside = configuration_beside(path)
    checkpoint.config = {**checkpoint.config, **beside.config}
    checkpoint.adapter, checkpoint.notices = beside.adapter, beside.notices
    return checkpoint


def _checkpoint(archive: _Archive, *, is_stripped: bool) -> StoredCheckpoint:
    where = archive.source.where
    unwrapped = unwrap(archive.pickle.tree, where=where, is_stripped=is_stripped)
    roles = _roles(unwrapped.optimizer)
    tensors: list[StoredTensor] = []
    unreadable: list[Skip] = []
    for name, leaf in (*unwrapped.model.items(), *unwrapped.extras.items()):
        if reason := _unreadable(leaf):
            unreadable.append(Skip(None, name, reason))
        elif isinstance(leaf, TensorRef):
            tensors.append(_stored(archive, leaf, Site(name, leaf.shape, leaf.dtype, role=roles.get(name, Role.OTHER))))
    return StoredCheckpoint(
        path=where,
        format="torch-zip",
        nbytes=archive.source.size,
        files=(where,),
        tensors=tensors,
        release=archive.source.close,
        config=unwrapped.hyper_parameters,
        unreadable=tuple(unreadable),
        optimizer=unwrapped.optimizer,
        metadata=_metadata(archive.pickle.tree),
    )


def _metadata(tree: Any) -> dict[str, str]:
    """The strings of the `metadata` dict that a dump carries beside its tensors."""
    said = tree.get("metadata") if isinstance(tree, dict) else None
    members = said.items() if isinstance(said, dict) else ()
    return {key: value for key, value in members if isinstance(key, str) and isinstance(value, str)}


def _roles(groups: Iterable[OptimizerGroup]) -> dict[str, Role]:
    return {stored: _MOMENTS[kind] for group in groups for kind, stored in group.moments.items() if kind in _MOMENTS}


def _unreadable(leaf: Leaf) -> str | None:
    if isinstance(leaf, UnreadableTensor):
        return leaf.reason
    if isinstance(leaf, StorageRef):
        return "a storage without a tensor"
    nbytes = prod(leaf.shape) * ITEM_BYTES[leaf.dtype]
    if nbytes > max(LARGEST_EXPANSION, _span(leaf) * ITEM_BYTES[leaf.dtype]):
        return f"it is expanded to {nbytes:,} bytes from fewer in its storage"
    return None


# --- the archive -----------------------------------------------------------------------------------------------------


def _archive(path: Path, source: ByteSource) -> _Archive:
    records = _records(path, source)
    root = _root(records, source)
    storages = {
        name.removeprefix(f"{root}data/"): member for name, member in records.items() if name.startswith(f"{root}data/")
    }
    pickle = unpickled(_pickle(records[f"{root}data.pkl"], source), where=source.where)
    order = records.get(f"{root}byteorder")
    return _Archive(source, storages, pickle, order is not None and _is_big_endian(order, source), Buffers())


def _records(path: Path, source: ByteSource) -> dict[str, Member]:
    """Every record by name, in the order of the file, none upon another."""
    try:
        with zipfile.ZipFile(path) as archive:
            listed = [item for item in archive.infolist() if not item.is_dir()]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError, IndexError) as error:
        raise UnreadableCheckpoint(
            "the zip archive has no whole table of contents",
            where=source.where,
            hint="the file is truncated; copy it again",
        ) from error
    records: dict[str, Member] = {}
    free = 0
    for item in sorted(listed, key=lambda item: item.header_offset):
        name = item.filename
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            _refuse(source, f"record {quoted(name)} points outside the archive")
        if name in records:
            _refuse(source, f"record {quoted(name)} stands in the archive twice")
        if item.header_offset < free:
            _refuse(source, f"record {quoted(name)} lies upon the one before it")
        member = member_of(item, source)
        _check_local_name(item, member, source)
        records[name], free = member, member.end
    return records


def _check_local_name(listed: zipfile.ZipInfo, member: Member, source: ByteSource) -> None:
    """The record's own header must agree with the table of contents, or two readers would read two archives."""
    local = source.read(listed.header_offset, member.begin)
    name = local[30 : 30 + int.from_bytes(local[26:28], "little")]
    codec = "utf-8" if listed.flag_bits & 0x800 else "cp437"
    if name != listed.orig_filename.encode(codec, "replace"):
        _refuse(source, f"record {quoted(member.name)} has another name in its own header")
    if int.from_bytes(local[8:10], "little") != listed.compress_type:
        _refuse(source, f"record {quoted(member.name)} is packed in another way by its own header")


def _root(records: Mapping[str, Member], source: ByteSource) -> str:
    """The folder inside the archive that holds `data.pkl`, with its slash."""
    roots = [name.removesuffix("data.pkl") for name in records if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(roots) != 1:
        found = "it has none" if not roots else f"it has {len(roots):,}"
        raise UnreadableCheckpoint(
            "the archive should have one record data.pkl",
            where=source.where,
            got=found,
            hint="it was not written by torch.save" if not roots else "",
        )
    (root,) = roots
    if f"{root}constants.pkl" in records or any(name.startswith(f"{root}code/") for name in records):
        _refuse(
            source,
            "it is a TorchScript archive",
            hint="save the weights alone: torch.save(torch.jit.load(file).state_dict(), …)",
        )
    return root


def _pickle(member: Member, source: ByteSource) -> bytes:
    if member.size > LONGEST_PICKLE:
        _refuse(source, f"data.pkl has {member.size:,} bytes, more than {LONGEST_PICKLE:,}")
    # a checksum of 0 is what torch.serialization.set_crc32_options(False) writes
    if member.is_deflated:
        packed = member.end - member.begin
        if member.size > _LARGEST_RATIO * packed:
            _refuse(
                source,
                f"data.pkl is compressed: {packed:,} bytes would become {member.size:,}",
                hint="torch.save compresses nothing, and no list of tensors shrinks that far; do not trust this file",
            )
        data = bytearray(member.size)
        member_values(source, member, 0, memoryview(data))
        return bytes(data)
    stored = source.read(member.begin, member.end)
    if member.crc not in (0, zlib.crc32(stored)):
        _refuse(source, "data.pkl does not have the checksum that the table of contents says", hint="copy it again")
    return stored


def _is_big_endian(member: Member, source: ByteSource) -> bool:
    order = source.read(member.begin, min(member.end, member.begin + 16)).strip()
    if member.is_deflated or order not in (b"little", b"big"):
        _refuse(source, 'record "byteorder" should say little or big, it does not')
    return order == b"big"


def _refuse(source: ByteSource, what: str, *, hint: str = "it was damaged, or not written by torch.save") -> NoReturn:
    raise UnreadableCheckpoint(what, where=source.where, hint=hint)


# --- tensors ---------------------------------------------------------------------------------------------------------


def _span(tensor: TensorRef) -> int:
    """Entries from the first to the last that the tensor touches."""
    if 0 in tensor.shape:
        return 0
    return 1 + sum((side - 1) * step for side, step in zip(tensor.shape, tensor.stride, strict=True))


def _is_contiguous(tensor: TensorRef) -> bool:
    expected = 1
    for side, step in zip(reversed(tensor.shape), reversed(tensor.stride), strict=True):
        if side != 1 and step != expected:
            return 0 in tensor.shape
        expected *= side
    return True


def _stored(archive: _Archive, tensor: TensorRef, site: Site) -> StoredTensor:
    source, name = archive.source, quoted(site.name)
    member = archive.storages.get(tensor.storage_key)
    if member is None:
        _refuse(source, f"tensor {name} stands in storage {quoted(tensor.storage_key)}, which the archive lacks")
    if member.is_deflated:
        _refuse(source, f"storage {quoted(tensor.storage_key)} is compressed", hint="torch.save never does that")
    declared = archive.pickle.storages[tensor.storage_key].nbytes
    if declared is None or declared > member.size:
        _refuse(
            source,
            f"storage {quoted(tensor.storage_key)} should have {declared or 0:,} bytes, its record has {member.size:,}",
        )
    width = ITEM_BYTES[site.dtype]
    begin, end = (tensor.offset * width, (tensor.offset + _span(tensor)) * width)
    if end > declared:
        _refuse(source, f"tensor {name} should end at byte {end:,} of its storage, that has {declared:,}")
    origin = Origin(source.where, member.begin + begin, member.begin + end)
    read_rows = partial(_rows, archive, tensor, site, member.begin) if _lies_in_rows(tensor) else None
    return StoredTensor(site, origin, partial(_values, archive, tensor, site, origin.begin), read_rows)


def _lies_in_rows(tensor: TensorRef) -> bool:
    """Whether each row ends before the next begins, so that a range of rows is a range of bytes."""
    return bool(tensor.shape) and tensor.stride[0] >= _span(replace(tensor, shape=(1, *tensor.shape[1:])))


def _rows(archive: _Archive, tensor: TensorRef, site: Site, storage_begin: int, begin: int, end: int) -> "Tensor":
    shape = (end - begin, *tensor.shape[1:])
    window = replace(tensor, offset=tensor.offset + begin * tensor.stride[0], shape=shape)
    first = storage_begin + window.offset * ITEM_BYTES[site.dtype]
    return _values(archive, window, replace(site, shape=shape), first)


def _values(archive: _Archive, tensor: TensorRef, site: Site, begin: int) -> "Tensor":
    """The tensor, contiguous and in memory of its own; only the bytes between its first and last entry are read."""
    fill = partial(_fill, archive, site.dtype, begin)
    where = archive.source.where
    if _is_contiguous(tensor):
        return filled(site, where, fill, archive.buffers)
    window = filled(Site(site.name, (_span(tensor),), site.dtype), where, fill, archive.buffers)
    try:
        return window.as_strided(tensor.shape, tensor.stride).clone().contiguous()
    except (RuntimeError, MemoryError) as error:
        raise OutOfMemory(f"tensor {quoted(site.name)} does not fit into memory", where=where) from error


def _fill(archive: _Archive, dtype: str, begin: int, buffer: memoryview) -> None:
    archive.source.read_into(begin, buffer)
    width: Any = ITEM_BYTES[dtype] // (2 if dtype.startswith("C") else 1)
    if archive.is_swapped and width > 1:
        import numpy as np

        np.frombuffer(buffer, dtype=f"u{width}").byteswap(inplace=True)
