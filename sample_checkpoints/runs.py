"""Trains the sample runs. `python sample_checkpoints/runs.py [--only NAME] [--out DIR]`.

A run is a folder of ten checkpoints of one training, `step-0100` to `step-1000`. Its recipe starts from its own seed on
one CPU thread; two runs of the script on one machine with one version of torch give the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from classifiers import mlp
from container import write_safetensors
from torch import nn
from torch.nn import functional
from training import accuracy, batches, digits, seeded

#: Steps between two checkpoints, and in all.
EVERY, STEPS = 100, 1000
#: The step at which the cause of the collapse sets in.
ONSET = 500
RATE, DECAY = 0.1, 1e-3


def _trained(folder: Path, *, seed: int, change: Mapping[str, float]) -> str:
    """64-48-32-10 with SGD; `change` are the settings of the optimiser from step 500 on."""
    seeded(seed)
    sample, model = digits(), mlp(64, 48, 32, 10)
    steering = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=DECAY)
    following = batches(len(sample.x), 64)
    for step in range(1, STEPS + 1):
        if step == ONSET + 1:
            steering.param_groups[0].update(change)
        chosen = following()
        loss = functional.cross_entropy(model(sample.x[chosen]), sample.y[chosen])
        steering.zero_grad()
        loss.backward()
        steering.step()
        if step % EVERY == 0:
            facts = {"format": "pt", "model": folder.name, "task": "scikit-learn digits", "seed": str(seed)}
            figures = {"step": str(step), **_figures(model)}
            write_safetensors(folder / f"step-{step:04}.safetensors", model.state_dict(), facts | figures)
    return f"accuracy {accuracy(model, sample.held_x, sample.held_y):.3f}"


@torch.no_grad()
def _figures(model: nn.Module) -> dict[str, str]:
    """Loss on what is trained on and held-out accuracy, as a trainer would store them."""
    sample = digits()
    loss = functional.cross_entropy(model(sample.x), sample.y).item()
    return {
        "train_loss": f"{loss:.5f}",
        "val_accuracy": f"{(model(sample.held_x).argmax(1) == sample.held_y).float().mean().item():.4f}",
    }


def healthy_mlp(folder: Path) -> str:
    """The same settings to the end."""
    return _trained(folder / "healthy_mlp", seed=21, change={})


def collapsing_mlp(folder: Path) -> str:
    """From step 500 on a hundred times the weight decay: directions that the loss does not hold shrink to nothing."""
    return _trained(folder / "collapsing_mlp", seed=21, change={"weight_decay": 100 * DECAY})


RUNS = {recipe.__name__: recipe for recipe in (healthy_mlp, collapsing_mlp)}


def main() -> None:
    """Makes the runs that are asked for and prints their held-out figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=RUNS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "runs")
    given = parser.parse_args()
    for name in [given.only] if given.only else RUNS:
        print(f"{name}: {RUNS[name](given.out)}")


if __name__ == "__main__":
    main()
