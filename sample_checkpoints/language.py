"""Character models with the tensor names of Llama: a sound one, its shards, an adapter, and one with run-away attention."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from container import write_json, write_safetensors
from torch import Tensor, nn
from torch.nn import functional
from training import seeded

TEXTS = Path(__file__).parent / "text"
RARE = "\N{WHITE SQUARE}"
WINDOW = 64
SPAN = 48  # characters of a window that count towards the held-out loss: the later ones, which have context


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


class CharacterModel(nn.Module):
    """A decoder over characters; `state_dict` has the names of a Llama checkpoint."""

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
        """Logits of the next character."""
        x = self.model.embed_tokens(tokens)
        for block in self.model.layers:
            x = block(x)
        return self.lm_head(self.model.norm(x))


def rotated(x: Tensor) -> Tensor:
    """Heads turned by their rotary positions (batch, heads, tokens, width), in the half-split order of Llama."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[2])[:, None] / 10000 ** (torch.arange(half) / half)
    cosine, sine = angles.cos(), angles.sin()
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1)


def vocabulary() -> str:
    """The characters that occur ten times or more in the two texts, then the one that stands for all others."""
    counts = Counter("".join(path.read_text(encoding="ascii") for path in sorted(TEXTS.glob("*.txt"))))
    return "".join(sorted(character for character, count in counts.items() if count >= 10)) + RARE


def tokens(name: str) -> tuple[Tensor, Tensor]:
    """The characters of a text as indices: nine paragraphs of ten to train on, the tenth held out."""
    places = {character: place for place, character in enumerate(vocabulary())}
    paragraphs = (TEXTS / f"{name}.txt").read_text(encoding="ascii").split("\n\n")
    parts = ([p for i, p in enumerate(paragraphs) if i % 10 != 5], paragraphs[5::10])
    coded = [[places.get(c, len(places) - 1) for c in "\n\n".join(part)] for part in parts]
    return torch.tensor(coded[0]), torch.tensor(coded[1])


def fit(model: nn.Module, text: Tensor, *, steps: int, rate: float, warm_up: int = 50, decay: float = 0.05) -> None:
    """Next-character training in place of the parameters that ask for a gradient: AdamW, warm-up, then cosine."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    steering = torch.optim.AdamW(trainable, lr=rate, weight_decay=decay, betas=(0.9, 0.99))
    pace = torch.optim.lr_scheduler.LambdaLR(
        steering,
        lambda done: min((done + 1) / (warm_up + 1), 1) * (0.55 + 0.45 * math.cos(math.pi * done / steps)),
    )
    for _ in range(steps):
        step(model, steering, text)
        pace.step()


def step(model: nn.Module, steering: torch.optim.Optimizer, text: Tensor) -> None:
    """One step on sixteen windows drawn from a text."""
    begins = torch.randint(len(text) - WINDOW, (16, 1))
    window = text[begins + torch.arange(WINDOW + 1)]
    loss = functional.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
    steering.zero_grad()
    loss.backward()
    steering.step()


@torch.no_grad()
def held_out_loss(model: nn.Module, text: Tensor) -> float:
    """Nats per character of a held-out text, over the later part of every window."""
    windows = text.unfold(0, WINDOW + 1, SPAN)
    logits = model(windows[:, :-1])[:, -SPAN:]
    return functional.cross_entropy(logits.flatten(0, 1), windows[:, -SPAN:].flatten()).item()


def unigram_loss(text: Tensor, held: Tensor) -> float:
    """Nats per character of the model that knows letter frequencies only (one is added to every count)."""
    counts = torch.bincount(text, minlength=len(vocabulary())).double() + 1
    return -(counts / counts.sum()).log()[held].mean().item()


def config(shape: Shape, dtype: str) -> dict[str, Any]:
    """The `config.json` of a Llama of this shape."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab_size,
        "hidden_size": shape.hidden_size,
        "intermediate_size": shape.intermediate_size,
        "num_hidden_layers": shape.num_hidden_layers,
        "num_attention_heads": shape.num_attention_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": WINDOW,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        "vocabulary": vocabulary(),
    }


def facts(model: str, seed: int, held_out: str) -> dict[str, str]:
    """The metadata of a file."""
    return {"format": "pt", "model": model, "task": "next character", "seed": str(seed), "held_out": held_out}


def trained(seed: int, *, steps: int = 300, rate: float = 2e-3, layers: int = 2) -> tuple[CharacterModel, Shape, str]:
    """A model trained on the text of the Apache licence, with its shape and its held-out figure."""
    seeded(seed)
    text, held = tokens("apache-2.0")
    shape = Shape(vocab_size=len(vocabulary()), num_hidden_layers=layers)
    model = CharacterModel(shape)
    fit(model, text, steps=steps, rate=rate)
    return model, shape, f"loss {held_out_loss(model, held):.2f} nats (unigram {unigram_loss(text, held):.2f})"


