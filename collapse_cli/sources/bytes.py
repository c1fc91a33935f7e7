"""Byte ranges of one file, read without mapping it: a file that shrinks gives an error and not a signal."""

import os
import stat
import weakref
from pathlib import Path
from typing import Literal, Protocol, final, runtime_checkable

from collapse_cli.errors import UnreadableCheckpoint

__all__ = ["ByteSource", "LocalBytes", "kind_of", "not_readable", "open_local"]

#: Larger files are dropped from the page cache behind the reader, so that a scan does not evict everything else.
_DROPPED_BEHIND = 1 << 30


@runtime_checkable
class ByteSource(Protocol):
    """A file of known size of which any range can be read, by several threads at once."""

    where: str
    size: int

    def read(self, begin: int, end: int) -> bytes:
        """The bytes from `begin` up to `end`."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a writable buffer of bytes from `offset` on."""

    def close(self) -> None:
        """Release the file."""


@final
class LocalBytes:
    """A file on this machine, read with `preadv`; `size` is the size it had when it was opened."""

    def __init__(self, where: str, descriptor: int, size: int) -> None:
        self.where, self.size = where, size
        self._descriptor = descriptor
        self._closing = weakref.finalize(self, os.close, descriptor)

    def read(self, begin: int, end: int) -> bytes:
        """The bytes from `begin` up to `end`.

        Raises:
            UnreadableCheckpoint: the file is closed, shorter than it was, or the disk failed.
        """
        buffer = bytearray(end - begin)
        self.read_into(begin, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a writable buffer of bytes from `offset` on.

        Raises:
            UnreadableCheckpoint: the file is closed, shorter than it was, or the disk failed.
        """
        if not self._closing.alive:
            raise UnreadableCheckpoint("the file is closed", where=self.where)
        done, wanted = 0, buffer.nbytes
        while done < wanted:
            try:
                # one call gives at most 2,147,479,552 bytes (Linux), and may give fewer
                count = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            except OSError as error:
                raise not_readable(self.where, error) from error
            if count == 0:
                raise UnreadableCheckpoint(
                    f"byte {offset + wanted:,} was wanted",
                    where=self.where,
                    got=f"the file ends at {offset + done:,}",
                    hint="the file became shorter while it was read; scan it again when nothing writes to it",
                )
            done += count
        if self.size > _DROPPED_BEHIND and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, offset, wanted, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Release the file."""
        self._closing()


def open_local(path: Path) -> LocalBytes:
    """A regular file of this machine, opened for reading.

    Raises:
        UnreadableCheckpoint: there is no such file, it may not be read, or it is no regular file.
    """
    where = str(path)
    try:
        # a named pipe would block the opening until somebody writes
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise not_readable(where, error) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, pipe or socket"
        raise UnreadableCheckpoint(f"is {kind}, not a file", where=where)
    return LocalBytes(where, descriptor, status.st_size)


def kind_of(path: Path) -> Literal["file", "folder", "other"] | None:
    """What a path leads to, links followed; None if there is nothing or it may not be looked at. Never raises."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "other"


def not_readable(where: str, error: Exception) -> UnreadableCheckpoint:
    """What the operating system said of a file, as one of our errors."""
    if isinstance(error, FileNotFoundError):
        return UnreadableCheckpoint("there is no such file or folder", where=where, hint="check the path")
    if isinstance(error, PermissionError):
        return UnreadableCheckpoint(
            "permission denied", where=where, hint="the file or one of its folders may not be read by this user"
        )
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return UnreadableCheckpoint(f"the operating system said: {reason}", where=where)
