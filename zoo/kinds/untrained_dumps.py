"""Controls: what networks that never learned anything give on real images.

Only what needs no training to be sound: an untrained head answers one class and untrained towers match at chance, and
to say so of them is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.case import Case, Kind, Outcome, View
from zoo.data import Images, images
from zoo.nets import convolutional, perceptron, through
from zoo.writing import write_dump

ROWS, PATCH = 400, 2


@dataclass(frozen=True, slots=True)
class _Given:
    """Arrays by rows, arrays without, and metadata of one dump."""

    rows: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)
    whole: dict[str, Tensor] = field(default_factory=dict)


def _x(data: Images) -> Tensor:
    """Standardised, as networks are fed."""
    return (data.x[:ROWS] - data.x.mean()) / data.x.std()


def _patches(data: Images, count: int = ROWS) -> Tensor:
    """N × places × pixels of a 2×2 patch."""
    side = data.side // PATCH
    x = _x(data)[:count].view(-1, side, PATCH, side, PATCH)
    return x.permute(0, 1, 3, 2, 4).reshape(len(x), side * side, PATCH * PATCH)


def _classifier(build: Callable[[Images], nn.Module]) -> Callable[[Images], _Given]:
    """Features of every block, with the classes of the images."""

    def given(data: Images) -> _Given:
        model = build(data).eval()
        return _Given(through(model, _x(data)) | {"labels": data.y[:ROWS]})  # type: ignore[arg-type]

    return given


class _Block(nn.Module):
    """A pre-norm block of one attention and one perceptron, which keeps its attention map."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norms = heads, nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, *, is_causal: bool) -> tuple[Tensor, Tensor]:
        """Tokens and attention, N × heads × T × T."""
        n, t, width = x.shape
        q, k, v = self.qkv(self.norms[0](x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-1, -2) * (width / self.heads) ** -0.5
        if is_causal:
            logits = logits.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), -torch.inf)
        attention = logits.softmax(-1)
        x = x + self.out((attention @ v).transpose(1, 2).reshape(n, t, width))
        return x + self.feed(self.norms[1](x)), attention


def _transformer(*, is_causal: bool, width: int = 32, depth: int = 2) -> Callable[[Images], _Given]:
    def given(data: Images) -> _Given:
        patches = _patches(data, 150)
        x = nn.Linear(patches.shape[2], width)(patches) + nn.Embedding(patches.shape[1], width).weight
        rows: dict[str, Tensor] = {}
        for place in range(depth):
            x, attention = _Block(width, 4)(x, is_causal=is_causal)
            rows |= {f"layers.{place}/tokens": x, f"layers.{place}/attention": attention}
        return _Given(rows, {"causal": str(is_causal).lower()})

    return given


def _mixture(data: Images) -> _Given:
    patches = _patches(data, 300)
    placed = nn.Linear(PATCH**2, 64)(patches) + nn.Embedding(patches.shape[1], 64).weight
    logits = nn.Linear(64, 8)(nn.LayerNorm(64)(placed)).flatten(0, 1)
    return _Given({"gate/router_logits": logits}, {"top_k": "2"})


def _variational(data: Images) -> _Given:
    hidden = nn.Sequential(nn.Linear(data.pixels, 128), nn.ReLU())(_x(data))
    return _Given({"mu": nn.Linear(128, 16)(hidden), "logvar": nn.Linear(128, 16)(hidden)})


def _quantizer(data: Images) -> _Given:
    """A codebook that begins as rows of the data, as Łańcucki et al. 2020 advise."""
    tokens = nn.Sequential(nn.Linear(PATCH**2, 64), nn.ReLU(), nn.Linear(64, 16))(_patches(data)).flatten(0, 1)
    codebook = tokens[torch.randperm(len(tokens))[:64]] + 0.01 * tokens.std() * torch.randn(64, 16)
    codes = torch.cdist(tokens, codebook).argmin(1)
    return _Given({"codes": codes}, {"codebook_size": "64"}, {"codebook": codebook})


def _clusters(data: Images) -> _Given:
    features = nn.Sequential(nn.Linear(data.pixels, 64), nn.ReLU())(_x(data))
    return _Given({"assignments": nn.Linear(64, 16)(features).softmax(1), "labels": data.y[:ROWS]})


def _dictionary(data: Images) -> _Given:
    return _Given({"sparse": nn.Linear(data.pixels, 256)(_x(data)).relu()}, {"activation": "relu"})


def _siamese(data: Images) -> _Given:
    model = nn.Sequential(nn.Linear(data.pixels, 64), nn.ReLU(), nn.Linear(64, 32))
    x = _x(data)
    views = [model(x + 0.3 * torch.randn_like(x)) for _ in range(2)]
    return _Given({"view_a": views[0], "view_b": views[1], "features": model(x)})


def _sets(data: Images) -> _Given:
    """Other images of the same kind stand for samples of a generator."""
    model = nn.Sequential(nn.Linear(data.pixels, 64), nn.ReLU(), nn.Linear(64, 32))
    x = _x(data)[torch.randperm(ROWS)]
    return _Given({"samples": model(x[: ROWS // 2]), "reference": model(x[ROWS // 2 :])})


def _recurrent(data: Images) -> _Given:
    states, _ = nn.LSTM(data.side, 48, batch_first=True)(_x(data).view(-1, data.side, data.side))
    return _Given({"rnn/tokens": states, "rnn/features": states[:, -1]}, {"pooling": "last"})


def _world(data: Images) -> _Given:
    logits = nn.Sequential(nn.Linear(data.pixels, 64), nn.SiLU(), nn.Linear(64, 8 * 8))(_x(data))
    return _Given({"latent_logits": logits.view(-1, 8, 8)})


def _regression(data: Images) -> _Given:
    features = nn.Sequential(nn.Linear(data.pixels, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())(_x(data))
    halves = torch.stack([half.mean(1) for half in _x(data).chunk(2, 1)], 1)
    return _Given({"features": features, "targets": halves})


_NETWORKS: dict[str, Callable[[Images], _Given]] = {
    "perceptron": _classifier(lambda data: perceptron(data.pixels)),
    "normed": _classifier(lambda data: perceptron(data.pixels, is_normed=True)),
    "deep": _classifier(lambda data: perceptron(data.pixels, widths=(64, 64, 64, 64))),
    "convolutional": _classifier(lambda data: convolutional(data.side, channels=(4, 8))),
    "transformer": _transformer(is_causal=False),
    "causal": _transformer(is_causal=True),
    "mixture": _mixture,
    "variational": _variational,
    "quantizer": _quantizer,
    "clusters": _clusters,
    "dictionary": _dictionary,
    "siamese": _siamese,
    "sets": _sets,
    "recurrent": _recurrent,
    "world": _world,
    "regression": _regression,
}


@torch.no_grad()
def make(case: Case, folder: Path) -> Mapping[str, float]:
    """One network built and run; nothing is trained."""
    given = _NETWORKS[case.architecture](images(case.data))
    write_dump(folder / "dump", given.rows, given.metadata, whole=given.whole)
    return {"outcome": 1.0}


KIND = Kind(
    name="untrained-dumps",
    title="Answers of untrained networks",
    cause="None: a random network keeps what its input tells apart.",
    architectures=tuple(_NETWORKS),
    data=("digits", "shapes"),
    outcome=Outcome("none: never trained", healthy=1.0, mild=0.0, collapsed=0.0),
    views={"dump": View(signs=("*",))},
    make=make,
    is_control=True,
)
