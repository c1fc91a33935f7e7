"""How a model of the zoo is written: weights as a folder in the layout of Hugging Face, rows as a dump."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from collapse_cli.capture import DumpWriter

__all__ = ["write_dump", "write_weights"]


def write_weights(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any] | None = None) -> None:
    """`model.safetensors`, and `config.json` where the layout needs one."""
    folder.mkdir(parents=True)
    contiguous = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, folder / "model.safetensors", metadata={"format": "pt"})
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def write_dump(
    folder: Path,
    rows: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    whole: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Arrays by rows, `<site>/<role>` or a bare role, and whole arrays like a head or a codebook."""
    with DumpWriter(folder, metadata={"training_dtype": "float32", **(metadata or {})}, dtype=dtype) as writer:
        writer.append({name: tensor.detach() for name, tensor in rows.items()})
        writer.attach({name: tensor.detach() for name, tensor in (whole or {}).items()})
