"""How a sample dump is written: its folder renewed, its facts in the metadata, floating numbers in float16."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from collapse_cli.capture import DumpWriter, capture

#: One split: inputs, and what is known of each sample by role.
Samples = tuple[Tensor, Mapping[str, Tensor]]


def facts(path: Path, *, seed: int, held_out: str, split: str) -> dict[str, str]:
    """The metadata of a sample dump."""
    return {
        "model": path.name,
        "training_dtype": "float32",
        "split": split,
        "task": "scikit-learn digits",
        "seed": str(seed),
        "held_out": held_out,
    }


def renewed(path: Path) -> Path:
    """The path, where no dump stands any more."""
    if path.exists():
        shutil.rmtree(path)
    return path


def written(
    path: Path, rows: Mapping[str, Tensor], metadata: Mapping[str, str], whole: Mapping[str, Tensor] | None = None
) -> str:
    """The held-out figure, after arrays by rows, and whole arrays like a head, were written."""
    with DumpWriter(renewed(path), metadata=metadata, dtype=torch.float16) as writer:
        writer.append(rows)
        writer.attach(whole or {})
    return metadata["held_out"]


def captured(path: Path, model: nn.Module, samples: Samples, sites: list[str], metadata: Mapping[str, str]) -> str:
    """The held-out figure, after the outputs of the modules at `sites` were captured over the samples."""
    inputs, known = samples
    batch = {"inputs": inputs, **known}
    capture(
        model,
        [(inputs, batch)],
        sites=sites,
        out=renewed(path),
        columns={role: lambda pair, role=role: pair[1][role] for role in known},
        metadata=metadata,
        dtype=torch.float16,
    )
    return metadata["held_out"]


@torch.no_grad()
def through(layers: nn.Sequential, x: Tensor) -> dict[str, Tensor]:
    """What each block `layers.N` gives, by the name of its array."""
    arrays = {}
    for position, block in enumerate(layers):
        x = block(x)
        arrays[f"layers.{position}/features"] = x
    return arrays


def neighbour_accuracy(train: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor]) -> float:
    """Share of held-out rows whose five nearest training rows vote for their label."""
    from sklearn.neighbors import KNeighborsClassifier

    voters = KNeighborsClassifier(5).fit(train[0].numpy(), train[1].numpy())
    return float((voters.predict(held[0].numpy()) == held[1].numpy()).mean())
