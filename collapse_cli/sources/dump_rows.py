"""Rows of one array of a dump, over its shards, from their byte ranges where the layout allows."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from collapse_cli.errors import UnreadableCheckpoint, UnreadableDump
from collapse_cli.sources.dtypes import torch_dtype
from collapse_cli.sources.dump_arrays import DumpArray, Piece
from collapse_cli.sources.dump_shards import Opened

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["row_reader", "translated"]

T = TypeVar("T")


def row_reader(array: DumpArray, opened: Opened, path: str) -> "Callable[[int, int], Tensor]":
    """What reads rows of an array over its shards, in its dtype.

    Where a layout gives whole tensors only, the last one is kept until rows of another shard are wanted.
    """
    ends: list[int] = []
    for piece in array.pieces:
        ends.append((ends[-1] if ends else 0) + piece.stored.shape[0])
    kept: dict[int, Callable[[int, int], Tensor]] = {}

    def read_rows(begin: int, end: int) -> "Tensor":
        import torch

        parts = []
        for position, (piece, piece_end) in enumerate(zip(array.pieces, ends, strict=True)):
            piece_begin = piece_end - piece.stored.shape[0]
            first, last = max(begin, piece_begin), min(end, piece_end)
            if first >= last and not (begin == end == piece_begin):
                continue
            if position not in kept:
                kept.clear()
                kept[position] = _piece_reader(piece, opened, path)
            part = translated(partial(kept[position], first - piece_begin, last - piece_begin), path)
            parts.append(part if piece.stored.dtype == array.dtype else part.to(torch_dtype(array.dtype)))
        if not parts:
            return torch.empty((0, *array.shape[1:]), dtype=torch_dtype(array.dtype))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    return read_rows


def _piece_reader(piece: Piece, opened: Opened, path: str) -> "Callable[[int, int], Tensor]":
    checkpoint = translated(partial(opened.__getitem__, piece.shard), path)
    by_rows = checkpoint.row_reader(piece.stored.name)
    if by_rows is not None:
        return by_rows
    whole = translated(partial(checkpoint.read, piece.stored.name), path)
    return lambda begin, end: whole[begin:end]


def translated(read: Callable[[], T], path: str) -> T:
    """What `read` gives.

    Raises:
        UnreadableDump: it could not be read; the message is the reader's own.
    """
    try:
        return read()
    except UnreadableCheckpoint as error:
        raise UnreadableDump(
            error.what, where=error.where or path, expected=error.expected, got=error.got, hint=error.hint
        ) from error
