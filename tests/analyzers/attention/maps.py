"""Attention maps for tests, and what is measured of them written out row by row in numpy float64."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from collapse_cli.analyzer import Analyzer, Example
from collapse_cli.core.report import Subject
from tests.contract.examples import judged


def drawn(
    *shape: int,
    sharpness: float = 1.5,
    seed: int = 0,
    causal: bool = False,
    window: int | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """The softmax in float64 of Gaussian logits, over the keys that each query of a map of a sequence may see."""
    logits = sharpness * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    hidden = torch.zeros(shape[2:], dtype=torch.bool)
    if causal:
        hidden |= torch.ones(shape[2:], dtype=torch.bool).triu(1)
    if window is not None:
        hidden |= torch.ones(shape[2:], dtype=torch.bool).tril(-window)
    if mask is not None:
        hidden = hidden | ~mask[:, None, None, :]
    return logits.masked_fill(hidden, -torch.inf).softmax(-1)


def subject(analyzer: Analyzer, attention: torch.Tensor, metadata: Mapping[str, str] = {}, **roles: Any) -> Subject:
    arrays = {f"layer.0/{role}": tensor for role, tensor in {"attention": attention, **roles}.items()}
    return judged(analyzer, Example(arrays, metadata=dict(metadata)))


def found(
    analyzer: Analyzer, attention: torch.Tensor, metadata: Mapping[str, str] = {}, **roles: Any
) -> dict[str, float]:
    """metric → value; nothing failed."""
    result = subject(analyzer, attention, metadata, **roles)
    assert [failure.message for failure in result.failures] == []
    return {m.metric: m.value for m in result.measurements}


def evidence(
    analyzer: Analyzer, attention: torch.Tensor, metadata: Mapping[str, str] = {}, **roles: Any
) -> dict[str, dict[str, Any]]:
    """metric → evidence."""
    return {m.metric: m.evidence for m in subject(analyzer, attention, metadata, **roles).measurements}


def nulls(
    analyzer: Analyzer, attention: torch.Tensor, metadata: Mapping[str, str] = {}, **roles: Any
) -> dict[str, float | None]:
    """metric → null."""
    return {m.metric: m.null for m in subject(analyzer, attention, metadata, **roles).measurements}


def skipped(analyzer: Analyzer, attention: torch.Tensor, metadata: Mapping[str, str] = {}, **roles: Any) -> str:
    """The reasons of all skips."""
    result = subject(analyzer, attention, metadata, **roles)
    assert [failure.message for failure in result.failures] == []
    return "; ".join(skip.reason for skip in result.skips)


def rows(
    attention: torch.Tensor,
    *,
    causal: bool = False,
    window: int | None = None,
    leading: int = 0,
    mask: torch.Tensor | None = None,
) -> Iterator[tuple[int, int, int, np.ndarray, np.ndarray]]:
    """Sequence, head, query, the keys it sees, and its weights over them renormalised: one row after the other."""
    maps = attention.to(torch.float64).numpy()
    samples, heads, queries, keys = maps.shape
    real = np.ones((samples, keys), dtype=bool) if mask is None else mask.numpy().astype(bool)
    for n in range(samples):
        for h in range(heads):
            for i in range(leading, queries):
                if not real[n, i]:
                    continue
                seen = np.array(
                    [
                        j
                        for j in range(leading, keys)
                        if real[n, j] and (not causal or j <= i) and (window is None or i - j < window)
                    ],
                    dtype=int,
                )
                weights = maps[n, h, i, seen]
                if len(seen) and np.isfinite(weights).all() and weights.sum() > 0:
                    yield n, h, i, seen, weights / weights.sum()


def nats(weights: np.ndarray) -> float:
    kept = weights[weights > 0]
    return -math.fsum(kept * np.log(kept))
