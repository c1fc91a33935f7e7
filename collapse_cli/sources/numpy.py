"""NumPy files: `.npy` holds one array, `.npz` is a zip of them; nothing is ever unpickled."""

import ast
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, final

from collapse_cli.core.report import Skip
from collapse_cli.core.site import Site
from collapse_cli.errors import UnreadableCheckpoint, UnsafeCheckpoint
from collapse_cli.sources.base import Origin
from collapse_cli.sources.buffers import Buffers
from collapse_cli.sources.bytes import ByteSource, open_local
from collapse_cli.sources.configuration import configuration_beside
from collapse_cli.sources.quoting import quoted
from collapse_cli.sources.stored import StoredCheckpoint, StoredTensor, filled, filled_rows
from collapse_cli.sources.unwrap import strip_prefixes
from collapse_cli.sources.zip_member import ZIP_FAULTS, Member, member_beginning, member_of, member_values

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ArrayHeader", "open_npy", "open_npz", "parse_array_header"]

#: numpy.lib.format reads no longer header either (`_MAX_HEADER_SIZE`); ours are a few dozen bytes.
HEADER_LIMIT = 10_000
#: A 0-d array of text in which an archive carries what safetensors has in `__metadata__`: a JSON object of strings.
_METADATA = "collapse.metadata.npy"
_LONGEST_METADATA = 4_000_000
_MAGIC = b"\x93NUMPY"
_DTYPES = {
    "b1": "BOOL",
    "u1": "U8",
    "i1": "I8",
    "u2": "U16",
    "i2": "I16",
    "f2": "F16",
    "u4": "U32",
    "i4": "I32",
    "f4": "F32",
    "u8": "U64",
    "i8": "I64",
    "f8": "F64",
    "c8": "C64",
    "c16": "C128",
}


@final
@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """What the first bytes of an array say; `dtype` is None where its values are no numbers (`descr` says what).

    `length` is that of the header, `nbytes` that of the values behind it.
    """

    dtype: str | None
    descr: str
    shape: tuple[int, ...]
    is_fortran: bool
    is_swapped: bool
    length: int
    nbytes: int


def open_npy(path: Path) -> StoredCheckpoint:
    """The one array of a `.npy` file, named like the file.

    Raises:
        UnreadableCheckpoint: the file is not there, truncated, or no array.
        UnsafeCheckpoint: it holds Python objects.
    """
    source = open_local(path)
    try:
        header = parse_array_header(source.read(0, min(source.size, HEADER_LIMIT)), source.where, path.stem)
        end = header.length + header.nbytes
        if header.dtype is not None and end > source.size:
            _refuse(source.where, f"the array should end at byte {end:,}", f"the file ends at {source.size:,}")
    except BaseException:
        source.close()
        raise
    origin = Origin(source.where, header.length, end)
    whole, rows = partial(source.read_into, header.length), partial(_fill_from, source, header.length)
    checkpoint = _checkpoint(source, [(path.stem, header, origin, whole, rows)], path)
    if header.dtype is not None and end < source.size:
        checkpoint.notices += (f"the {source.size - end:,} bytes after the array were not read",)
    return checkpoint


def open_npz(path: Path) -> StoredCheckpoint:
    """The arrays of a `.npz` file, named without `.npy`.

    Raises:
        UnreadableCheckpoint: the file is not there, truncated, no zip, or a member is not what it claims to be.
        UnsafeCheckpoint: a member holds Python objects.
    """
    source = open_local(path)
    try:
        members = _members(path, source)
        metadata = _metadata(source, [member for member in members if member.name == _METADATA])
        arrays = [_array(source, member) for member in members if member.name != _METADATA]
    except BaseException:
        source.close()
        raise
    checkpoint = _checkpoint(source, arrays, path)
    checkpoint.metadata = metadata
    return checkpoint


def parse_array_header(beginning: bytes, where: str, name: str) -> ArrayHeader:
    """The header of an array (numpy.lib.format, versions 1 to 3), never evaluated.

    Raises:
        UnreadableCheckpoint: it breaks the rules of the format.
        UnsafeCheckpoint: the values are pickled Python objects.
    """
    called = f"array {quoted(name)}"
    if beginning[:6] != _MAGIC or len(beginning) < 12:
        _refuse(where, f"{called} should begin with the magic bytes of NumPy, it does not")
    version = beginning[6]
    width = {1: 2, 2: 4, 3: 4}.get(version)
    if width is None:
        _refuse(where, f"{called} should have version 1, 2 or 3", f"it has {version}")
    length = 8 + width + int.from_bytes(beginning[8 : 8 + width], "little")
    if length > min(HEADER_LIMIT, len(beginning)):
        _refuse(
            where, f"{called} should have a header of at most {HEADER_LIMIT:,} bytes inside the file", f"{length:,}"
        )
    members = _dictionary(beginning[8 + width : length], where, called)
    descr, shape, is_fortran = (members.get(key) for key in ("descr", "shape", "fortran_order"))
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        _refuse(where, f"{called} should have a shape of whole numbers from 0, it does not")
    if prod(max(side, 1) for side in shape[:64]) >= 1 << 59 or len(shape) > 64:
        _refuse(where, f"{called} should have a size that fits in 63 bits, its shape overflows")
    found = re.fullmatch(r"([<>|=]?)([a-zA-Z])(\d*)", descr) if isinstance(descr, str) else None
    if (found and found[2] == "O") or (isinstance(descr, list) and re.search(r"'[<>|=]?O\d*'", repr(descr))):
        raise UnsafeCheckpoint(
            f"{called} holds Python objects; nothing was executed",
            where=where,
            hint="save it as numbers, not as objects",
        )
    dtype = _DTYPES.get(found[2] + found[3]) if found else None
    width_of_entry = int(found[3]) if found and dtype else 0
    return ArrayHeader(
        dtype=dtype,
        descr=str(descr)[:80],
        shape=shape,
        is_fortran=is_fortran is True and len(shape) > 1,
        is_swapped=bool(found) and found[1] == ">" and width_of_entry > 1,  # type: ignore[index] # found is not None here
        length=length,
        nbytes=prod(shape) * width_of_entry,
    )


