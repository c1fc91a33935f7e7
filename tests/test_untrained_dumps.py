"""What a network that was never trained gives is not collapsed: no finding beyond info, whatever its shape."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collapse_cli.analyzer import DUMP_VIEWS
from collapse_cli.analyzers import catalogue
from collapse_cli.core.finding import Severity
from collapse_cli.core.policy import INTENTS, Policy
from collapse_cli.core.report import Coverage, Subject
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.judge import judge
from collapse_cli.sources.dump import memory_dump

ANALYZERS = [one for one in catalogue(plugins=False).analyzers if one.view in DUMP_VIEWS]
Made = tuple[dict[str, Any], dict[str, str]]


def rows(count: int, width: int, seed: int = 0, offset: float = 0.0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + offset


def layer(inputs: int, outputs: int, seed: int = 1) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(inputs, outputs).requires_grad_(requires_grad=False)


def attention(spread: float, *, causal: bool, dtype: torch.dtype = torch.float32) -> Callable[[], Made]:
    def made() -> Made:
        logits = spread * rows(10 * 4 * 32, 32).view(10, 4, 32, 32)
        if causal:
            logits = logits.masked_fill(torch.ones(32, 32, dtype=torch.bool).triu(1), -torch.inf)
        return {"layers.0/attention": logits.softmax(-1).to(dtype)}, {"causal": str(causal).lower()}

    return made


def tokens(offset: float) -> Callable[[], Made]:
    return lambda: ({"layers.0/tokens": rows(32 * 24, 48, offset=offset).view(32, 24, 48)}, {})


def router(experts: int, offset: float, chosen: int) -> Callable[[], Made]:
    def made() -> Made:
        logits = layer(64, experts)(rows(8192, 64, offset=offset))
        return {"gate/router_logits": logits}, {"top_k": str(chosen)}

    return made


def codes(count: int, book: int, exponent: float) -> Callable[[], Made]:
    def made() -> Made:
        weights = torch.arange(1, book + 1, dtype=torch.float64) ** -exponent
        drawn = torch.multinomial(weights, count, replacement=True, generator=torch.Generator().manual_seed(0))
        return {"codes": drawn, "codebook": rows(book, 16)}, {}

    return made


def assignments() -> Made:
    return {"assignments": layer(32, 16)(rows(2000, 32)).softmax(1)}, {}


def latents(size: int, hidden: int) -> Callable[[], Made]:
    def made() -> Made:
        inputs = layer(64, hidden)(rows(1500, 64)).relu()
        return {"mu": layer(hidden, size, 2)(inputs), "logvar": layer(hidden, size, 3)(inputs)}, {}

    return made


def logits(classes: int, dtype: str) -> Callable[[], Made]:
    def made() -> Made:
        given = layer(128, classes)(rows(3000, 128).relu())
        labels = torch.randint(classes, (3000,), generator=torch.Generator().manual_seed(1))
        return {"logits": given, "labels": labels}, {"training_dtype": dtype}

    return made


def rectified() -> Made:
    return {"sparse": layer(64, 512)(rows(3000, 64)).relu()}, {"activation": "relu"}


def sets(width: int) -> Callable[[], Made]:
    return lambda: ({"samples": rows(800, width, 1), "reference": rows(900, width, 2)}, {})


CASES: dict[str, Callable[[], Made]] = {
    "attention_uniform": attention(0.0, causal=False),
    "attention_gentle": attention(0.5, causal=True),
    "attention_unit": attention(1.0, causal=True),
    "attention_bf16": attention(1.0, causal=False, dtype=torch.bfloat16),
    "attention_sharp": attention(4.0, causal=True),
    "tokens": tokens(0.0),
    "tokens_in_a_cone": tokens(2.0),
    "router_8": router(8, 0.0, 2),
    "router_64": router(64, 0.5, 8),
    "codes_uniform": codes(20_000, 512, 0.0),
    "codes_zipf": codes(20_000, 512, 1.0),
    "codes_few": codes(2000, 4096, 0.0),
    "assignments": assignments,
    "latents_2": latents(2, 32),
    "latents_32": latents(32, 256),
    "logits_2": logits(2, "float32"),
    "logits_10": logits(10, "bfloat16"),
    "logits_1000": logits(1000, "float16"),
    "rectified": rectified,
    "sets_2": sets(2),
    "sets_64": sets(64),
}


@pytest.mark.parametrize("name", CASES)
def test_untrained_is_not_collapsed(name: str) -> None:
    arrays, metadata = CASES[name]()
    analysis = analyse_dump(memory_dump(arrays, metadata=metadata), ANALYZERS)
    assert [f"{failure.analyzer}: {failure.message}" for failure in analysis.failures] == []
    assert analysis.measurements
    subject = Subject(
        id=name,
        path=name,
        kind="dump",
        format="memory",
        digest=None,
        bytes=0,
        status="complete",
        coverage=Coverage(1, 1, 1),
        measurements=analysis.measurements,
    )
    for intent in (None, *INTENTS):
        judged = judge(subject, [one.manual for one in ANALYZERS], Policy(intent=intent))
        found = [f"{f.measurement.rule}: {f.message}" for f in judged.findings if f.severity is not Severity.INFO]
        assert found == [], intent
