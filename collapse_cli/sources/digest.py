"""The digest of a checkpoint's bytes, by which a report says what it is about."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from collapse_cli.sources.bytes import open_local

__all__ = ["digest"]

_CHUNK = 4 << 20


def digest(files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> str:
    r"""`sha256:` and the digits: of a file its SHA-256, of several files that of the sorted lines `name\0digest\n`.

    A name is the path below the folder that all the files share, with forward slashes: a checkpoint keeps its digest
    when it is moved, and not when a shard is renamed.

    Raises:
        UnreadableCheckpoint: a file is not there or cannot be read.
    """
    paths = [Path(files)] if isinstance(files, str | os.PathLike) else [Path(file) for file in files]
    if len(paths) == 1:
        return _file_digest(paths[0])
    absolute = [path.absolute() for path in paths]
    shared = Path(os.path.commonpath([path.parent for path in absolute])) if absolute else Path()
    lines = sorted(
        os.fsencode(path.relative_to(shared).as_posix()) + b"\0" + _file_digest(path).encode() + b"\n"
        for path in absolute
    )
    return "sha256:" + hashlib.sha256(b"".join(lines)).hexdigest()


def _file_digest(path: Path) -> str:
    source = open_local(path)
    running = hashlib.sha256()
    buffer = memoryview(bytearray(min(_CHUNK, source.size)))
    try:
        for begin in range(0, source.size, _CHUNK):
            chunk = buffer[: min(_CHUNK, source.size - begin)]
            source.read_into(begin, chunk)
            running.update(chunk)
    finally:
        source.close()
    return "sha256:" + running.hexdigest()