def _dictionary(text: bytes, where: str, called: str) -> dict[str, object]:
    if b"\\" in text:
        # no dtype has one, and Python warns of escapes that it does not know
        _refuse(where, f"{called} should have a header without backslashes, it does not")
    try:
        # a literal, not an expression: names and calls are refused by ast itself
        value = ast.literal_eval(text.decode("utf-8" if not text.isascii() else "ascii").strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        value = None
    if not isinstance(value, dict) or set(value) != {"descr", "fortran_order", "shape"}:
        _refuse(where, f"{called} should have a header with descr, fortran_order and shape, it does not")
    return value


def _members(path: Path, source: ByteSource) -> list[Member]:
    try:
        with zipfile.ZipFile(path) as archive:
            listed = [item for item in archive.infolist() if not item.is_dir()]
    except (*ZIP_FAULTS, IndexError) as error:  # IndexError: Python 3.11 asks an empty name for its last character
        raise UnreadableCheckpoint(
            "the zip archive has no whole table of contents",
            where=source.where,
            hint="the file is truncated; copy it again",
        ) from error
    names = [item.filename for item in listed]
    if len(set(names)) < len(names):
        _refuse(source.where, "the archive should have each member once, a name stands in it twice")
    return [member_of(item, source) for item in sorted(listed, key=lambda item: item.header_offset)]


def _metadata(source: ByteSource, members: list[Member]) -> dict[str, str]:
    if not members:
        return {}
    (member,) = members
    header = parse_array_header(member_beginning(source, member, HEADER_LIMIT), source.where, "collapse.metadata")
    if header.shape != () or not re.fullmatch(r"[<=]?U\d+", header.descr) or member.size > _LONGEST_METADATA:
        _refuse(source.where, 'array "collapse.metadata" should be one text, it is not')
    text = bytearray(member.size - header.length)
    member_values(source, member, header.length, memoryview(text))
    try:
        said = json.loads(text.decode("utf-32-le").rstrip("\0"))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        _refuse(source.where, 'array "collapse.metadata" should be a JSON object of strings, it is not')
    return said


_Array = tuple[str, ArrayHeader, Origin, Callable[[memoryview], None], Callable[[int, memoryview], None] | None]


def _array(source: ByteSource, member: Member) -> _Array:
    name = member.name.removesuffix(".npy")
    header = parse_array_header(member_beginning(source, member, HEADER_LIMIT), source.where, name)
    if header.dtype is not None and header.length + header.nbytes != member.size:
        _refuse(
            source.where,
            f"array {quoted(name)} should have {header.length + header.nbytes:,} bytes by its own header",
            f"the archive says {member.size:,}",
        )
    begin = member.begin if member.is_deflated else member.begin + header.length
    origin = Origin(source.where, begin, member.end)
    rows = None if member.is_deflated else partial(_fill_from, source, begin)
    return name, header, origin, partial(member_values, source, member, header.length), rows


def _fill_from(source: ByteSource, begin: int, offset: int, buffer: memoryview) -> None:
    source.read_into(begin + offset, buffer)


def _checkpoint(source: ByteSource, arrays: list[_Array], path: Path) -> StoredCheckpoint:
    names = strip_prefixes([name for name, *_ in arrays])
    beside = configuration_beside(path)
    tensors, unreadable = [], []
    buffers = Buffers()
    for name, header, origin, fill, fill_from in arrays:
        if header.dtype is None:
            unreadable.append(Skip(None, names[name], f"{header.descr} is no dtype of numbers that is read"))
            continue
        site = Site(names[name], header.shape, header.dtype)
        read_rows = None
        if fill_from is not None and site.shape and not header.is_fortran and not header.is_swapped:
            read_rows = filled_rows(site, source.where, fill_from, buffers)
        whole = partial(_tensor, site, header, source.where, fill, buffers)
        tensors.append(StoredTensor(site, origin, whole, read_rows))
    return StoredCheckpoint(
        path=source.where,
        format="numpy",
        nbytes=source.size,
        files=(source.where,),
        tensors=tensors,
        release=source.close,
        config=beside.config,
        adapter=beside.adapter,
        unreadable=tuple(unreadable),
        notices=beside.notices,
    )


def _tensor(
    site: Site, header: ArrayHeader, where: str, fill: Callable[[memoryview], None], buffers: Buffers
) -> "Tensor":
    as_written = Site(site.name, site.shape[::-1], site.dtype) if header.is_fortran else site
    tensor = filled(as_written, where, fill, buffers)
    if header.is_swapped:
        # the same memory, seen as numbers by numpy, which can turn their bytes round in place
        tensor.numpy().byteswap(inplace=True)
    if header.is_fortran:
        tensor = tensor.permute(*range(tensor.dim())[::-1]).contiguous()
    return tensor


def _refuse(where: str, expected: str, got: str = "") -> NoReturn:
    raise UnreadableCheckpoint(
        expected, where=where, got=got, hint="the file is truncated or damaged; copy or save it again"
    )
