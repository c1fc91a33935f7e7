"""Adapter collapse: a low-rank adapter whose rate lets it learn next to nothing."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.case import Case, Kind, Outcome, View
from zoo.kinds.decoders import Decoder, Shape, fit, held_out_loss, stream
from zoo.training import kept

#: Size of the base, and the modules that get an adapter.
_SHAPES = {
    "attention": (Shape(1, 48, 4, 2), ("q_proj", "k_proj", "v_proj", "o_proj")),
    "everything": (Shape(1, 32, 4, 4), ("q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")),
}
_RANK, _ALPHA = 8, 16
#: Rate of the first and of the second factor. Collapsed: second factors at rates for whole models of billions.
_RATES = {"healthy": 1e-2, "mild": 1.2e-3, "collapsed": 2e-6}
#: Nats per held-out token that a sound adapter gains, mean over seeds that are not in the zoo.
_GAIN = {
    ("attention", "licence"): 1.7,
    ("attention", "grammar"): 1.75,
    ("everything", "licence"): 1.57,
    ("everything", "grammar"): 1.67,
}


class Adapted(nn.Module):
    """A frozen linear layer and its update of low rank, scaled by α/r; the second factor starts at zero."""

    def __init__(self, frozen: nn.Linear) -> None:
        super().__init__()
        self.frozen = frozen
        self.lora_A = nn.Linear(frozen.in_features, _RANK, bias=False)
        self.lora_B = nn.Linear(_RANK, frozen.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The sum of both."""
        updated: Tensor = self.frozen(x) + _ALPHA / _RANK * self.lora_B(self.lora_A(x))
        return updated


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """A base that all seeds share, adapted to other data; the outcome is the gain, against that of a sound adapter."""
    _, modules = _SHAPES[case.architecture]
    model = copy.deepcopy(base(case.architecture, case.data)).requires_grad_(requires_grad=False)
    tokens, held = other(case.data)
    before = held_out_loss(model, held)
    adapted = {}
    for name, layer in list(model.named_modules()):
        parent, _, leaf = name.rpartition(".")
        if leaf in modules and isinstance(layer, nn.Linear):
            adapted[name] = Adapted(layer)
            setattr(model.get_submodule(parent), leaf, adapted[name])
    rate = _RATES[case.level]
    groups = [
        {"params": [one.lora_A.weight for one in adapted.values()], "lr": rate, "weight_decay": 0.0},
        {"params": [one.lora_B.weight for one in adapted.values()], "lr": rate, "weight_decay": 0.0},
    ]
    fit(model, tokens, groups, 100)
    after = held_out_loss(model, held)
    _write(folder / "adapter", adapted, modules)
    gain = _GAIN[case.architecture, case.data]
    return {"outcome": kept(before - after, chance=0.0, sound=gain), "before": before, "after": after}


@cache
def base(architecture: str, data: str) -> Decoder:
    """The model that is adapted; the generator is left as it was."""
    known = stream(data)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Decoder(_SHAPES[architecture][0], known.vocabulary)
        fit(model, known.tokens, [{"params": list(model.parameters()), "lr": 1.5e-2, "weight_decay": 0.05}], 130)
    return model


@cache
def other(data: str) -> tuple[Tensor, Tensor]:
    """What the base is adapted to, train and held-out: the licence read backwards, the grammar with times exchanged."""
    known = stream(data)
    return known.tokens.flip(0), known.held.flip(0)


def _write(folder: Path, adapted: Mapping[str, Adapted], modules: tuple[str, ...]) -> None:
    folder.mkdir(parents=True)
    tensors = {}
    for name, one in adapted.items():
        for factor, layer in (("lora_A", one.lora_A), ("lora_B", one.lora_B)):
            tensors[f"base_model.model.model.{name}.{factor}.weight"] = layer.weight.detach().clone()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    said = {
        "base_model_name_or_path": None,
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": _RANK,
        "lora_alpha": _ALPHA,
        "lora_dropout": 0.0,
        "target_modules": list(modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(said), encoding="utf-8")


KIND = Kind(
    name="adapter-collapse",
    title="Adapter collapse",
    cause="Both factors at a rate far below that of a sound adapter: the second factor starts at zero and hardly "
    "leaves it (Hayou, Ghosh & Yu 2024, LoRA+).",
    architectures=tuple(_SHAPES),
    data=("licence", "grammar"),
    outcome=Outcome("gain in held-out loss, share of a sound adapter's", healthy=0.8, mild=0.75, collapsed=0.25),
    views={"adapter": View(signs=("lora-spectrum/*",))},
    make=make,
)