def healthy_transformer(folder: Path) -> str:
    """Two layers, four heads over two key/value heads, 96 wide; AdamW with warm-up; stored in bfloat16."""
    model, shape, held_out = trained(11)
    target = folder / "healthy_transformer"
    tensors = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    write_json(target / "config.json", config(shape, "bfloat16"))
    write_safetensors(target / "model.safetensors", tensors, facts("healthy_transformer", 11, held_out))
    return held_out


def sharded(folder: Path) -> str:
    """One layer from another seed, stored in float16 as three shards with an index."""
    model, shape, held_out = trained(12, layers=1)
    target = folder / "sharded"
    tensors = {name: tensor.half() for name, tensor in model.state_dict().items()}
    write_json(target / "config.json", config(shape, "float16"))
    write_shards(target, tensors, facts("sharded", 12, held_out))
    return held_out


def write_shards(target: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], count: int = 3) -> None:
    """A model in `count` files of as many tensors each, and their index."""
    names, places = list(tensors), {}
    for number in range(count):
        file = f"model-{number + 1:05d}-of-{count:05d}.safetensors"
        part = {name: tensors[name] for name in names[number::count]}
        write_safetensors(target / file, part, metadata)
        places |= dict.fromkeys(part, file)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    write_json(
        target / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))},
    )


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


def lora_adapter(folder: Path, rank: int = 8, alpha: int = 16) -> str:
    """Rank 8 on queries and values of `healthy_transformer`, trained on the text of CC0 1.0."""
    from safetensors.torch import load_file

    seeded(13)
    base = folder / "healthy_transformer"
    if not base.exists():
        healthy_transformer(folder)
    model = CharacterModel(Shape(vocab_size=json.loads((base / "config.json").read_text())["vocab_size"]))
    model.load_state_dict(load_file(base / "model.safetensors"))
    model.requires_grad_(requires_grad=False)
    text, held = tokens("cc0-1.0")
    before = held_out_loss(model, held)
    tensors = {}
    for layer, block in enumerate(model.model.layers):
        for name in ("q_proj", "v_proj"):
            update = LowRankUpdate(getattr(block.self_attn, name), rank, alpha)
            setattr(block.self_attn, name, update)
            path = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors |= {f"{path}.lora_A.weight": update.lora_A.weight, f"{path}.lora_B.weight": update.lora_B.weight}
    fit(model, text, steps=500, rate=3e-3, decay=0.0)
    held_out = f"loss {held_out_loss(model, held):.2f} nats (without it {before:.2f})"
    target = folder / "lora_adapter"
    write_safetensors(target / "adapter_model.safetensors", tensors, facts("lora_adapter", 13, held_out))
    write_json(
        target / "adapter_config.json",
        {
            "base_model_name_or_path": "../healthy_transformer",
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "target_modules": ["q_proj", "v_proj"],
            "bias": "none",
            "fan_in_fan_out": False,
            "use_rslora": False,
            "use_dora": False,
        },
    )
    return held_out


def attention_collapse(folder: Path) -> str:
    """One layer whose queries and keys ran away: their rate is 30 times that of the rest, with no warm-up and no decay."""
    seeded(14)
    text, held = tokens("apache-2.0")
    shape = Shape(vocab_size=len(vocabulary()), num_hidden_layers=1)
    model = CharacterModel(shape)
    scored = [p for name, p in model.named_parameters() if "q_proj" in name or "k_proj" in name]
    others = [p for name, p in model.named_parameters() if "q_proj" not in name and "k_proj" not in name]
    steering = torch.optim.AdamW([{"params": scored, "lr": 6e-2}, {"params": others, "lr": 2e-3}], weight_decay=0.0)
    for _ in range(300):
        step(model, steering, text)
    held_out = f"loss {held_out_loss(model, held):.2f} nats (unigram {unigram_loss(text, held):.2f})"
    target = folder / "attention_collapse"
    write_json(target / "config.json", config(shape, "float32"))
    write_safetensors(target / "model.safetensors", model.state_dict(), facts("attention_collapse", 14, held_out))
    return held_out


def depth_copy(folder: Path) -> str:
    """A trained layer stored twice: depth grown by copying, and never trained again."""
    model, shape, _ = trained(15, layers=1)
    text, held = tokens("apache-2.0")
    tensors = {}
    for name, tensor in model.state_dict().items():
        tensors[name] = tensor.bfloat16()
        if ".layers.0." in name:
            tensors[name.replace(".layers.0.", ".layers.1.")] = tensor.bfloat16()
    grown_shape = replace(shape, num_hidden_layers=2)
    grown = CharacterModel(grown_shape)
    grown.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    held_out = f"loss {held_out_loss(grown, held):.2f} nats (before the copy {held_out_loss(model, held):.2f})"
    target = folder / "depth_copy"
    write_json(target / "config.json", config(grown_shape, "bfloat16"))
    write_safetensors(target / "model.safetensors", tensors, facts("depth_copy", 15, held_out))
    return held_out
