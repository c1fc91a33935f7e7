"""Sample dumps of sequence models: attention, tokens, routing, logits of a grokking task; healthy beside collapsed."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from classifiers import mlp, scored
from corpus import held_out_loss, tokens, unigram_loss, vocabulary
from dump_store import facts, written
from experts import Mixture, fit
from language import step, trained
from llama import Attention, LanguageModel, Shape, rotated
from torch import Tensor, nn
from torch.nn import functional
from training import batches, digits, seeded

LENGTH, SEQUENCES = 40, 10
PRIME = 31


# --- attention -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def attention_maps(attention: Attention, x: Tensor) -> Tensor:
    """The causal attention of every head, sequences × heads × queries × keys."""
    shape = attention.shape
    queries, keys = (
        part.view(*x.shape[:2], -1, shape.head_dim).transpose(1, 2)
        for part in (attention.q_proj(x), attention.k_proj(x))
    )
    keys = rotated(keys).repeat_interleave(shape.num_attention_heads // shape.num_key_value_heads, 1)
    scores = rotated(queries) @ keys.transpose(-1, -2) / math.sqrt(shape.head_dim)
    future = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(-1)


@torch.no_grad()
def attended(model: LanguageModel, text: Tensor) -> dict[str, Tensor]:
    """The attention of every layer over the first windows of a text."""
    x = model.model.embed_tokens(text.unfold(0, LENGTH, LENGTH)[:SEQUENCES])
    arrays = {}
    for place, block in enumerate(model.model.layers):
        arrays[f"layers.{place}.self_attn/attention"] = attention_maps(block.self_attn, block.input_layernorm(x))
        x = block(x)
    return arrays


def attention_healthy(folder: Path) -> str:
    """Two layers of four heads, warm-up and cosine."""
    model, _, held_out = trained(91)
    path = folder / "attention_healthy"
    said = facts(path, seed=91, held_out=held_out, split="held out") | {"task": "next piece of text", "causal": "true"}
    return written(path, attended(model, tokens("apache-2.0")[1]), said)


def attention_entropy_collapse(folder: Path) -> str:
    """Queries and keys at sixty times the rate of the rest, no warm-up, no decay: their logits run away."""
    seeded(92)
    text, held = tokens("apache-2.0")
    model = LanguageModel(Shape(vocab_size=len(vocabulary()), num_hidden_layers=2))
    scores = [p for name, p in model.named_parameters() if "q_proj" in name or "k_proj" in name]
    others = [p for name, p in model.named_parameters() if "q_proj" not in name and "k_proj" not in name]
    steering = torch.optim.AdamW([{"params": scores, "lr": 0.12}, {"params": others, "lr": 2e-3}], weight_decay=0.0)
    for _ in range(300):
        step(model, steering, text)
    held_out = f"loss {held_out_loss(model, held):.2f} nats (unigram {unigram_loss(text, held):.2f})"
    path = folder / "attention_entropy_collapse"
    said = facts(path, seed=92, held_out=held_out, split="held out") | {"task": "next piece of text", "causal": "true"}
    return written(path, attended(model, held), said)


# --- tokens ----------------------------------------------------------------------------------------------------------


class Stack(nn.Module):
    """Layers of attention over the eight rows of a digit, with skips and perceptrons or with neither."""

    def __init__(self, depth: int, *, has_skips: bool, width: int = 32) -> None:
        super().__init__()
        self.has_skips = has_skips
        self.embed = nn.Linear(8, width)
        self.positions = nn.Parameter(torch.randn(8, width))
        self.attention = nn.ModuleList(nn.MultiheadAttention(width, 4, batch_first=True) for _ in range(depth))
        self.perceptrons = nn.ModuleList(mlp(width, 2 * width, width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def layers(self, x: Tensor) -> list[Tensor]:
        """The tokens after every layer."""
        hidden = self.embed(x.view(-1, 8, 8)) + self.positions
        result = []
        for attention, perceptron, norm in zip(self.attention, self.perceptrons, self.norms, strict=True):
            normed = norm(hidden)
            mixed = attention(normed, normed, normed, need_weights=False)[0]
            hidden = hidden + mixed if self.has_skips else mixed
            hidden = hidden + perceptron(norm(hidden)) if self.has_skips else hidden
            result.append(hidden)
        return result

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the ten digits."""
        return self.head(self.layers(x)[-1].mean(1))


