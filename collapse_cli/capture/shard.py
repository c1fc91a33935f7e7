"""A safetensors file written from pieces, each array row after row, without a second copy in memory."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["DTYPE_NAMES", "replace_file", "write_shard"]

#: torch dtypes that a dump may hold, by their names in the format.
DTYPE_NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}


def write_shard(path: Path, arrays: Mapping[str, Sequence[Tensor]], metadata: Mapping[str, str]) -> None:
    """Write every array, given as pieces along its first axis, into one file that is there whole or not at all.

    Raises:
        OSError: the disk is full, or the folder may not be written.
    """
    # wide entries first: each array then begins at a multiple of its entries' width
    names = sorted(arrays, key=lambda name: (-arrays[name][0].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        pieces = arrays[name]
        begin, end = end, end + sum(piece.numel() * piece.element_size() for piece in pieces)
        shape = [sum(piece.shape[0] for piece in pieces), *pieces[0].shape[1:]] if pieces[0].dim() else []
        header[name] = {"dtype": DTYPE_NAMES[pieces[0].dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    values = (piece for name in names for piece in arrays[name])
    replace_file(path, [len(text).to_bytes(8, "little"), text], values)


def replace_file(path: Path, beginning: Sequence[bytes], values: Iterable[Tensor] = ()) -> None:
    """Write bytes, then the bytes of tensors, under a temporary name; move them to `path` once they are on the disk.

    Raises:
        OSError: the disk is full, or the folder may not be written.
    """
    # hidden: a file that was left half-written is never taken for a shard
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            for part in beginning:
                file.write(part)
            for tensor in values:
                file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        # the new name itself reaches the disk with its folder
        os.fsync(folder)
    finally:
        os.close(folder)
