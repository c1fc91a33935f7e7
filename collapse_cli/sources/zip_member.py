"""The bytes of one member of a zip archive, stored or deflated, in ranges and never more of them than was declared."""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, final

from collapse_cli.errors import UnreadableCheckpoint
from collapse_cli.sources.bytes import ByteSource
from collapse_cli.sources.quoting import quoted

__all__ = ["ZIP_FAULTS", "Member", "member_beginning", "member_of", "member_values"]

#: What the standard library raises at archives that are none.
ZIP_FAULTS = (
    zipfile.BadZipFile,
    OSError,
    ValueError,
    NotImplementedError,
    EOFError,
    struct.error,
    OverflowError,
    IndexError,
)

_CHUNK = 1 << 20
#: deflate makes at most 258 bytes of 2 bits (zlib technical details: "1032:1"); a member that claims more lies.
_DEFLATE_RATIO = 1032
#: PKWARE APPNOTE 4.3.7: the fixed part of a local file header.
_LOCAL_HEADER = 30


@final
@dataclass(frozen=True, slots=True)
class Member:
    """Where a member's bytes lie in the archive, and what they become: `size` bytes with the checksum `crc`."""

    name: str
    begin: int
    end: int
    size: int
    crc: int
    is_deflated: bool


def member_of(listed: zipfile.ZipInfo, source: ByteSource) -> Member:
    """A member as the table of contents lists it, its place checked against the file.

    Raises:
        UnreadableCheckpoint: encrypted, packed in another way, outside the file, or larger than its bytes can become.
    """
    name = listed.filename
    if listed.flag_bits & 0x1 or listed.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        _refuse(source, name, "is encrypted or packed in another way than stored or deflated")
    if listed.header_offset + _LOCAL_HEADER > source.size:
        _refuse(source, name, "lies outside the file")
    local = source.read(listed.header_offset, listed.header_offset + _LOCAL_HEADER)
    if local[:4] != b"PK\x03\x04":
        _refuse(source, name, "has no local header where the table of contents says")
    begin = listed.header_offset + _LOCAL_HEADER + int.from_bytes(local[26:28], "little")
    begin += int.from_bytes(local[28:30], "little")
    end = begin + listed.compress_size
    if end > source.size:
        _refuse(source, name, "lies outside the file")
    is_deflated = listed.compress_type == zipfile.ZIP_DEFLATED
    if listed.file_size > listed.compress_size * (_DEFLATE_RATIO if is_deflated else 1):
        _refuse(source, name, f"claims {listed.file_size:,} bytes, which {listed.compress_size:,} cannot become")
    return Member(name, begin, end, listed.file_size, listed.CRC, is_deflated)


def member_beginning(source: ByteSource, member: Member, length: int) -> bytes:
    """The first `length` bytes of a member, or all of it."""
    length = min(length, member.size)
    if not member.is_deflated:
        return source.read(member.begin, member.begin + length)
    beginning = bytearray()
    for piece in _inflated(source, member, length):
        beginning += piece
        if len(beginning) >= length:
            break
    return bytes(beginning[:length])


def member_values(source: ByteSource, member: Member, skipped: int, buffer: memoryview) -> None:
    """Fill a buffer with what follows the first `skipped` bytes of a member, and check the checksum of the whole.

    Raises:
        UnreadableCheckpoint: the member has fewer or more bytes than it claims, or others.
    """
    if not member.is_deflated:
        source.read_into(member.begin + skipped, buffer)
        crc = zlib.crc32(buffer, zlib.crc32(source.read(member.begin, member.begin + skipped)))
    else:
        crc, done = 0, -skipped
        for piece in _inflated(source, member, _CHUNK):
            crc = zlib.crc32(piece, crc)
            kept = piece[max(0, -done) :]
            place = max(0, done)
            if place + len(kept) > buffer.nbytes:
                _refuse(source, member.name, f"becomes more than the {member.size:,} bytes that it claims")
            buffer[place : place + len(kept)] = kept
            done += len(piece)
        if done != buffer.nbytes:
            _refuse(source, member.name, f"becomes fewer than the {member.size:,} bytes that it claims")
    if crc != member.crc:
        _refuse(source, member.name, "does not have the checksum that the table of contents says")


def _inflated(source: ByteSource, member: Member, piece: int) -> Iterator[bytes]:
    """The inflated bytes in pieces of at most `piece`."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for begin in range(member.begin, member.end, _CHUNK):
            packed = source.read(begin, min(begin + _CHUNK, member.end))
            while packed and not stream.eof:
                yield stream.decompress(packed, piece)
                packed = stream.unconsumed_tail
        while not stream.eof and (rest := stream.decompress(b"", piece)):
            yield rest
    except zlib.error:
        _refuse(source, member.name, "is damaged: it cannot be inflated")


def _refuse(source: ByteSource, name: str, fault: str) -> NoReturn:
    raise UnreadableCheckpoint(
        f"member {quoted(name)} {fault}", where=source.where, hint="the archive was damaged; copy or save it again"
    )
