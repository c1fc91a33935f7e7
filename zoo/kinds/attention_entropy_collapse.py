"""Attention entropy collapse: queries and keys that learn far too fast."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from zoo.case import Case, Kind, Outcome, View
from zoo.kinds.decoders import WINDOW, Decoder, Shape, config, fit, held_out_loss, llama_names, stream
from zoo.training import kept
from zoo.writing import write_dump, write_weights

_SHAPES = {"one-layer": Shape(1, 48, 4, 2), "two-layers": Shape(2, 32, 4, 4)}
_RATE = 1.5e-2
#: Rate of the queries and keys, without warm-up and decay; where they run away depends on the model and the data.
_MILD = {
    ("one-layer", "licence"): 0.055,
    ("one-layer", "grammar"): 0.035,
    ("two-layers", "licence"): 0.075,
    ("two-layers", "grammar"): 0.15,
}
_COLLAPSED = 1.0
#: Nats per held-out token that a sound model reaches, mean over seeds that are not in the zoo.
_SOUND = {
    ("one-layer", "licence"): 2.12,
    ("one-layer", "grammar"): 1.66,
    ("two-layers", "licence"): 2.12,
    ("two-layers", "grammar"): 1.69,
}


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """A language model; the outcome is what attention adds to a table of neighbours, against a sound model."""
    data, corner = stream(case.data), (case.architecture, case.data)
    model = Decoder(_SHAPES[case.architecture], data.vocabulary)
    scores = [p for name, p in model.named_parameters() if "q_proj" in name or "k_proj" in name]
    others = [p for name, p in model.named_parameters() if "q_proj" not in name and "k_proj" not in name]
    is_sound = case.level == "healthy"
    rate = _RATE if is_sound else _MILD[corner] if case.level == "mild" else _COLLAPSED
    groups = [
        {"params": scores, "lr": rate, "weight_decay": 0.05 if is_sound else 0.0},
        {"params": others, "lr": _RATE, "weight_decay": 0.05},
    ]
    fit(model, data.tokens, groups, 130, warm_up=20 if is_sound else 0)
    loss = held_out_loss(model, data.held)
    write_weights(folder / "weights", llama_names(model), config(model))
    maps = model.maps(data.held.unfold(0, WINDOW, WINDOW)[:32])
    write_dump(folder / "dump", maps, {"causal": "true"}, dtype=torch.float32)
    return {"outcome": kept(loss, chance=data.neighbours, sound=_SOUND[corner]), "loss": loss}


KIND = Kind(
    name="attention-entropy-collapse",
    title="Attention entropy collapse",
    cause="Queries and keys at a huge rate, without warm-up, decay or normalisation: attention logits run away and "
    "every softmax ends in one key (Zhai et al. 2023, Stabilizing Transformer Training by Preventing Attention "
    "Entropy Collapse).",
    architectures=tuple(_SHAPES),
    data=("licence", "grammar"),
    outcome=Outcome(
        "gain in held-out loss over a table of neighbouring tokens, share of a sound model's",
        healthy=0.8,
        mild=0.75,
        collapsed=0.2,
    ),
    views={
        "weights": View(signs=("qk-spectrum/*",)),
        "dump": View(signs=("attention-entropy/*", "attention-information/*")),
    },
    make=make,
)
