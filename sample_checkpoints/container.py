"""Byte layouts of the sample files: a safetensors writer whose output depends on its input alone."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3",
}


def framed(header: bytes, body: bytes = b"") -> bytes:
    """A safetensors file of these header and body bytes, whether or not they agree."""
    return struct.pack("<Q", len(header)) + header + body


def header_bytes(header: Mapping[str, Any]) -> bytes:
    """The JSON of a header, padded with blanks to eight bytes as the format recommends."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def tensor_bytes(tensor: Tensor) -> bytes:
    """The little-endian bytes of a tensor, in row-major order."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A valid safetensors file. The library's own writer orders metadata by a random hash, so bytes would differ."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    parts: list[bytes] = []
    end = 0
    for name, tensor in tensors.items():
        part = tensor_bytes(tensor)
        begin, end = end, end + len(part)
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        parts.append(part)
    return framed(header_bytes(header), b"".join(parts))


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """A valid safetensors file on disk; its folder is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(safetensors_bytes(tensors, metadata))


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON file with two blanks of indentation and a final newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
