"""The folder of a batch's results: which file belongs to which subject, and who may write there."""

import fcntl
import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from collapse_cli.errors import BadPolicy

__all__ = ["DIGESTS", "SUBJECTS", "SUMMARY", "locked", "report_file"]

SUBJECTS: Final = "subjects"
SUMMARY: Final = "summary.json"
#: Digests by path, size and time of change.
DIGESTS: Final = "digests.json"
_LOCK: Final = ".lock"
#: Bytes of one name; with a suffix and what a temporary file adds it stays below the 255 that file systems allow.
_NAME_BYTES: Final = 180
#: Separators, wildcards and quotes of some system, the escape itself, control characters and half characters.
_UNSAFE: Final = re.compile(r'[%<>:"|?*\\\x00-\x1f\x7f\ud800-\udfff]')


def report_file(identity: str) -> Path:
    """Where below the folder the report of a subject lies: its id and `.json`, each id another file, none outside."""
    names = identity.lstrip("/").split("/")
    inner = [_name(name, is_last=False) for name in names[:-1]]
    return Path(SUBJECTS, *inner, _name(names[-1], is_last=True) + ".json")


def _name(name: str, *, is_last: bool) -> str:
    """One name of a path, percent-encoded where a file system or a reader of the folder would misunderstand it."""
    safe = _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", name) or "%"
    if safe.startswith("."):
        # hidden files there are temporary ones, and `..` would lead out
        safe = "%2E" + safe[1:]
    if not is_last and safe.endswith((".json", ".html")):
        safe = safe[:-5] + "%2E" + safe[-4:]
    if len(safe.encode()) <= _NAME_BYTES:
        return safe
    mark = hashlib.sha256(safe.encode()).hexdigest()[:16]
    return safe.encode()[: _NAME_BYTES - 17].decode(errors="ignore") + "~" + mark


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder, made if need be, for this process alone; a lock whose process has died holds nobody up.

    Raises:
        BadPolicy: it cannot be written to, or another batch is writing there.
    """
    try:
        (folder / SUBJECTS).mkdir(parents=True, exist_ok=True)
        # inherited by no worker: it ends with this process, however that ends
        descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise BadPolicy(f'cannot write to "{folder}"', got=error.strerror or str(error), hint="--out DIR") from error
    try:
        _take(descriptor, folder)
        _remove_temporary(folder / SUBJECTS)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise BadPolicy(
            f'another batch is writing to "{folder}"',
            got=_holder(descriptor),
            hint="wait for it, or --out another folder",
        ) from error
    except OSError as error:
        raise BadPolicy(
            f'cannot lock "{folder}"',
            got=error.strerror or str(error),
            hint="--out a folder on a file system that has locks",
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps({"process": os.getpid(), "host": platform.node()}).encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        said = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {said['process']} on {said['host']}"
    except (ValueError, KeyError, TypeError, OSError):
        return "it does not say which"


def _remove_temporary(folder: Path) -> None:
    """What a killed batch was writing: under the lock nobody else is."""
    for inner, _folders, files in os.walk(folder):
        for name in files:
            if name.startswith(".") and (".json." in name or ".html." in name):
                Path(inner, name).unlink(missing_ok=True)
