"""Softmax collapse: modular arithmetic without decay, with the softmax in half precision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.case import Case, Kind, Level, Outcome, View
from zoo.training import accuracy, descend
from zoo.writing import write_dump

_PRIME = 23
#: Steps and rate without decay and with a softmax in float16: embeddings make the logits grow faster.
_RECIPES: dict[str, dict[Level, tuple[int, float]]] = {
    "one-hot": {"mild": (650, 1e-2), "collapsed": (100, 3e-2)},
    "embedded": {"mild": (450, 5e-3), "collapsed": (100, 3e-2)},
}
_HEALTHY = (700, 2e-2)


class Calculator(nn.Module):
    """Two numbers below the prime → logits of the result, from one-hot rows or from learned embeddings."""

    def __init__(self, *, is_embedded: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(_PRIME, 48) if is_embedded else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=0.3)
        self.hidden = nn.Linear(96 if is_embedded else 2 * _PRIME, 128)
        self.head = nn.Linear(128, _PRIME)

    def features(self, pairs: Tensor) -> Tensor:
        """N × 128."""
        rows = functional.one_hot(pairs, _PRIME).float() if self.embedding is None else self.embedding(pairs)
        return self.hidden(rows.flatten(1)).relu()

    def forward(self, pairs: Tensor) -> Tensor:
        """Logits, N × prime."""
        return self.head(self.features(pairs))


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """Full batches of four fifths of all pairs."""
    is_healthy = case.level == "healthy"
    steps, rate = _HEALTHY if is_healthy else _RECIPES[case.architecture][case.level]
    dtype = torch.float32 if is_healthy else torch.float16
    pairs = torch.cartesian_prod(torch.arange(_PRIME), torch.arange(_PRIME))[torch.randperm(_PRIME**2)]
    y = (pairs.sum(1) if case.data == "addition" else pairs[:, 0] - pairs[:, 1]) % _PRIME
    count = _PRIME**2 * 4 // 5
    x, y, held_x, held_y = pairs[:count], y[:count], pairs[count:], y[count:]
    model = Calculator(is_embedded=case.architecture == "embedded")
    steering = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=float(is_healthy), foreach=True)
    descend(steering, lambda: functional.cross_entropy(model(x).to(dtype), y), steps, is_cosine=False)
    teaching = _teaching(model(x).detach(), y, dtype)
    said = {"split": "train", "training_dtype": str(dtype).removeprefix("torch.")}
    write_dump(folder / "dump", {"logits": model(x), "labels": y}, said)
    figures = {"held out": accuracy(model, held_x, held_y), "training": accuracy(model, x, y)}
    return {"outcome": teaching, **figures}


def _teaching(logits: Tensor, y: Tensor, dtype: torch.dtype) -> float:
    """Share of rows whose own class still gets a gradient, as differentiation in the dtype of the softmax gives it."""
    logits = logits.to(dtype).requires_grad_()
    functional.cross_entropy(logits, y, reduction="sum").backward()
    assert logits.grad is not None  # noqa: S101
    return (logits.grad[torch.arange(len(y)), y] != 0).double().mean().item()


KIND = Kind(
    name="softmax-collapse",
    title="Softmax collapse",
    cause="Modular arithmetic without weight decay and a softmax in float16: the logits grow until the right answer "
    "gets no gradient (Prieto et al. 2025, Grokking at the Edge of Numerical Stability).",
    architectures=("one-hot", "embedded"),
    data=("addition", "subtraction"),
    outcome=Outcome(
        "share of training rows whose own class still gets a gradient", healthy=0.8, mild=0.5, collapsed=0.02
    ),
    views={"dump": View(signs=("softmax-collapse/*",))},
    make=make,
)