def token_stack(path: Path, *, seed: int, has_skips: bool) -> str:
    """Eight layers trained on the digits, and the tokens of 64 held-out digits after each."""
    seeded(seed)
    sample, model = digits(), Stack(8, has_skips=has_skips)
    steering = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    following = batches(len(sample.x), 64)
    for _ in range(400):
        chosen = following()
        loss = functional.cross_entropy(model(sample.x[chosen]), sample.y[chosen])
        steering.zero_grad()
        loss.backward()
        steering.step()
    held_out = scored(model)
    with torch.no_grad():
        states = model.layers(sample.held_x[:64])
    said = facts(path, seed=seed, held_out=held_out, split="held out")
    return written(path, {f"layers.{place}/tokens": state for place, state in enumerate(states)}, said)


def tokens_healthy(folder: Path) -> str:
    """Eight layers with skips and perceptrons."""
    return token_stack(folder / "tokens_healthy", seed=93, has_skips=True)


def token_smoothing(folder: Path) -> str:
    """Eight layers of attention alone, without skips."""
    return token_stack(folder / "token_smoothing", seed=94, has_skips=False)


# --- routing ---------------------------------------------------------------------------------------------------------


def routed(path: Path, model: Mixture, *, seed: int) -> str:
    """The router's logits and choices for every row of the held-out digits."""
    held = digits().held_x
    with torch.no_grad():
        rows = (model.model.embed_rows(held.view(-1, 8, 8)) + model.model.positions).view(-1, 32)
        logits = model.model.layers[0].block_sparse_moe.gate(rows)
    said = facts(path, seed=seed, held_out=scored(model), split="held out") | {"top_k": "2"}
    site = "layers.0.block_sparse_moe.gate"
    return written(path, {f"{site}/router_logits": logits, f"{site}/expert_index": logits.topk(2).indices}, said)


def routing_healthy(folder: Path) -> str:
    """Eight experts with the load-balancing loss."""
    seeded(95)
    model = Mixture()
    fit(model, steps=500, rate=2e-3, balance=0.05)
    return routed(folder / "routing_healthy", model, seed=95)


def routing_collapse(folder: Path) -> str:
    """No load-balancing loss, and a router that starts on a large common component of the tokens."""
    seeded(96)
    model = Mixture()
    with torch.no_grad():
        model.model.embed_rows.bias += 4.0
    fit(model, steps=500, rate=2e-3, balance=0.0)
    return routed(folder / "routing_collapse", model, seed=96)


# --- logits ----------------------------------------------------------------------------------------------------------


def modular(path: Path, *, seed: int, decay: float, steps: int, dtype: torch.dtype) -> str:
    """A perceptron on a + b modulo 31, four fifths of all pairs to train on, full batches; the softmax in `dtype`."""
    seeded(seed)
    first, second = torch.meshgrid(torch.arange(PRIME), torch.arange(PRIME), indexing="ij")
    pairs = torch.stack([first.flatten(), second.flatten()], 1)
    order = torch.randperm(len(pairs))
    x = torch.cat([functional.one_hot(pairs[:, side], PRIME) for side in (0, 1)], 1).float()[order]
    y = pairs.sum(1)[order] % PRIME
    half = len(pairs) * 4 // 5
    model = mlp(2 * PRIME, 128, PRIME)
    steering = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=decay)
    for _ in range(steps):
        loss = functional.cross_entropy(model(x[:half]).to(dtype), y[:half])
        steering.zero_grad()
        loss.backward()
        steering.step()
    with torch.no_grad():
        logits = model(x)
        right = [
            (logits[part].argmax(1) == y[part]).double().mean().item() for part in (slice(half), slice(half, None))
        ]
    held_out = f"accuracy {right[1]:.3f}, on what it was trained on {right[0]:.3f} at loss {loss.item():.1e}"
    said = facts(path, seed=seed, held_out=held_out, split="train")
    said |= {"task": f"addition modulo {PRIME}", "training_dtype": str(dtype).removeprefix("torch.")}
    return written(path, {"logits": logits[:half], "labels": y[:half]}, said)


def logits_healthy(folder: Path) -> str:
    """Strong weight decay and a softmax in float32: the pairs that were held out are learned too."""
    return modular(folder / "logits_healthy", seed=97, decay=1.0, steps=2000, dtype=torch.float32)


def softmax_collapse(folder: Path) -> str:
    """No decay and a softmax in float16: the logits grow until every right answer gets no gradient at all."""
    return modular(folder / "softmax_collapse", seed=98, decay=0.0, steps=6000, dtype=torch.float16)
