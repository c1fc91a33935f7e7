"""Small mixtures of experts in the layout of Mixtral, over the rows of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.data import Images
from zoo.training import batches, descend

__all__ = ["Mixture", "Size", "config", "fit", "right_share"]


@dataclass(frozen=True, slots=True)
class Size:
    """How many experts there are, how many a token gets, and their widths."""

    experts: int
    chosen: int
    width: int = 32
    hidden: int = 32


class Expert(nn.Module):
    """A SiLU-gated perceptron."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.w1 = nn.Linear(size.width, size.hidden, bias=False)
        self.w2 = nn.Linear(size.hidden, size.width, bias=False)
        self.w3 = nn.Linear(size.width, size.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The transformed rows."""
        moved: Tensor = self.w2(functional.silu(self.w1(x)) * self.w3(x))
        return moved


class SparseBlock(nn.Module):
    """Few of the experts for every token, weighted by a softmax over the chosen logits."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size
        self.gate = nn.Linear(size.width, size.experts, bias=False)
        self.experts = nn.ModuleList(Expert(size) for _ in range(size.experts))
        self.imbalance = torch.zeros(())
        #: Logits of experts that are not to be chosen are lowered by infinity.
        self.closed: tuple[int, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        """The mixture; leaves the balancing loss of Fedus et al. 2022 in `imbalance`, 1 when even."""
        logits = self.gate(x)
        if self.closed:
            logits[:, list(self.closed)] = -torch.inf
        top, chosen = logits.topk(self.size.chosen)
        weights = torch.zeros_like(logits).scatter(1, chosen, top.softmax(1))
        load = (weights.detach() > 0).float().mean(0)
        self.imbalance = self.size.experts * (load * logits.softmax(1).mean(0)).sum() / self.size.chosen
        every = torch.stack([expert(x) for expert in self.experts], 1)
        mixed: Tensor = (weights[:, :, None] * every).sum(1)
        return mixed


class Mixture(nn.Module):
    """Every row of an image is a token; one sparse block with a skip; a linear head over all tokens."""

    def __init__(self, data: Images, size: Size, *, common: float = 0.0) -> None:
        super().__init__()
        self.side = data.side
        self.model = nn.Module()
        self.model.embed_rows = nn.Linear(data.side, size.width)
        self.model.positions = nn.Parameter(torch.randn(data.side, size.width))
        layer = nn.Module()
        layer.block_sparse_moe = SparseBlock(size)
        self.model.layers = nn.ModuleList([layer])
        self.classifier = nn.Linear(data.side * size.width, 10)
        with torch.no_grad():
            self.get_parameter("model.embed_rows.bias").add_(common)

    @property
    def sparse(self) -> SparseBlock:
        """The block of experts."""
        block = self.get_submodule("model.layers.0.block_sparse_moe")
        assert isinstance(block, SparseBlock)  # noqa: S101
        return block

    def rows(self, x: Tensor) -> Tensor:
        """The tokens that the router sees, all images in one."""
        embedded: Tensor = self.get_submodule("model.embed_rows")(x.view(len(x), self.side, self.side))
        return (embedded + self.get_parameter("model.positions")).flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the ten classes."""
        rows = self.rows(x)
        rows = rows + self.sparse(rows)
        logits: Tensor = self.classifier(rows.view(len(x), -1))
        return logits


def fit(model: Mixture, data: Images, steps: int, *, rate: float, balance: float) -> None:
    """AdamW on batches of 64 with a cosine, the balancing loss weighted by `balance`."""
    steering = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=1e-2, foreach=True)
    following = batches(len(data.x), 64)

    def loss() -> Tensor:
        chosen = following()
        return functional.cross_entropy(model(data.x[chosen]), data.y[chosen]) + balance * model.sparse.imbalance

    descend(steering, loss, steps)


@torch.no_grad()
def right_share(model: Mixture, data: Images) -> float:
    """Held-out accuracy."""
    return (model(data.held_x).argmax(1) == data.held_y).double().mean().item()


def config(size: Size) -> Mapping[str, Any]:
    """The `config.json` of such a Mixtral."""
    return {
        "model_type": "mixtral",
        "num_local_experts": size.experts,
        "num_experts_per_tok": size.chosen,
        "hidden_size": size.width,
        "intermediate_size": size.hidden,
        "num_hidden_layers": 1,
    }
