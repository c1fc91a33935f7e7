import math
from typing import Any

import numpy as np
import pytest
import torch

from collapse_cli.analyzers.attention.attention_information import attention_information
from tests.analyzers.attention.maps import drawn, evidence, found, nats, nulls, rows, skipped, subject

MASK = torch.arange(14)[None] < torch.tensor([14, 9, 10, 14, 12, 14, 14, 11, 14, 14])[:, None]


def by_maps(attention: torch.Tensor, **seen: Any) -> dict[str, float]:
    """Every metric from one map after the other."""
    maps: dict[tuple[int, int], list[np.ndarray]] = {}
    keys: dict[int, set[int]] = {}
    for n, h, _i, places, weights in rows(attention, **seen):
        row = np.zeros(attention.shape[3])
        row[places] = weights
        maps.setdefault((n, h), []).append(row)
        keys.setdefault(n, set()).update(places.tolist())
    found: dict[str, list[float]] = {"nmi": [], "query_share": [], "popularity": []}
    for (n, _h), held in maps.items():
        mean = np.mean(held, 0)
        information = nats(mean) - np.mean([nats(row) for row in held])
        divergence = math.log(len(keys[n])) - nats(mean)
        found["nmi"].append(information / math.sqrt(math.log(len(held)) * nats(mean)))
        found["query_share"].append(information / (information + divergence))
        found["popularity"].append(divergence / math.log(len(keys[n])))
    return {metric: float(np.mean(values)) for metric, values in found.items()}


@pytest.mark.parametrize("mask", [None, MASK], ids=["whole", "padded"])
@pytest.mark.parametrize("leading", [0, 1])
def test_is_the_mean_over_maps(mask: torch.Tensor | None, leading: int) -> None:
    attention = drawn(10, 3, 14, 14, mask=mask).float()
    roles = {} if mask is None else {"mask": mask}
    values = found(attention_information, attention, {"cls": str(leading)}, **roles)
    for metric, expected in by_maps(attention, leading=leading, mask=mask).items():
        assert values[metric] == pytest.approx(expected, rel=1e-9), metric


def test_reference_with_smoothing_agrees() -> None:
    """The information of a joint distribution p(q, k) = A/T, 10⁻⁸ added to every entry as published code does."""
    attention = drawn(8, 2, 17, 17, sharpness=1.0)
    maps = attention[:, :, 1:, 1:].numpy() + 1e-8
    maps = maps / maps.sum(-1, keepdims=True)
    joint = maps / 16
    of_keys = joint.sum(2, keepdims=True)
    information = (joint * np.log(joint / (of_keys / 16))).sum((2, 3))
    entropy = -(of_keys * np.log(of_keys)).sum((2, 3))
    expected = (information / np.sqrt(entropy * math.log(16))).mean()
    values = found(attention_information, attention, {"cls": "true"})
    assert values["nmi"] == pytest.approx(expected, abs=1e-6)


def test_causal_maps_have_their_own_null() -> None:
    uniform = drawn(8, 2, 64, 64, sharpness=0.0, causal=True)
    values = found(attention_information, uniform, {"causal": "true"})
    assert values.keys() == {"nmi", "nmi_min_head"}
    assert values["nmi"] == pytest.approx(0.1387, abs=5e-5)
    assert nulls(attention_information, uniform, {"causal": "true"})["nmi"] == pytest.approx(values["nmi"], rel=1e-10)
    assert "query_share, popularity: causal" in skipped(attention_information, uniform, {"causal": "true"})
    # right padding leaves the uniform causal map of the real tokens
    padded = drawn(10, 2, 14, 14, sharpness=0.0, causal=True, mask=MASK)
    padded = torch.where(MASK[:, None, :, None], padded, torch.nan)
    value = found(attention_information, padded, {"causal": "true"}, mask=MASK)["nmi"]
    assert nulls(attention_information, padded, {"causal": "true"}, mask=MASK)["nmi"] == pytest.approx(value, rel=1e-10)
    window = drawn(8, 1, 32, 32, sharpness=0.0, causal=True, window=5)
    metadata = {"causal": "true", "window": "5"}
    value = found(attention_information, window, metadata)["nmi"]
    assert nulls(attention_information, window, metadata)["nmi"] == pytest.approx(value, rel=1e-10)


@pytest.mark.parametrize(
    ("sharpness", "nmi", "query_share"), [(0.5, 0.0234, 0.994), (1.0, 0.0923, 0.991), (2.0, 0.322, 0.978)]
)
def test_gaussian_logits_over_196_tokens(sharpness: float, nmi: float, query_share: float) -> None:
    values = found(attention_information, drawn(8, 1, 196, 196, sharpness=sharpness))
    # published standard deviations of one map: .0002, .0011, .007
    assert values["nmi"] == pytest.approx(nmi, rel=0.02)
    assert values["query_share"] == pytest.approx(query_share, abs=0.002)
    null = nulls(attention_information, drawn(8, 1, 196, 196, sharpness=sharpness))["nmi"]
    assert null == pytest.approx(values["nmi"], rel=0.06)


def test_sharpness_splits_into_what_follows_the_query_and_what_does_not() -> None:
    attention = drawn(8, 1, 24, 24, sharpness=2.0)
    sharpness = 1 - np.mean([nats(weights) for *_, weights in rows(attention)]) / math.log(24)
    values = nulls(attention_information, attention)
    assert values["nmi"] == pytest.approx(sharpness, rel=1e-10)


def test_identity_copies_sinks_and_uniform_maps() -> None:
    identity = torch.eye(16).expand(8, 2, 16, 16)
    assert found(attention_information, identity) == pytest.approx(
        {"nmi": 1.0, "nmi_min_head": 1.0, "query_share": 1.0, "popularity": 0.0}, abs=1e-12
    )
    copies = drawn(8, 2, 1, 16, sharpness=2.0).expand(8, 2, 16, 16).contiguous()
    values = found(attention_information, copies)
    assert (values["nmi"], values["query_share"]) == pytest.approx((0.0, 0.0), abs=1e-9)
    assert {str(finding.severity) for finding in subject(attention_information, copies).findings} == {"error"}
    uniform = torch.full((8, 2, 16, 16), 1 / 16)
    values = found(attention_information, uniform)
    assert values == pytest.approx({"nmi": 0.0, "nmi_min_head": 0.0, "popularity": 0.0}, abs=1e-12)
    assert "query_share: every map is uniform" in skipped(attention_information, uniform)
    assert not subject(attention_information, uniform).findings
    sink = torch.zeros(8, 2, 16, 16)
    sink[..., 3] = 1.0
    assert found(attention_information, sink) == {
        "nmi": 0.0,
        "nmi_min_head": 0.0,
        "query_share": 0.0,
        "popularity": 1.0,
    }
    assert evidence(attention_information, sink)["nmi"]["one_key"] == 16
    # almost a sink: 0/0 is near, and the value is small and finite
    almost = torch.full((8, 2, 16, 16), 1e-7)
    almost[..., 3] = 1.0 - 15e-7
    assert found(attention_information, almost)["nmi"] == 0.0


def test_what_does_not_apply_is_said() -> None:
    assert "attention to another sequence" in skipped(attention_information, drawn(8, 2, 9, 12))
    assert skipped(attention_information, drawn(7, 2, 9, 9)).startswith("7 sequences")
    assert skipped(attention_information, torch.full((8, 2, 9, 9), torch.nan)).startswith("0 sequences")
    failures = subject(attention_information, 1.5 * drawn(8, 2, 9, 9)).failures
    assert [failure.error for failure in failures] == ["BadValues"]
