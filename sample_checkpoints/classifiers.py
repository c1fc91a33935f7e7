"""Classifiers of the digits: sound ones, and ones whose training went wrong in a known way."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from container import write_safetensors
from torch import Tensor, nn
from training import Schedule, accuracy, digits, seeded, train


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """A perceptron `fc1 … fcN head` with the activation between its linear layers."""
    layers = nn.Sequential()
    for position, (wide_in, wide_out) in enumerate(pairwise(widths), start=1):
        last = position == len(widths) - 1
        layers.add_module("head" if last else f"fc{position}", nn.Linear(wide_in, wide_out))
        if not last:
            layers.add_module(f"act{position}", activation())
    return layers


def convolutional_net() -> nn.Sequential:
    """Two 3×3 convolutions with batch norm, a pool, and two linear layers."""
    layers = nn.Sequential()
    layers.add_module("unflatten", nn.Unflatten(1, (1, 8, 8)))
    for position, (wide_in, wide_out) in enumerate([(1, 16), (16, 32)], start=1):
        layers.add_module(f"conv{position}", nn.Conv2d(wide_in, wide_out, 3, padding=1, bias=False))
        layers.add_module(f"bn{position}", nn.BatchNorm2d(wide_out))
        layers.add_module(f"act{position}", nn.ReLU())
    layers.add_module("pool", nn.MaxPool2d(2))
    layers.add_module("flatten", nn.Flatten())
    layers.add_module("fc1", nn.Linear(512, 64))
    layers.add_module("act3", nn.ReLU())
    layers.add_module("head", nn.Linear(64, 10))
    return layers


def saved(path: Path, tensors: Mapping[str, Tensor], *, seed: int, held_out: str) -> str:
    """The held-out figure, after the tensors and it were written."""
    facts = {"format": "pt", "model": path.stem, "task": "scikit-learn digits", "seed": str(seed), "held_out": held_out}
    write_safetensors(path, tensors, facts)
    return held_out


def scored(model: nn.Module) -> str:
    """Held-out accuracy in words."""
    sample = digits()
    kind = next(model.parameters()).dtype
    return f"accuracy {accuracy(model, sample.held_x.to(kind), sample.held_y):.3f}"


def healthy_mlp(folder: Path) -> str:
    """64-256-128-10 with ReLU, AdamW, mild decay."""
    seeded(1)
    sample, model = digits(), mlp(64, 256, 128, 10)
    train(model, sample.x, sample.y, Schedule(steps=1000, rate=1e-3, decay=1e-2))
    return saved(folder / "healthy_mlp.safetensors", model.state_dict(), seed=1, held_out=scored(model))


def healthy_cnn(folder: Path) -> str:
    """Two convolutions with batch norm, AdamW, mild decay."""
    seeded(2)
    sample, model = digits(), convolutional_net()
    train(model, sample.x, sample.y, Schedule(steps=600, rate=1e-3, decay=1e-2))
    return saved(folder / "healthy_cnn.safetensors", model.state_dict(), seed=2, held_out=scored(model))


def rank_collapse(folder: Path) -> str:
    """Four linear layers without skips under excess decay; float64, lest rounding refill the spectrum."""
    seeded(3)
    sample = digits()
    model = mlp(64, 64, 64, 64, 10, activation=nn.Identity)
    for name in ("fc1", "fc2", "fc3"):
        model.get_submodule(name).register_parameter("bias", None)
    model = model.double()
    schedule = Schedule(steps=2000, rate=0.1, decay=0.06, batch=0, optimiser="sgd", momentum=0.9, cosine=False)
    train(model, sample.x[:450].double(), sample.y[:450], schedule)
    tensors = {name: tensor.float() for name, tensor in model.state_dict().items()}
    return saved(folder / "rank_collapse.safetensors", tensors, seed=3, held_out=scored(model))


def dead_units(folder: Path) -> str:
    """A spike of the rate without warm-up kills ReLU units; decoupled decay then shrinks what no gradient holds."""
    seeded(4)
    sample, model = digits(), mlp(64, 128, 64, 10)
    train(model, sample.x, sample.y, Schedule(steps=3, rate=0.02, cosine=False))
    schedule = Schedule(steps=11000, rate=0.1, decay=1e-3, optimiser="sgd", momentum=0.9, cosine=False)
    train(model, sample.x, sample.y, schedule)
    return saved(folder / "dead_units.safetensors", model.state_dict(), seed=4, held_out=scored(model))


def duplicate_units(folder: Path) -> str:
    """Net2Net growth from 64 to 128 units without noise, then full-batch descent, which keeps the copies equal."""
    seeded(5)
    sample, small = digits(), mlp(64, 64, 10)
    train(small, sample.x, sample.y, Schedule(steps=200, rate=1e-3))
    model = mlp(64, 128, 10)
    grown = {
        "fc1.weight": small.get_submodule("fc1").weight.repeat(2, 1),
        "fc1.bias": small.get_submodule("fc1").bias.repeat(2),
        "head.weight": small.get_submodule("head").weight.repeat(1, 2) / 2,
        "head.bias": small.get_submodule("head").bias,
    }
    model.load_state_dict(grown)
    schedule = Schedule(steps=1500, rate=0.1, batch=0, optimiser="sgd", momentum=0.9)
    train(model, sample.x, sample.y, schedule)
    return saved(folder / "duplicate_units.safetensors", model.state_dict(), seed=5, held_out=scored(model))


def minority_collapse(folder: Path) -> str:
    """Five classes with 130 samples, five with 3, and strong weight decay: the rare rows of the head merge."""
    seeded(6)
    sample = digits()
    counts = torch.tensor([130] * 5 + [3] * 5)
    kept = torch.cat([(sample.y == label).nonzero().flatten()[:count] for label, count in enumerate(counts.tolist())])
    model = mlp(64, 128, 10)
    schedule = Schedule(steps=1500, rate=0.1, decay=0.1, batch=0, optimiser="sgd", momentum=0.9, cosine=False)
    train(model, sample.x[kept], sample.y[kept], schedule)
    tensors = dict(model.state_dict()) | {"head.class_counts": counts}
    common, held_x = sample.held_y < 5, sample.held_x
    held_out = (
        f"accuracy {accuracy(model, held_x[common], sample.held_y[common]):.3f} common, "
        f"{accuracy(model, held_x[~common], sample.held_y[~common]):.3f} rare"
    )
    return saved(folder / "minority_collapse.safetensors", tensors, seed=6, held_out=held_out)


def lightning(folder: Path) -> str:
    """A `torch.save` file with the keys PyTorch Lightning writes, Adam's moments included."""
    seeded(7)
    sample, model = digits(), mlp(64, 128, 10)
    schedule = Schedule(steps=1200, rate=1e-3, decay=1e-2)
    steering = train(model, sample.x, sample.y, schedule)
    held_out = scored(model)
    content = {
        "epoch": 57,
        "global_step": schedule.steps,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        "loops": {},
        "callbacks": {},
        "optimizer_states": [steering.state_dict()],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"rate": schedule.rate, "decay": schedule.decay, "seed": 7, "held_out": held_out},
    }
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / "lightning.ckpt")
    return held_out
