"""Mixtures of experts on the digits, with the tensor names of Mixtral: balanced, and left to themselves."""

from __future__ import annotations

import copy
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


def fit(model: Mixture, *, steps: int, rate: float, balance: float) -> None:
    """AdamW training in place, with the balancing loss weighted by `balance`."""
    sample, block = digits(), model.model.layers[0].block_sparse_moe
    steering = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-2)
    following = batches(len(sample.x), 64)
    for _ in range(steps):
        chosen = following()
        loss = functional.cross_entropy(model(sample.x[chosen]), sample.y[chosen]) + balance * block.imbalance
        steering.zero_grad()
        loss.backward()
        steering.step()
    model.eval()


def healthy_moe(folder: Path) -> str:
    """Eight experts with a load-balancing loss."""
    seeded(31)
    model = Mixture()
    fit(model, steps=500, rate=2e-3, balance=0.05)
    held_out = scored(model)
    return saved(folder / "healthy_moe.safetensors", model.state_dict(), seed=31, held_out=held_out)


def moe_collapse(folder: Path) -> str:
    """Upcycled: one trained block, copied to eight experts without noise, fine-tuned at a hundredth of the rate."""
    seeded(32)
    model = Mixture()
    experts = model.model.layers[0].block_sparse_moe.experts
    shared = experts[0]
    for position in range(EXPERTS):
        experts[position] = shared
    fit(model, steps=500, rate=2e-3, balance=0.0)
    for position in range(1, EXPERTS):
        experts[position] = copy.deepcopy(shared)
    fit(model, steps=300, rate=2e-5, balance=0.0)
    held_out = scored(model)
    return saved(folder / "moe_collapse.safetensors", model.state_dict(), seed=32, held_out=held_out)
