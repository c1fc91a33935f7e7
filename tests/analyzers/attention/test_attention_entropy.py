import math
from typing import Any

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.attention.attention_entropy import attention_entropy
from collapse_cli.kernels.attention_logits import entropy_floor
from tests.analyzers.attention.maps import drawn, evidence, found, nats, rows, skipped, subject

MASK = torch.arange(14)[None] < torch.tensor([14, 9, 10, 14, 12, 14, 14, 11, 14, 14])[:, None]
CASES: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "everything": ({}, {}),
    "causal": ({"causal": "true"}, {"causal": True}),
    "causal in a window": ({"causal": "true", "window": "4"}, {"causal": True, "window": 4}),
    "padded": ({}, {"mask": MASK}),
    "causal and padded": ({"causal": "true"}, {"causal": True, "mask": MASK}),
    "class token": ({"cls": "1"}, {"leading": 1}),
}


def by_rows(attention: torch.Tensor, **seen: Any) -> dict[str, float]:
    """Entropy per head and slope from the rows one by one."""
    samples, heads = attention.shape[:2]
    shares: dict[tuple[int, int], list[float]] = {}
    points: dict[int, list[tuple[float, float]]] = {}
    for n, h, _i, keys, weights in rows(attention, **seen):
        if len(keys) > 1:
            shares.setdefault((n, h), []).append(nats(weights) / math.log(len(keys)))
            points.setdefault(h, []).append((math.log(len(keys)), nats(weights)))
    per_head = [np.mean([np.mean(shares[n, h]) for n in range(samples)]) for h in range(heads)]
    result = {"entropy": float(np.mean(per_head)), "entropy_min_head": float(np.min(per_head))}
    if len({x for x, _ in points[0]}) > 1:
        result["entropy_slope"] = float(np.mean([np.polyfit(*zip(*points[h], strict=True), 1)[0] for h in points]))
    return result


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_is_the_mean_over_rows_sequences_and_heads(case: str, dtype: torch.dtype) -> None:
    metadata, seen = CASES[case]
    hidden = {name: value for name, value in seen.items() if name != "leading"}
    attention = drawn(10, 3, 14, 14, **hidden).to(dtype)
    roles = {"mask": seen["mask"]} if "mask" in seen else {}
    values = found(attention_entropy, attention, metadata, **roles)
    for metric, expected in by_rows(attention, **seen).items():
        assert values[metric] == pytest.approx(expected, rel=1e-10), metric
    assert ("entropy_slope" in values) == (case not in ("everything", "class token"))


def test_padding_may_hold_anything() -> None:
    attention = drawn(10, 3, 14, 14, mask=MASK)
    clean = found(attention_entropy, attention, mask=MASK)
    is_real = MASK[:, None, :, None] & MASK[:, None, None, :]
    for rubbish in (torch.nan, torch.inf, 0.0, 7.0):
        assert found(attention_entropy, torch.where(is_real, attention, rubbish), mask=MASK) == clean


def test_two_equal_keys_of_64_are_a_sixth() -> None:
    attention = torch.zeros(8, 2, 64, 64)
    attention[..., 5] = attention[..., 9] = 0.5
    values = found(attention_entropy, attention)
    assert values["entropy"] == pytest.approx(1 / 6, rel=1e-12)
    assert (values["collapsed_heads"], values["overloaded_heads"]) == (0.0, 0.0)


def test_one_hot_is_collapsed_and_uniform_overloaded() -> None:
    one_hot = torch.eye(16).expand(8, 2, 16, 16)
    assert found(attention_entropy, one_hot) == {
        "entropy": 0.0,
        "entropy_min_head": 0.0,
        "collapsed_heads": 1.0,
        "overloaded_heads": 0.0,
    }
    assert [str(finding.severity) for finding in subject(attention_entropy, one_hot).findings] == ["error"]
    both = torch.cat((one_hot, torch.full((8, 2, 16, 16), 1 / 16)), 1)
    values = found(attention_entropy, both)
    assert values == {"entropy": 0.5, "entropy_min_head": 0.0, "collapsed_heads": 0.5, "overloaded_heads": 0.5}
    # a layer of which half looks at all keys is no collapsed one
    assert not subject(attention_entropy, both).findings


def test_uniform_causal_rows_are_one_whatever_they_see() -> None:
    attention = drawn(8, 2, 64, 64, sharpness=0.0, causal=True)
    values = found(attention_entropy, attention, {"causal": "true"})
    assert values["entropy"] == pytest.approx(1.0, abs=1e-12)
    assert values["entropy_slope"] == pytest.approx(1.0, abs=1e-12)
    # taken for a map that sees everything it is .771: mean of log i over log 64
    expected = sum(math.log(i) for i in range(1, 65)) / 64 / math.log(64)
    assert found(attention_entropy, attention)["entropy"] == pytest.approx(expected, rel=1e-12)
    assert round(expected, 3) == 0.771


