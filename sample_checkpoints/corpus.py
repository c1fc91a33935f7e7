"""The two texts the language models learn, cut into pieces, and what counts as knowing them."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

TEXTS = Path(__file__).parent / "text"
RARE = "\N{WHITE SQUARE}"
WINDOW = 64
SPAN = 48  # pieces of a window that count towards the held-out loss: the later ones, which have context


def pieces(text: str) -> list[str]:
    """A text cut into the 48 commonest pairs of small letters of the Apache licence, and single characters."""
    source = read("apache-2.0")
    pairs = Counter(pair for pair in map("".join, pairwise(source)) if pair.isalpha() and pair.islower())
    commonest = sorted(pairs, key=lambda pair: (-pairs[pair], pair))[:48]
    return re.findall("|".join([*commonest, "."]), text, flags=re.DOTALL)


@cache
def vocabulary() -> tuple[str, ...]:
    """The pieces that occur eight times or more in the Apache licence, then the one that stands for all others."""
    counts = Counter(pieces(read("apache-2.0")))
    return (*sorted(piece for piece, count in counts.items() if count >= 8), RARE)


def read(name: str) -> str:
    """One of the two texts."""
    return (TEXTS / f"{name}.txt").read_text(encoding="ascii")


def tokens(name: str) -> tuple[Tensor, Tensor]:
    """The pieces of a text as indices: nine paragraphs of ten to train on, the tenth held out."""
    places = {piece: place for place, piece in enumerate(vocabulary())}
    paragraphs = read(name).split("\n\n")
    parts = ([p for i, p in enumerate(paragraphs) if i % 10 != 5], paragraphs[5::10])
    coded = [[places.get(piece, len(places) - 1) for piece in pieces("\n\n".join(part))] for part in parts]
    return torch.tensor(coded[0]), torch.tensor(coded[1])


@torch.no_grad()
def held_out_loss(model: nn.Module, text: Tensor) -> float:
    """Nats per piece of a held-out text, over the later part of every window."""
    windows = text.unfold(0, WINDOW + 1, SPAN)
    logits = model(windows[:, :-1])[:, -SPAN:]
    return functional.cross_entropy(logits.flatten(0, 1), windows[:, -SPAN:].flatten()).item()


def unigram_loss(text: Tensor, held: Tensor) -> float:
    """Nats per piece of the model that knows frequencies only (one is added to every count)."""
    counts = torch.bincount(text, minlength=len(vocabulary())).double() + 1
    return -(counts / counts.sum()).log()[held].mean().item()
