"""Sound training, step by step: what a run, a pair and a pool of checkpoints look like when nothing went wrong."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.training import accuracy, batches
from zoo.writing import write_weights

_CODES, _WIDTH = 32, 48
#: Steps between two checkpoints of a run, and how many there are; steps of a descendant.
_EVERY, _CHECKPOINTS, _FURTHER = 40, 6, 60


class _Quantized(nn.Module):
    """Six layers, the second quantised by a codebook that learns (van den Oord et al. 2017), and a head."""

    def __init__(self, pixels: int, *, has_codebook: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(wide, _WIDTH) for wide in (pixels, *[_WIDTH] * 5))
        self.head = nn.Linear(_WIDTH, 10)
        if has_codebook:
            self.quantizer = nn.ModuleDict({"embedding": nn.Embedding(_CODES, _WIDTH)})
        self.commitment = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """Logits; what the quantiser asks for is left in `commitment`."""
        first, second, *others = self.layers
        z = second(functional.relu(first(x)))
        codes = dict(self.named_parameters()).get("quantizer.embedding.weight")
        if codes is not None:
            near = codes[torch.cdist(z.detach(), codes).argmin(1)]
            # every code is drawn to encodings as well, so that none is left behind
            distances = torch.cdist(codes, z.detach()).amin(1).square().mean()
            self.commitment = functional.mse_loss(z, near.detach()) + functional.mse_loss(near, z.detach()) + distances
            z = z + (near - z).detach() * 0.5
        for layer in others:
            z = z + layer(functional.relu(z))
        return self.head(functional.relu(z))


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """Six checkpoints of one run, the first and the last as a pair, and four descendants of the last as a pool."""
    data = images(case.data)
    model = _Quantized(data.pixels, has_codebook=case.architecture == "quantised")
    held = [_snapshot(model)]
    for _ in range(_CHECKPOINTS):
        _train(model, data.x, data.y, _EVERY)
        held.append(_snapshot(model))
    for place, tensors in enumerate(held[1:], start=1):
        write_weights(folder / "run" / f"step-{place * _EVERY}", tensors)
    write_weights(folder / "pair" / "0-early", held[1])
    write_weights(folder / "pair" / "1-late", held[-1])
    write_weights(folder / "pool" / "0-base", held[-1])
    for child in range(1, 5):
        model.commitment = torch.zeros(())  # what hangs on the last step cannot be copied
        descendant = copy.deepcopy(model)
        chosen = torch.randperm(len(data.x))[: len(data.x) // 2]
        _train(descendant, data.x[chosen], data.y[chosen], _FURTHER)
        write_weights(folder / "pool" / f"{child}-descendant", _snapshot(descendant))
    return {"outcome": accuracy(model, data.held_x, data.held_y)}


def _snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def _train(model: _Quantized, x: Tensor, y: Tensor, steps: int) -> None:
    steering, following = torch.optim.AdamW(model.parameters(), lr=2e-3, foreach=True), batches(len(x), 64)
    for _ in range(steps):
        chosen = following()
        loss = functional.cross_entropy(model(x[chosen]), y[chosen]) + model.commitment
        steering.zero_grad()
        loss.backward()
        steering.step()


KIND = Kind(
    name="sound-training",
    title="Runs, pairs and pools of sound training",
    cause="AdamW at a common rate; descendants go on with one half of the data each.",
    architectures=("perceptron", "quantised"),
    data=("digits", "shapes"),
    outcome=Outcome("held-out accuracy", healthy=0.9, mild=0.8, collapsed=0.3),
    views={"run": View((), "trend"), "pair": View((), "diff"), "pool": View((), "diff")},
    make=make,
    is_control=True,
)
