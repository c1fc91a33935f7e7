"""Safetensors files: the header at opening, the values of one tensor at a time, straight into the tensor's memory."""

from functools import partial
from pathlib import Path

from collapse_cli.core.report import Skip
from collapse_cli.core.site import Site
from collapse_cli.sources.base import Origin
from collapse_cli.sources.buffers import Buffers
from collapse_cli.sources.bytes import ByteSource, open_local
from collapse_cli.sources.configuration import configuration_beside
from collapse_cli.sources.dtypes import NOT_DEQUANTISED
from collapse_cli.sources.safetensors_header import Entry, Header, header_end, parse_entries, parse_header
from collapse_cli.sources.stored import StoredCheckpoint, StoredTensor, filled, filled_rows
from collapse_cli.sources.unwrap import strip_prefixes

__all__ = ["open_safetensors", "safetensors_checkpoint", "whole_tensors"]


def open_safetensors(path: Path) -> StoredCheckpoint:
    """A safetensors file as a checkpoint, with what `config.json` beside it says.

    Raises:
        UnreadableCheckpoint: the file is not there, or breaks a rule of the format.
    """
    source = open_local(path)
    try:
        checkpoint = safetensors_checkpoint(source)
    except BaseException:
        source.close()
        raise
    beside = configuration_beside(path)
    checkpoint.config, checkpoint.adapter, checkpoint.notices = beside.config, beside.adapter, beside.notices
    return checkpoint


def safetensors_checkpoint(
    source: ByteSource, *, is_stripped: bool = True, buffers: Buffers | None = None
) -> StoredCheckpoint:
    """The checkpoint in a range of bytes; with `is_stripped` its tensors lose the prefixes of wrappers.

    `buffers` is the memory that tensors are read into, shared by the shards of one model.

    Raises:
        UnreadableCheckpoint: a rule of the format is broken.
    """
    header = parse_header(_beginning(source), source.size, source.where)
    names = {entry.name: entry.name for entry in header.entries}
    if is_stripped:
        names = strip_prefixes(names)
    memory = buffers or Buffers()
    tensors = [
        _stored(source, entry, names[entry.name], memory)
        for entry in header.entries
        if entry.dtype not in NOT_DEQUANTISED
    ]
    unreadable = tuple(
        Skip(None, names[entry.name], f"{entry.dtype} is not dequantised")
        for entry in header.entries
        if entry.dtype in NOT_DEQUANTISED
    )
    return StoredCheckpoint(
        path=source.where,
        format="safetensors",
        nbytes=source.size,
        files=(source.where,),
        tensors=tensors,
        release=source.close,
        unreadable=unreadable,
        metadata=header.metadata,
    )


def whole_tensors(path: Path) -> tuple[Site, ...]:
    """The tensors of a file that lie entirely in it, under their stored names, however early the file ends.

    Raises:
        UnreadableCheckpoint: the header itself is not whole, or breaks a rule of the format.
    """
    source = open_local(path)
    try:
        header: Header = parse_entries(_beginning(source), source.size, source.where)
        return tuple(Site(entry.name, entry.shape, entry.dtype) for entry in header.entries if entry.end <= source.size)
    finally:
        source.close()


def _beginning(source: ByteSource) -> bytes:
    prefix = source.read(0, min(8, source.size))
    return prefix + source.read(8, header_end(prefix, source.size, source.where))


def _stored(source: ByteSource, entry: Entry, name: str, buffers: Buffers) -> StoredTensor:
    site = Site(name, entry.shape, entry.dtype)
    origin = Origin(source.where, entry.begin, entry.end)
    fill = partial(source.read_into, entry.begin)
    read_rows = None
    if site.shape:
        read_rows = filled_rows(site, source.where, partial(_fill_from, source, entry.begin), buffers)
    return StoredTensor(site, origin, partial(filled, site, source.where, fill, buffers), read_rows)


def _fill_from(source: ByteSource, begin: int, offset: int, buffer: memoryview) -> None:
    source.read_into(begin + offset, buffer)