def test_a_fixed_number_of_keys_has_no_slope() -> None:
    attention = drawn(8, 2, 32, 32, sharpness=0.0, causal=True, window=2)
    values = found(attention_entropy, attention, {"causal": "true"})
    # from the third row on every row weighs two keys alike, as does the second
    assert values["entropy_slope"] == pytest.approx(0.0, abs=1e-12)


def test_gaussian_logits_of_small_spread_follow_their_series() -> None:
    value = found(attention_entropy, drawn(8, 4, 128, 128, sharpness=0.5))["entropy"]
    # 1 − s²/(2 log v); the next term of the series is below .002 here
    assert value == pytest.approx(1 - 0.25 / (2 * math.log(128)), abs=2e-3)


def test_attention_to_another_sequence_is_measured() -> None:
    attention = drawn(8, 2, 10, 24)
    mask = torch.arange(24)[None] < torch.arange(17, 25)[:, None]
    masked = drawn(8, 2, 10, 24, mask=mask)
    assert found(attention_entropy, attention)["entropy"] == pytest.approx(by_rows(attention)["entropy"], rel=1e-10)
    shares = [
        nats(masked[n, h, i, :keys].numpy()) / math.log(keys)
        for n, keys in enumerate(range(17, 25))
        for h in range(2)
        for i in range(10)
    ]
    # a mask as long as the keys is of the keys
    assert found(attention_entropy, masked, mask=mask)["entropy"] == pytest.approx(np.mean(shares), rel=1e-10)


def test_smoothed_entropy_is_that_of_the_reference_code() -> None:
    attention = drawn(8, 2, 16, 16, sharpness=4.0).float()
    exact = attention.double()
    expected = -(exact * (exact + 1e-6).log()).sum(-1).mean()
    said = evidence(attention_entropy, attention)["entropy"]["smoothed_nats"]
    assert said == pytest.approx(float(expected), abs=1e-6)
    long = torch.full((8, 1, 8, 8192), 1 / 8192)
    # uniform over T keys it reads log T less T·10⁻⁶
    said = evidence(attention_entropy, long)["entropy"]["smoothed_nats"]
    assert said == pytest.approx(-math.log(1 / 8192 + 1e-6), abs=1e-9)


def test_floor_is_the_closed_form_at_the_largest_sequence() -> None:
    # one head of width 1: W_Qᵀ W_K has norm 3, tokens of norm 1 alone in their sequence
    tokens = torch.zeros(8, 64, 4)
    tokens[:, 0, 0] = torch.linspace(0.2, 1.0, 8)
    weights = {"query_weight": torch.tensor([[3.0, 0, 0, 0]]), "key_weight": torch.tensor([[1.0, 0, 0, 0]])}
    attention = drawn(8, 1, 64, 64, sharpness=0.1)
    values = found(attention_entropy, attention, tokens=tokens, **weights)
    assert values["entropy_floor"] == pytest.approx(3.68146 / math.log(64), rel=1e-6)
    assert values["entropy_floor"] == pytest.approx(entropy_floor(3.0, 64), rel=1e-12)
    assert values["entropy"] > values["entropy_floor"]
    padding = torch.where(torch.arange(64)[None, :, None] < 60, tokens, 1e6)
    mask = torch.arange(64)[None].expand(8, -1) < 60
    attention = drawn(8, 1, 64, 64, sharpness=0.1, mask=mask)
    values = found(attention_entropy, attention, tokens=padding, mask=mask, **weights)
    assert values["entropy_floor"] == pytest.approx(entropy_floor(3.0, 60), rel=1e-12)


def test_what_is_missing_is_said() -> None:
    assert "entropy_floor: no query_weight, key_weight, tokens" in skipped(attention_entropy, drawn(8, 1, 8, 8))
    assert skipped(attention_entropy, drawn(7, 1, 8, 8)).startswith("7 sequences with 8 queries")
    assert skipped(attention_entropy, drawn(8, 1, 7, 7)).startswith("0 sequences with 8 queries")
    short = torch.arange(12)[None] < torch.tensor([12] * 7 + [5])[:, None]
    assert skipped(attention_entropy, drawn(8, 1, 12, 12, mask=short), mask=short).startswith("7 sequences")
    assert skipped(attention_entropy, torch.ones(8, 1, 9, 1)).startswith("0 sequences")
    assert skipped(attention_entropy, torch.zeros(8, 2, 9, 9)).startswith("0 sequences")
    assert skipped(attention_entropy, torch.zeros(0, 2, 9, 9)) != ""


def test_all_on_the_class_token_is_no_row() -> None:
    attention = torch.zeros(8, 1, 10, 10)
    attention[..., 0] = 1.0
    assert found(attention_entropy, attention)["entropy"] == 0.0
    assert skipped(attention_entropy, attention, {"cls": "true"}).startswith("0 sequences")


def test_rows_that_do_not_sum_to_one_fail() -> None:
    result = subject(attention_entropy, 2.0 * drawn(8, 2, 9, 9))
    assert [failure.error for failure in result.failures] == ["BadValues"]
    assert "144 of 144 rows" in result.failures[0].message
    assert not result.measurements
