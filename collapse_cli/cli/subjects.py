"""What was looked at when nothing was found, in words."""

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["files_looked_at"]

#: A mistyped `/` is not walked to its end for the sake of a message.
_MOST = 10_000


def files_looked_at(paths: Sequence[str]) -> str:
    """`12 files under data/, none a checkpoint or a dump`."""
    count = 0
    for path in paths:
        for _folder, _folders, files in os.walk(path):
            count += len(files)
            if count >= _MOST:
                break
    where = ", ".join(path if not Path(path).is_dir() or path.endswith("/") else f"{path}/" for path in paths)
    shown = f"more than {_MOST:,}" if count >= _MOST else f"{count:,}"
    return f"{shown} {'file' if count == 1 else 'files'} under {where}, none a checkpoint or a dump"
