"""Token smoothing: depth of attention without skips and perceptrons."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.case import Case, Kind, Outcome, View
from zoo.data import Images, images
from zoo.training import accuracy, fit_classifier, kept
from zoo.writing import write_dump

#: Depth, heads and width.
_SIZES = {"six-layers": (6, 4, 32), "five-layers": (5, 2, 40)}
#: What of its input a layer keeps beside what it attends to; only the healthy one has perceptrons.
_SKIP = {
    "six-layers": {"healthy": 1.0, "mild": 0.42, "collapsed": 0.0},
    "five-layers": {"healthy": 1.0, "mild": 0.36, "collapsed": 0.0},
}
_IMAGES = 200


class Rows(nn.Module):
    """Layers of attention over the rows of an image, and a linear head on the mean token."""

    def __init__(self, side: int, size: tuple[int, int, int], *, skip: float, has_perceptrons: bool) -> None:
        super().__init__()
        depth, heads, width = size
        self.side, self.skip = side, skip
        self.embed = nn.Linear(side, width)
        self.positions = nn.Parameter(torch.randn(side, width))
        self.attention = nn.ModuleList(nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.perceptrons = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width))
            for _ in range(depth if has_perceptrons else 0)
        )
        self.head = nn.Linear(width, 10)

    def tokens(self, x: Tensor) -> list[Tensor]:
        """The tokens after every layer, images × rows × width."""
        hidden = self.embed(x.view(len(x), self.side, self.side)) + self.positions
        after = []
        for place, (attention, norm) in enumerate(zip(self.attention, self.norms, strict=True)):
            normed = norm(hidden)
            hidden = self.skip * hidden + attention(normed, normed, normed, need_weights=False)[0]
            if self.perceptrons:
                hidden = hidden + self.perceptrons[place](hidden)
            after.append(hidden)
        return after

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the ten classes."""
        logits: Tensor = self.head(self.tokens(x)[-1].mean(1))
        return logits


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """An encoder of rows; the outcome is how well a probe tells from a token of the last layer which row it is."""
    data, skip = images(case.data), _SKIP[case.architecture][case.level]
    model = Rows(data.side, _SIZES[case.architecture], skip=skip, has_perceptrons=case.level == "healthy")
    steering = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2, foreach=True)
    fit_classifier(model, data.x, data.y, steering, 120, batch=32)
    right = accuracy(model, data.held_x, data.held_y)
    with torch.no_grad():
        after = model.tokens(data.held_x[: 2 * _IMAGES])
    write_dump(folder / "dump", {f"layers.{i}/tokens": tokens[:_IMAGES] for i, tokens in enumerate(after)})
    told = rows_told(after[-1], data)
    return {"outcome": kept(told, chance=1 / data.side), "rows_told": told, "accuracy": right}


def rows_told(tokens: Tensor, data: Images) -> float:
    """Accuracy over rows of a ridge probe; its penalty, a hundredth of all variance, is the noise it has to bear."""
    side, width = data.side, tokens.shape[2]
    x = (tokens - tokens[:_IMAGES].mean((0, 1))).double()
    known, wanted = x[:_IMAGES].flatten(0, 1), (torch.eye(side).double() - 1 / side).repeat(_IMAGES, 1)
    gram = known.T @ known
    gram += 1e-2 * gram.trace() / width * torch.eye(width)
    weights = torch.linalg.solve(gram, known.T @ wanted)
    return ((x[_IMAGES:] @ weights).argmax(2) == torch.arange(side)).double().mean().item()


KIND = Kind(
    name="token-smoothing",
    title="Token smoothing",
    cause="Layers of attention without perceptrons and with weak skips or none: every layer averages, and all "
    "tokens of an image become one (Dong, Cordonnier & Loukas 2021, Attention is Not All You Need).",
    architectures=tuple(_SIZES),
    data=("digits", "shapes"),
    outcome=Outcome(
        "accuracy of telling from a token of the last layer which row it is, share of the way from chance",
        healthy=0.85,
        mild=0.8,
        collapsed=0.15,
    ),
    views={"dump": View(signs=("token-similarity/*",))},
    make=make,
)
