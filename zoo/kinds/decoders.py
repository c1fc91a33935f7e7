"""Small decoders in the layout of Llama, the token streams that they learn, and what of a stream needs attention."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "TEXT",
    "WINDOW",
    "Decoder",
    "Shape",
    "Stream",
    "config",
    "fit",
    "held_out_loss",
    "llama_names",
    "stream",
]

WINDOW = 32
TEXT = Path(__file__).parent.parent.parent / "sample_checkpoints" / "text" / "apache-2.0.txt"


@dataclass(frozen=True, slots=True)
class Stream:
    """Tokens to train on and held-out ones, with the loss in nats of a model that knows pairs of neighbours only."""

    tokens: Tensor
    held: Tensor
    vocabulary: int
    neighbours: float


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a decoder."""

    layers: int
    width: int
    heads: int
    kv_heads: int

    @property
    def head_width(self) -> int:
        """Numbers of one head."""
        return self.width // self.heads


@cache
def stream(name: str) -> Stream:
    """The characters of the Apache licence, or a drawn grammar."""
    return _licence() if name == "licence" else _grammar()


def _licence() -> Stream:
    """Every tenth paragraph is held out; characters rarer than eight are one."""
    text = TEXT.read_text(encoding="ascii").lower()
    kept = sorted(one for one in set(text) if text.count(one) >= 8)
    places = {one: place for place, one in enumerate(kept)}
    paragraphs = text.split("\n\n")
    parts = ([p for i, p in enumerate(paragraphs) if i % 10 != 5], paragraphs[5::10])
    tokens, held = (torch.tensor([places.get(one, len(kept)) for one in "\n\n".join(part)]) for part in parts)
    return Stream(tokens, held, len(kept) + 1, _neighbours(tokens, held, len(kept) + 1))


def _grammar(count: int = 40_000, symbols: int = 20) -> Stream:
    """A symbol follows from the one before it and, mostly, from the second before it: a table drawn once."""
    generator = torch.Generator().manual_seed(24)
    table = torch.randint(symbols, (symbols, 2), generator=generator)
    free = torch.rand(count, generator=generator)
    drawn = torch.randint(symbols, (count,), generator=generator).tolist()
    by_before, by_second = table.T.tolist()
    made = drawn[:2]
    for place in range(2, count):
        chance = float(free[place])
        if chance < 0.15:
            made.append(drawn[place])
        elif chance < 0.3:
            made.append(by_before[made[-1]])
        else:
            made.append((by_second[made[-2]] + drawn[place] % 2) % symbols)
    tokens = torch.tensor(made)
    return Stream(tokens[4000:], tokens[:4000], symbols, _neighbours(tokens[4000:], tokens[:4000], symbols))


def _neighbours(tokens: Tensor, held: Tensor, vocabulary: int) -> float:
    """Nats per held-out token of the table of pairs, a tenth added to every count."""
    pairs = torch.bincount(tokens[:-1] * vocabulary + tokens[1:], minlength=vocabulary**2).double() + 0.1
    table = pairs.view(vocabulary, vocabulary)
    table = table / table.sum(1, keepdim=True)
    return -table[held[:-1], held[1:]].log().mean().item()


