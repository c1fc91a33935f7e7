import math
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.attention.head_similarity import head_similarity
from collapse_cli.core.finding import Severity
from tests.analyzers.attention.maps import drawn, evidence, found, rows, skipped, subject

MASK = torch.arange(14)[None] < torch.tensor([14, 9, 10, 14, 12, 14, 14, 11, 14, 14])[:, None]


def by_pairs(attention: torch.Tensor, **seen: Any) -> dict[str, float]:
    """Cosines of flattened maps, pair after pair, in numpy."""
    samples, heads, queries, keys = attention.shape
    raw = np.zeros((samples, heads, queries, keys))
    centred = np.zeros_like(raw)
    for n, h, i, places, weights in rows(attention, **seen):
        if len(places) > 1:
            raw[n, h, i, places] = weights
            centred[n, h, i, places] = weights - 1 / len(places)

    def cosines(maps: np.ndarray) -> np.ndarray:
        flat = maps.reshape(samples, heads, -1)
        flat = flat / np.linalg.norm(flat, axis=2, keepdims=True)
        return np.mean([one @ one.T for one in flat], 0)

    correlations, pairs = cosines(centred), list(combinations(range(heads), 2))
    eigenvalues = np.linalg.eigvalsh(correlations / heads)
    return {
        "head_correlation": float(np.mean([correlations[a, b] for a, b in pairs])),
        "max_head_correlation": max(correlations[a, b] for a, b in pairs),
        "head_cosine": float(np.mean([cosines(raw)[a, b] for a, b in pairs])),
        "effective_heads": math.exp(-sum(v * math.log(v) for v in eigenvalues if v > 0)),
    }


@pytest.mark.parametrize(
    ("metadata", "seen"),
    [({}, {}), ({"causal": "true"}, {"causal": True}), ({}, {"mask": MASK}), ({"cls": "2"}, {"leading": 2})],
    ids=["everything", "causal", "padded", "leading"],
)
def test_is_the_mean_cosine_of_pairs(metadata: dict[str, str], seen: dict[str, Any]) -> None:
    hidden = {name: value for name, value in seen.items() if name != "leading"}
    attention = drawn(10, 4, 14, 14, **hidden).float()
    roles = {"mask": seen["mask"]} if "mask" in seen else {}
    values = found(head_similarity, attention, metadata, **roles)
    for metric, expected in by_pairs(attention, **seen).items():
        assert values[metric] == pytest.approx(expected, rel=1e-9), metric


@pytest.mark.parametrize("sharpness", [0.5, 1.0])
def test_independent_heads_share_what_the_closed_form_says(sharpness: float) -> None:
    values = found(head_similarity, drawn(8, 6, 196, 196, sharpness=sharpness))
    # e^{−s²} for a long row; .381 at 196 keys and s = 1
    assert values["head_cosine"] == pytest.approx(math.exp(-(sharpness**2)), abs=0.015)
    assert values["head_correlation"] == pytest.approx(0.0, abs=4e-3)
    assert values["effective_heads"] == pytest.approx(6.0, abs=2e-3)


def test_cyclic_shifts_are_a_regular_simplex() -> None:
    heads = torch.stack([torch.eye(16).roll(shift, 1) for shift in range(4)]).expand(8, 4, 16, 16)
    values = found(head_similarity, heads)
    assert values["head_correlation"] == pytest.approx(-1 / 15, rel=1e-12)
    # eigenvalues (1 + 1/15)/4 three times and (1 − 3/15)/4
    shares = [(1 + 1 / 15) / 4] * 3 + [(1 - 3 / 15) / 4]
    assert values["effective_heads"] == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-12)
    assert round(values["effective_heads"], 3) == 3.972


def test_equal_heads_are_one_map() -> None:
    attention = drawn(8, 1, 16, 16).expand(8, 4, 16, 16).contiguous()
    values = found(head_similarity, attention)
    assert values == pytest.approx(
        {"head_correlation": 1.0, "max_head_correlation": 1.0, "head_cosine": 1.0, "effective_heads": 1.0}, abs=1e-9
    )
    said = {finding.measurement.metric: finding.severity for finding in subject(head_similarity, attention).findings}
    assert said == {"effective_heads": Severity.ERROR, "max_head_correlation": Severity.WARNING}
    # stored in half precision, rounded alike
    assert found(head_similarity, attention.bfloat16())["effective_heads"] == pytest.approx(1.0, abs=1e-9)


def test_one_pair_stands_out() -> None:
    attention = drawn(8, 4, 16, 16)
    attention[:, 3] = attention[:, 1]
    said = evidence(head_similarity, attention)["max_head_correlation"]
    assert (said["first_head"], said["second_head"]) == (1, 3)
    assert found(head_similarity, attention)["max_head_correlation"] == pytest.approx(1.0, abs=1e-12)


def test_soft_iou_is_that_of_the_maps() -> None:
    attention = drawn(8, 3, 16, 16)
    maps = attention.numpy().reshape(8, 3, -1)
    pairs = [
        np.minimum(one[a], one[b]).sum() / np.maximum(one[a], one[b]).sum()
        for one in maps
        for a, b in combinations(range(3), 2)
    ]
    assert evidence(head_similarity, attention)["head_correlation"]["soft_iou"] == pytest.approx(
        np.mean(pairs), rel=1e-9
    )


def test_uniform_heads_are_left_out_and_counted() -> None:
    attention = drawn(8, 4, 16, 16)
    attention[:, 2] = 1 / 16
    values = found(head_similarity, attention)
    kept = found(head_similarity, attention[:, [0, 1, 3]])
    for metric in ("head_correlation", "max_head_correlation", "effective_heads"):
        assert values[metric] == pytest.approx(kept[metric], rel=1e-9)
    assert evidence(head_similarity, attention)["effective_heads"]["uniform_heads"] == 1
    attention[:, :3] = 1 / 16
    assert "fewer than two of 4 heads are not uniform" in skipped(head_similarity, attention)
    causal = drawn(8, 3, 32, 32, sharpness=0.0, causal=True).float()
    assert "fewer than two of 3" in skipped(head_similarity, causal, {"causal": "true"})


def test_a_row_that_is_broken_in_one_head_is_left_out_in_all() -> None:
    attention = drawn(8, 3, 16, 16)
    broken = attention.clone()
    broken[:, 1, 5] = torch.nan
    without = torch.cat((attention[:, :, :5], attention[:, :, 6:]), 2)
    expected = found(head_similarity, without)
    for metric, value in found(head_similarity, broken).items():
        assert value == pytest.approx(expected[metric], rel=1e-9), metric


def test_what_does_not_apply_is_said() -> None:
    assert skipped(head_similarity, drawn(8, 1, 9, 9)) == "1 head: nothing to compare"
    assert skipped(head_similarity, drawn(7, 2, 9, 9)).startswith("7 sequences")
    assert skipped(head_similarity, torch.zeros(8, 2, 9, 9)).startswith("0 sequences")
    assert found(head_similarity, drawn(8, 2, 9, 20)).keys() >= {"head_correlation"}
    failures = subject(head_similarity, 1.5 * drawn(8, 2, 9, 9)).failures
    assert [failure.error for failure in failures] == ["BadValues"]
