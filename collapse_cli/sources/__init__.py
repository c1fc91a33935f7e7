"""Bytes to tensors, lazily; never a measurement.

What a path holds is decided by its content and never by its suffix. Nothing here imports torch until a tensor is read.
"""

import os
from pathlib import Path

from collapse_cli.errors import UnreadableCheckpoint
from collapse_cli.sources.base import Checkpoint
from collapse_cli.sources.bytes import kind_of

__all__ = ["open_checkpoint", "sniff"]


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint at a path, its headers read and validated, no value read yet.

    Raises:
        UnreadableCheckpoint: there is none; the message says what is there instead.
        UnsafeCheckpoint: reading it would mean executing it.
    """
    place = Path(path)
    if kind_of(place) == "folder":
        from collapse_cli.sources.folder import open_folder

        return open_folder(place)
    from collapse_cli.sources.signatures import format_of, refusal

    match format_of(place):
        case "safetensors":
            from collapse_cli.sources.safetensors import open_safetensors

            return open_safetensors(place)
        case "torch-zip":
            from collapse_cli.sources.torch_zip import open_torch_zip

            return _described(open_torch_zip(place), place)
        case "npz":
            from collapse_cli.sources.numpy import open_npz

            return open_npz(place)
        case "npy":
            from collapse_cli.sources.numpy import open_npy

            return open_npy(place)
        case "index":
            from collapse_cli.sources.sharded import open_sharded

            return open_sharded(place)
        case _:
            raise refusal(place)


def sniff(path: str | os.PathLike[str]) -> str | None:
    """The `format` of a file by its content; None for one that is no checkpoint or cannot be read."""
    from collapse_cli.sources.signatures import format_of

    try:
        found = format_of(Path(path))
    except UnreadableCheckpoint:
        return None
    return {"npz": "numpy", "npy": "numpy", "index": "sharded"}.get(found, found) if found else None


def _described(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """The checkpoint with what `config.json` beside it says, where its reader did not look."""
    from collapse_cli.sources.configuration import configuration_beside
    from collapse_cli.sources.folder import presented_as

    if checkpoint.config or checkpoint.adapter:
        return checkpoint
    beside = configuration_beside(path)
    described = presented_as(checkpoint.path, checkpoint)
    described.config, described.adapter = beside.config, beside.adapter
    described.notices += beside.notices
    return described