class Norm(nn.Module):
    """A gain on vectors of unit root mean square."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """The normalised and scaled vectors."""
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


class Attention(nn.Module):
    """Causal attention with rotary positions and shared key/value heads."""

    cosine: Tensor
    sine: Tensor
    future: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kept = shape.kv_heads * shape.head_width
        self.q_proj = nn.Linear(shape.width, shape.width, bias=False)
        self.k_proj = nn.Linear(shape.width, kept, bias=False)
        self.v_proj = nn.Linear(shape.width, kept, bias=False)
        self.o_proj = nn.Linear(shape.width, shape.width, bias=False)
        cosine, sine = _turns(shape.head_width)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)
        future = torch.ones(WINDOW, WINDOW, dtype=torch.bool).triu(1)
        self.register_buffer("future", future, persistent=False)

    def maps(self, x: Tensor) -> Tensor:
        """What every query takes of every key: sequences × heads × queries × keys."""
        length = x.shape[1]
        queries, keys = (self._turned(self._split(part)) for part in (self.q_proj(x), self.k_proj(x)))
        keys = keys.repeat_interleave(self.shape.heads // self.shape.kv_heads, 1)
        scores = queries @ keys.transpose(-1, -2) / math.sqrt(self.shape.head_width)
        return scores.masked_fill(self.future[:length, :length], -math.inf).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """The attended vectors."""
        values = self._split(self.v_proj(x)).repeat_interleave(self.shape.heads // self.shape.kv_heads, 1)
        mixed: Tensor = self.o_proj((self.maps(x) @ values).transpose(1, 2).flatten(2))
        return mixed

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.shape.head_width).transpose(1, 2)

    def _turned(self, x: Tensor) -> Tensor:
        half, length = x.shape[-1] // 2, x.shape[2]
        first, second = x[..., :half], x[..., half:]
        cosine, sine = self.cosine[:length], self.sine[:length]
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def _turns(width: int) -> tuple[Tensor, Tensor]:
    half = width // 2
    angles = torch.arange(WINDOW)[:, None] / 10000 ** (torch.arange(half) / half)
    return angles.cos(), angles.sin()


class GatedPerceptron(nn.Module):
    """The SiLU-gated perceptron of a block, twice as wide as the stream."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, 2 * width, bias=False)
        self.up_proj = nn.Linear(width, 2 * width, bias=False)
        self.down_proj = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The transformed vectors."""
        moved: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return moved


class Block(nn.Module):
    """Attention and perceptron, each behind a norm and beside a skip."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = GatedPerceptron(shape.width)
        self.input_layernorm = Norm(shape.width)
        self.post_attention_layernorm = Norm(shape.width)

    def forward(self, x: Tensor) -> Tensor:
        """The next residual stream."""
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Tokens → logits of the next; weights start at variance 1/width."""

    def __init__(self, shape: Shape, vocabulary: int, *, is_tied: bool = False) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(vocabulary, shape.width)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = Norm(shape.width)
        self.lm_head = nn.Linear(shape.width, vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=1 / math.sqrt(shape.width))
        if is_tied:
            self.lm_head.weight = self.embed_tokens.weight

    @property
    def blocks(self) -> list[Block]:
        """The layers in order."""
        return [block for block in self.layers if isinstance(block, Block)]

    def forward(self, tokens: Tensor) -> Tensor:
        """Sequences × tokens × vocabulary."""
        x = self.embed_tokens(tokens)
        for block in self.layers:
            x = block(x)
        logits: Tensor = self.lm_head(self.norm(x))
        return logits

    @torch.no_grad()
    def maps(self, tokens: Tensor) -> dict[str, Tensor]:
        """The attention of every layer by the name of its array in a dump."""
        x, arrays = self.embed_tokens(tokens), {}
        for place, block in enumerate(self.blocks):
            arrays[f"layers.{place}.self_attn/attention"] = block.self_attn.maps(block.input_layernorm(x))
            x = block(x)
        return arrays


def _loss(model: nn.Module, windows: Tensor) -> Tensor:
    """Nats per token of windows, rows of WINDOW + 1 tokens."""
    logits: Tensor = model(windows[:, :-1])
    return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def fit(
    model: nn.Module, tokens: Tensor, groups: Iterable[Mapping[str, Any]], steps: int, *, warm_up: int = 20
) -> None:
    """AdamW on sixteen windows a step, with warm-up and then a cosine; `groups` are those of the optimizer."""
    steering = torch.optim.AdamW([dict(group) for group in groups], betas=(0.9, 0.99), foreach=True)
    rates = torch.optim.lr_scheduler.LambdaLR(
        steering,
        lambda done: min((done + 1) / (warm_up + 1), 1) * (0.55 + 0.45 * math.cos(math.pi * done / steps)),
    )
    span = torch.arange(WINDOW + 1)
    for _ in range(steps):
        loss = _loss(model, tokens[torch.randint(len(tokens) - WINDOW, (16, 1)) + span])
        steering.zero_grad()
        loss.backward()
        steering.step()
        rates.step()


@torch.no_grad()
def held_out_loss(model: nn.Module, held: Tensor) -> float:
    """Nats per token over windows that overlap by half; only their later halves count, which have context."""
    windows = held.unfold(0, WINDOW + 1, WINDOW // 2)
    logits = model(windows[:, :-1])[:, WINDOW // 2 :]
    return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1 + WINDOW // 2 :].flatten()).item()


def llama_names(model: Decoder) -> dict[str, Tensor]:
    """The weights under the names of a Llama checkpoint."""
    return {
        name if name.startswith("lm_head") else f"model.{name}": tensor
        for name, tensor in model.state_dict().items()
        if not (name == "lm_head.weight" and model.lm_head.weight is model.embed_tokens.weight)
    }


def config(model: Decoder) -> dict[str, Any]:
    """The `config.json` of such a Llama."""
    shape = model.shape
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.embed_tokens.num_embeddings,
        "hidden_size": shape.width,
        "intermediate_size": 2 * shape.width,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": WINDOW,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": model.lm_head.weight is model.embed_tokens.weight,
        "torch_dtype": "float32",
    }
