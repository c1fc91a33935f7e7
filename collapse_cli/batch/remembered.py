"""Digests that need not be computed again: remembered by the path, size and time of change of every file."""

import json
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

from collapse_cli.errors import BadPolicy
from collapse_cli.whole_file import write_whole

__all__ = ["Digests", "Stamp", "stamps"]

#: Path, bytes, and time of change in nanoseconds of one file or folder.
Stamp = tuple[str, int, int]
#: A file changed so shortly before it was looked at may change again without its time of change showing it: two
#: seconds is the coarsest clock of a file system in use (FAT).
_SETTLED_NS: Final = 2_000_000_000
#: Seconds between two writes of the memory while a batch runs.
_INTERVAL: Final = 5.0


def stamps(files: Iterable[str | os.PathLike[str]], subject: Path) -> tuple[Stamp, ...]:
    """Those of the files a subject was read from, and of its folder, whose time tells of files added and removed."""
    paths = [os.fspath(one) for one in files]
    if subject.is_dir():
        paths.append(os.fspath(subject))
    return tuple(_stamp(path) for path in dict.fromkeys(paths))


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)  # noqa: PTH116 - the path may hold half characters, and stays as it was given
    except OSError:
        return os.path.abspath(path), -1, -1  # noqa: PTH100
    return os.path.abspath(path), found.st_size, found.st_mtime_ns  # noqa: PTH100


@final
@dataclass
class Digests:
    """Digest and stamps by subject; written now and then, and lost without harm."""

    file: Path
    known: dict[str, tuple[str, tuple[Stamp, ...]]] = field(default_factory=dict)
    written: float = field(default_factory=time.monotonic)

    @classmethod
    def read(cls, file: Path) -> "Digests":
        """What an earlier batch remembered; nothing where the file is missing or damaged."""
        known = {}
        try:
            for subject, (digest, files) in json.loads(file.read_bytes()).items():
                known[subject] = str(digest), tuple((str(path), int(size), int(at)) for path, size, at in files)
        except (OSError, ValueError, TypeError, AttributeError):
            return cls(file)
        return cls(file, known)

    def of(self, subject: Path) -> str | None:
        """The digest, if no file has another size or time of change than when it was computed."""
        digest, files = self.known.get(_key(subject), ("", ()))
        return digest if files and all(_stamp(path) == (path, size, at) for path, size, at in files) else None

    def remember(self, subject: Path, digest: str | None, files: tuple[Stamp, ...]) -> None:
        """Keep a digest, unless a file changed too recently for its time of change to be trusted."""
        limit = time.time_ns() - _SETTLED_NS
        if digest is None or not files or any(not 0 <= at < limit for _path, _size, at in files):
            self.known.pop(_key(subject), None)
        else:
            self.known[_key(subject)] = digest, files
        if time.monotonic() - self.written > _INTERVAL:
            self.write()

    def write(self) -> None:
        """Keep everything for the next batch, as far as the folder takes it."""
        self.written = time.monotonic()
        try:
            write_whole(self.file, json.dumps(self.known))
        except BadPolicy:
            # it is only a memory: without it every file is read once more
            return


def _key(subject: Path) -> str:
    return os.path.abspath(subject)  # noqa: PTH100
