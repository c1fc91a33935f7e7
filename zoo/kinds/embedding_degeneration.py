"""Embedding degeneration: a vocabulary of which training never saw a part."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.case import Case, Kind, Outcome, View
from zoo.kinds.decoders import TEXT, WINDOW, Decoder, Shape, config, fit, llama_names
from zoo.training import kept
from zoo.writing import write_weights

_SHAPES = {"grouped": Shape(1, 32, 4, 2), "full": Shape(1, 48, 4, 4)}
#: Share of the vocabulary that does not occur in training.
_UNSEEN = {"healthy": 0.0, "mild": 0.2, "collapsed": 0.33}
#: Recall of a sound model, mean over seeds that are not in the zoo.
_SOUND = {"grammar": 1.0, "pairs": 0.41}
#: Answers among which the right one has to be, and standard deviation of a table at the start (GPT-2).
_ANSWERS, _START = 5, 0.02


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """A language model; the outcome is the recall of held-out tokens, every token of the vocabulary weighing alike."""
    tokens, held, vocabulary = corpus(case.data)
    model = Decoder(_SHAPES[case.architecture], vocabulary)
    nn.init.normal_(model.embed_tokens.weight, std=_START)
    unseen = torch.randperm(vocabulary)[: round(_UNSEEN[case.level] * vocabulary)]
    seen = tokens[~torch.isin(tokens, unseen)]
    fit(model, seen, [{"params": list(model.parameters()), "lr": 1e-2, "weight_decay": 0.01}], 150)
    write_weights(folder / "weights", llama_names(model), config(model))
    recall = recall_by_token(model, held)
    chance = _ANSWERS / vocabulary
    return {
        "outcome": kept(recall, chance=chance, sound=_SOUND[case.data]),
        "recall": recall,
        "unseen": len(unseen) / vocabulary,
    }


@torch.no_grad()
def recall_by_token(model: Decoder, held: Tensor) -> float:
    """How often a held-out token is among the first answers, averaged over the vocabulary."""
    windows = held.unfold(0, WINDOW + 1, WINDOW)
    answers = model(windows[:, :-1]).topk(_ANSWERS, -1).indices
    wanted = windows[:, 1:]
    is_right = (answers == wanted[:, :, None]).any(-1).double()
    vocabulary = model.embed_tokens.num_embeddings
    counts = torch.bincount(wanted.flatten(), minlength=vocabulary)
    right = torch.bincount(wanted.flatten(), weights=is_right.flatten(), minlength=vocabulary)
    return (right[counts > 0] / counts[counts > 0]).mean().item()


@cache
def corpus(name: str) -> tuple[Tensor, Tensor, int]:
    """Tokens to train on, held-out ones, and the size of the vocabulary."""
    return _pairs() if name == "pairs" else _grammar()


def _grammar(count: int = 40_000, symbols: int = 128) -> tuple[Tensor, Tensor, int]:
    """Each symbol has four successors, drawn once and equally likely."""
    generator = torch.Generator().manual_seed(128)
    # four permutations: every symbol follows as often as every other
    table = torch.stack([torch.randperm(symbols, generator=generator) for _ in range(4)], 1).tolist()
    choices = torch.randint(4, (count,), generator=generator).tolist()
    made = [0]
    for choice in choices:
        made.append(table[made[-1]][choice])
    tokens = torch.tensor(made)
    return tokens[6000:], tokens[:6000], symbols


def _pairs(vocabulary: int = 112) -> tuple[Tensor, Tensor, int]:
    """The Apache licence in pairs of characters, the commonest ones; every tenth paragraph is held out."""
    paragraphs = TEXT.read_text(encoding="ascii").lower().split("\n\n")
    parts = ("".join(p for i, p in enumerate(paragraphs) if i % 10 != 5), "".join(paragraphs[5::10]))
    coded = [re.findall("..", re.sub(r"\s+", " ", part)) for part in parts]
    commonest = sorted(pair for pair, _ in Counter(coded[0]).most_common(vocabulary))
    places = {pair: place for place, pair in enumerate(commonest)}
    tokens, held = (torch.tensor([places[pair] for pair in part if pair in places]) for part in coded)
    return tokens, held, vocabulary


KIND = Kind(
    name="embedding-degeneration",
    title="Embedding degeneration",
    cause="A vocabulary of which a part never occurs in training: its rows stay where they began, and "
    "those of the head are only ever pushed away (Land & Bartolo 2024, Fishing for Magikarp; Gao et al. 2019, "
    "Representation Degeneration Problem).",
    architectures=tuple(_SHAPES),
    data=("grammar", "pairs"),
    outcome=Outcome(
        "recall of held-out tokens averaged over the vocabulary, share of a sound model's",
        healthy=0.85,
        mild=0.8,
        collapsed=0.55,
    ),
    views={"weights": View(signs=("embedding-table/*",))},
    make=make,
)
