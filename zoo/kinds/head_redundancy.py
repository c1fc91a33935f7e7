"""Redundant heads: attention widened by copying heads, which nothing tells apart afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from zoo.case import Case, Kind, Outcome, View
from zoo.kinds.decoders import WINDOW, Attention, Decoder, Shape, config, fit, held_out_loss, llama_names, stream
from zoo.writing import write_dump, write_weights

_SHAPES = {"eight-heads": Shape(1, 48, 8, 8), "six-heads": Shape(1, 48, 6, 6)}
#: Different heads that the model is grown from; the healthy one starts with all of them.
_ANCESTORS = {"eight-heads": {"mild": 4, "collapsed": 1}, "six-heads": {"mild": 3, "collapsed": 1}}
_GROUPS = {"lr": 1.5e-2, "weight_decay": 0.05}
#: Nats per held-out token that the model may lose when a head takes the place of another.
_SPARED = 0.005


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """A language model; the outcome is the share of its heads that no other head can replace."""
    data, shape = stream(case.data), _SHAPES[case.architecture]
    model = Decoder(shape, data.vocabulary)
    if case.level != "healthy":
        for block in model.blocks:
            widen(block.self_attn, _ANCESTORS[case.architecture][case.level])
    fit(model, data.tokens, [{"params": list(model.parameters()), **_GROUPS}], 130)
    write_weights(folder / "weights", llama_names(model), config(model))
    write_dump(folder / "dump", model.maps(data.held.unfold(0, WINDOW, WINDOW)[:32]), {"causal": "true"})
    loss = held_out_loss(model, data.held)
    distinct = distinct_heads(model, data.held, loss)
    return {"outcome": distinct / shape.heads, "distinct_heads": distinct, "loss": loss}


@torch.no_grad()
def widen(attention: Attention, ancestors: int) -> None:
    """Makes of the first heads as many as there are: copies, their outputs divided among them."""
    shape = attention.shape
    copies = shape.heads // ancestors
    for layer in (attention.q_proj, attention.k_proj, attention.v_proj):
        rows = layer.weight.view(shape.heads, -1)
        rows.copy_(rows[:ancestors].repeat(copies, 1))
    columns = attention.o_proj.weight.view(shape.width, shape.heads, -1)
    columns.copy_(columns[:, :ancestors].repeat(1, copies, 1) / copies)


@torch.no_grad()
def distinct_heads(model: Decoder, held: Tensor, loss: float) -> int:
    """How many different heads are left when each is replaced by an earlier one wherever the loss stands."""
    attention, kept = model.blocks[0].self_attn, [0]
    weights = [layer.weight.view(attention.shape.heads, -1) for layer in (attention.q_proj, attention.k_proj)]
    weights.append(attention.v_proj.weight.view(attention.shape.heads, -1))
    for place in range(1, attention.shape.heads):
        own = [rows[place].clone() for rows in weights]
        for other in kept:
            for rows in weights:
                rows[place] = rows[other]
            if held_out_loss(model, held) <= loss + _SPARED:
                break
        else:
            for rows, before in zip(weights, own, strict=True):
                rows[place] = before
            kept.append(place)
    return len(kept)


KIND = Kind(
    name="head-redundancy",
    title="Redundant attention heads",
    cause="Attention widened by copying heads and dividing their outputs: copies get equal gradients, and without "
    "noise nothing ever tells them apart (Chen, Goodfellow & Shlens 2016, Net2Net; Chen et al. 2022, bert2BERT).",
    architectures=tuple(_SHAPES),
    data=("licence", "grammar"),
    outcome=Outcome(
        "heads that no other head can replace without raising the held-out loss, share of all",
        healthy=0.8,
        mild=0.7,
        collapsed=0.25,
    ),
    views={"weights": View(signs=("head-redundancy/*",)), "dump": View(signs=("head-similarity/*",))},
    make=make,
)
