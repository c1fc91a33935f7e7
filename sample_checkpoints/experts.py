"""Mixtures of experts on the digits, with the tensor names of Mixtral: balanced, and left to themselves."""

from __future__ import annotations

from pathlib import Path

import torch
from classifiers import saved, scored
from torch import Tensor, nn
from torch.nn import functional
from training import batches, digits, seeded

EXPERTS, WIDTH, HIDDEN = 8, 32, 48


class Expert(nn.Module):
    """A SiLU-gated perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Linear(WIDTH, HIDDEN, bias=False)
        self.w2 = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.w3 = nn.Linear(WIDTH, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The transformed rows."""
        return self.w2(functional.silu(self.w1(x)) * self.w3(x))


class SparseBlock(nn.Module):
    """Two of eight experts per token, their weights a softmax over the two chosen logits."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.experts = nn.ModuleList(Expert() for _ in range(EXPERTS))
        self.imbalance = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """The mixture; leaves the balancing loss of Switch Transformers 2021 in `imbalance`."""
        logits = self.gate(x)
        top, chosen = logits.topk(2)
        weights = torch.zeros_like(logits).scatter(1, chosen, top.softmax(1))
        load = (weights > 0).float().mean(0)
        self.imbalance = EXPERTS * (load * logits.softmax(1).mean(0)).sum() / 2
        return sum(weights[:, [e]] * expert(x) for e, expert in enumerate(self.experts))


class Mixture(nn.Module):
    """Every row of a digit is a token; one sparse block with a skip; a linear head over all tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.embed_rows = nn.Linear(8, WIDTH)
        self.model.positions = nn.Parameter(torch.randn(8, WIDTH))
        layer = nn.Module()
        layer.block_sparse_moe = SparseBlock()
        self.model.layers = nn.ModuleList([layer])
        self.classifier = nn.Linear(8 * WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the ten digits."""
        rows = (self.model.embed_rows(x.view(-1, 8, 8)) + self.model.positions).view(-1, WIDTH)
        rows = rows + self.model.layers[0].block_sparse_moe(rows)
        return self.classifier(rows.view(-1, 8 * WIDTH))


def mixture(seed: int, *, steps: int, decay: float, rate: float, balance: float) -> Mixture:
    """A trained mixture."""
    seeded(seed)
    sample, model = digits(), Mixture()
    block = model.model.layers[0].block_sparse_moe
    steering = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=decay)
    following = batches(len(sample.x), 64)
    for _ in range(steps):
        chosen = following()
        loss = functional.cross_entropy(model(sample.x[chosen]), sample.y[chosen]) + balance * block.imbalance
        steering.zero_grad()
        loss.backward()
        steering.step()
    return model.eval()


def healthy_moe(folder: Path) -> str:
    """Eight experts with a load-balancing loss."""
    model = mixture(31, steps=500, decay=1e-2, rate=2e-3, balance=0.05)
    held_out = scored(model)
    return saved(folder / "healthy_moe.safetensors", model.state_dict(), seed=31, held_out=held_out)


def moe_collapse(folder: Path) -> str:
    """No balancing loss: experts that lose the router get no gradient, and decay takes their weights."""
    model = mixture(32, steps=4000, decay=0.3, rate=1e-2, balance=0.0)
    held_out = scored(model)
    return saved(folder / "moe_collapse.safetensors", model.state_dict(), seed=32, held_out=held_out)
