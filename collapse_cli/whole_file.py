"""Files that are written whole or not at all: a reader, and a crash at any moment, never sees half of one."""

import os
import tempfile
from pathlib import Path

from collapse_cli.errors import BadPolicy

__all__ = ["write_whole"]


def write_whole(path: Path, text: str) -> None:
    """Write a temporary file beside the target, sync it, rename it: a reader never sees half of it.

    Raises:
        BadPolicy: the folder does not take the file.
    """
    try:
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise BadPolicy(f'cannot write "{path}"', got=error.strerror or str(error)) from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except OSError as error:
        raise BadPolicy(f'cannot write "{path}"', got=error.strerror or str(error)) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
