"""A small decoder whose tensors have the names of a Llama checkpoint."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model, under the names of `config.json`."""

    vocab_size: int
    hidden_size: int = 96
    intermediate_size: int = 192
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    num_key_value_heads: int = 2

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads


class RootMeanSquareNorm(nn.Module):
    """A gain on vectors of unit root mean square."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """The normalised and scaled vectors."""
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


class Attention(nn.Module):
    """Causal attention with rotary positions and shared key/value heads."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kept = shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, kept, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, kept, bias=False)
        self.o_proj = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The attended vectors."""
        batch, length, _ = x.shape
        queries, keys, values = (
            part.view(batch, length, -1, self.shape.head_dim).transpose(1, 2)
            for part in (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        )
        groups = self.shape.num_attention_heads // self.shape.num_key_value_heads
        keys, values = rotated(keys).repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
        scores = rotated(queries) @ keys.transpose(-1, -2) / math.sqrt(self.shape.head_dim)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(future, -math.inf).softmax(-1) @ values
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


class GatedPerceptron(nn.Module):
    """The SiLU-gated perceptron of a block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """The transformed vectors."""
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Attention and perceptron, each behind a norm and beside a skip."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = GatedPerceptron(shape)
        self.input_layernorm = RootMeanSquareNorm(shape.hidden_size)
        self.post_attention_layernorm = RootMeanSquareNorm(shape.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """The next residual stream."""
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class LanguageModel(nn.Module):
    """A decoder over pieces of text; `state_dict` has the names of a Llama checkpoint."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.model.layers = nn.ModuleList(Block(shape) for _ in range(shape.num_hidden_layers))
        self.model.norm = RootMeanSquareNorm(shape.hidden_size)
        self.lm_head = nn.Linear(shape.hidden_size, shape.vocab_size, bias=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=1 / math.sqrt(shape.hidden_size))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next piece."""
        x = self.model.embed_tokens(tokens)
        for block in self.model.layers:
            x = block(x)
        return self.lm_head(self.model.norm(x))


class LowRankUpdate(nn.Module):
    """A frozen linear layer beside its trained update of rank r, scaled by α/r."""

    def __init__(self, frozen: nn.Linear, rank: int, alpha: int) -> None:
        super().__init__()
        self.frozen, self.scale = frozen.requires_grad_(requires_grad=False), alpha / rank
        self.lora_A = nn.Linear(frozen.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, frozen.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both."""
        return self.frozen(x) + self.scale * self.lora_B(self.lora_A(x))


def rotated(x: Tensor) -> Tensor:
    """Heads turned by their rotary positions (batch, heads, tokens, width), in the half-split order of Llama."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[2])[:, None] / 10000 ** (torch.arange(half) / half)
    cosine, sine = angles.cos(), angles.sin()
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)
