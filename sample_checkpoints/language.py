"""Language models with the tensor names of Llama: sound ones, an adapter, run-away attention, a layer stored twice."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from container import write_json, write_safetensors
from corpus import WINDOW, held_out_loss, tokens, unigram_loss, vocabulary
from llama import LanguageModel, LowRankUpdate, Shape
from torch import Tensor, nn
from torch.nn import functional
from training import seeded


def fit(model: nn.Module, text: Tensor, *, steps: int, rate: float, warm_up: int = 50, decay: float = 0.05) -> None:
    """Next-piece training in place of the parameters that ask for a gradient: AdamW, warm-up, then cosine."""
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
        "vocabulary": list(vocabulary()),
    }


def facts(model: str, seed: int, held_out: str) -> dict[str, str]:
    """The metadata of a file."""
    return {"format": "pt", "model": model, "task": "next piece of text", "seed": str(seed), "held_out": held_out}


def trained(seed: int, *, steps: int = 300, rate: float = 2e-3, layers: int = 2) -> tuple[LanguageModel, Shape, str]:
    """A model trained on the text of the Apache licence, with its shape and its held-out figure."""
    seeded(seed)
    text, held = tokens("apache-2.0")
    shape = Shape(vocab_size=len(vocabulary()), num_hidden_layers=layers)
    model = LanguageModel(shape)
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


def lora_adapter(folder: Path, rank: int = 8, alpha: int = 16) -> str:
    """Rank 8 on queries and values of `healthy_transformer`, trained on the text of CC0 1.0."""
    from safetensors.torch import load_file

    seeded(13)
    base = folder / "healthy_transformer"
    if not base.exists():
        healthy_transformer(folder)
    model = LanguageModel(Shape(vocab_size=json.loads((base / "config.json").read_text())["vocab_size"]))
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
    """One layer whose queries and keys ran away: 30 times the rate of the rest, no warm-up, no decay."""
    seeded(14)
    text, held = tokens("apache-2.0")
    shape = Shape(vocab_size=len(vocabulary()), num_hidden_layers=1)
    model = LanguageModel(shape)
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
    _, held = tokens("apache-2.0")
    tensors = {}
    for name, tensor in model.state_dict().items():
        tensors[name] = tensor.bfloat16()
        if ".layers.0." in name:
            tensors[name.replace(".layers.0.", ".layers.1.")] = tensor.bfloat16()
    grown_shape = replace(shape, num_hidden_layers=2)
    grown = LanguageModel(grown_shape)
    grown.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    held_out = f"loss {held_out_loss(grown, held):.2f} nats (before the copy {held_out_loss(model, held):.2f})"
    target = folder / "depth_copy"
    write_json(target / "config.json", config(grown_shape, "bfloat16"))
    write_safetensors(target / "model.safetensors", tensors, facts("depth_copy", 15, held_out))
    return held_out
