"""Products of attention weights against dense d × d matrices in numpy."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from collapse_cli.core.site import Role
from collapse_cli.kernels import attention_logits as attention
from collapse_cli.kernels.views import Block
from tests.views import block


def gaussian(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(
    *, heads: int = 4, kv_heads: int = 2, width: int = 3, inputs: tuple[int, int] = (10, 10), **extra: Any
) -> Block:
    weights = {
        Role.ATTENTION_Q: gaussian(heads * width, inputs[0], 1),
        Role.ATTENTION_K: gaussian(kv_heads * width, inputs[1], 2),
        Role.ATTENTION_V: gaussian(kv_heads * width, inputs[1], 3),
        Role.ATTENTION_O: gaussian(inputs[0], heads * width, 4),
    }
    return block({**weights, **extra.pop("weights", {})}, {"heads": heads, **extra})


def dense_logits(layer: Block, gain: np.ndarray | float = 1.0) -> list[np.ndarray]:
    division = layer.get(attention.attention_heads)
    assert isinstance(division, attention.AttentionHeads)
    query = layer.weights[Role.ATTENTION_Q][0].matrix.numpy() * gain
    key = layer.weights[Role.ATTENTION_K][0].matrix.numpy() * gain
    width, group = division.width, division.heads // division.kv_heads
    return [
        query[h * width : (h + 1) * width].T @ key[h // group * width : (h // group + 1) * width] / math.sqrt(width)
        for h in range(division.heads)
    ]


@pytest.mark.parametrize("inputs", [(10, 10), (12, 7), (2, 2)])
@pytest.mark.parametrize("entries", [1 << 22, 1])
def test_spectrum_is_that_of_the_dense_matrix(
    inputs: tuple[int, int], entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_BLOCK_ENTRIES", entries)
    one = layer(inputs=inputs)
    found = one.get(attention.logit_spectrum).numpy()
    for head, dense in enumerate(dense_logits(one)):
        expected = np.linalg.svd(dense, compute_uv=False)[: found.shape[1]]
        assert found[head] == pytest.approx(expected, abs=1e-13)


def test_gain_of_the_norm_is_folded_in_with_its_offset() -> None:
    gain = gaussian(1, 10, 5).reshape(-1)
    one = layer(weights={Role.NORM_GAIN: gain}, norm_offset=1.0)
    expected = [np.linalg.norm(dense) for dense in dense_logits(one, gain.numpy() + 1.0)]
    assert one.get(attention.logit_spectrum).norm(dim=1).numpy() == pytest.approx(expected, rel=1e-12)


def test_unknown_or_impossible_heads_are_a_reason() -> None:
    weights = {Role.ATTENTION_Q: gaussian(12, 10, 1), Role.ATTENTION_K: gaussian(12, 10, 2)}
    assert (
        attention.attention_heads(block(weights)) == "number of heads unknown: no config.json beside the file gives it"
    )
    assert "do not divide" in str(attention.attention_heads(block(weights, {"heads": 5})))
    odd = {**weights, Role.ATTENTION_K: gaussian(9, 10, 2)}
    assert "key rows" in str(attention.attention_heads(block(odd, {"heads": 4})))
    with pytest.raises(ValueError, match="attention_heads first"):
        attention.logit_spectrum(block(weights))


@pytest.mark.parametrize("entries", [1 << 22, 1])
def test_map_products_are_inner_products_of_dense_maps(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_BLOCK_ENTRIES", entries)
    one = layer(heads=6, kv_heads=3)
    maps = [math.sqrt(3) * dense for dense in dense_logits(one)]
    expected = np.array([[(a * b).sum() for b in maps] for a in maps])
    assert one.get(attention.query_key_products).numpy() == pytest.approx(expected, abs=1e-11)
    value, output = (one.weights[role][0].matrix.numpy() for role in (Role.ATTENTION_V, Role.ATTENTION_O))
    moved = [output[:, 3 * h : 3 * h + 3] @ value[h // 2 * 3 : h // 2 * 3 + 3] for h in range(6)]
    expected = np.array([[(a * b).sum() for b in moved] for a in moved])
    products = one.get(attention.output_value_products)
    assert products is not None
    assert products.numpy() == pytest.approx(expected, abs=1e-11)
    cosines, norms = attention.map_cosines(products)
    assert norms.numpy() == pytest.approx([np.linalg.norm(one) for one in moved], rel=1e-12)
    scale = np.sqrt(np.diag(expected))
    assert cosines.numpy() == pytest.approx(expected / np.outer(scale, scale), abs=1e-12)


def test_values_that_do_not_fit_give_nothing() -> None:
    assert attention.output_value_products(layer(weights={Role.ATTENTION_O: gaussian(10, 11, 4)})) is None


@pytest.mark.parametrize("norm", [0.01, 1.0, 5.0, 10.0, 20.0])
def test_entropy_floor_is_reached_by_one_logit_apart(norm: float) -> None:
    tokens = 1024
    logits = np.full(tokens, -norm / math.sqrt(tokens * (tokens - 1)))
    logits[0] = norm * math.sqrt((tokens - 1) / tokens)
    assert np.linalg.norm(logits) == pytest.approx(norm)
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    expected = -(shares * np.log(shares)).sum() / math.log(tokens)
    assert attention.entropy_floor(norm) == pytest.approx(expected, abs=1e-12)


def test_entropy_floor_is_the_published_table_and_never_overflows() -> None:
    found = [attention.entropy_floor(norm) for norm in (1.0, 5.0, 10.0, 20.0, 1e9)]
    assert found[:3] == [
        pytest.approx(0.99986, abs=1e-5),
        pytest.approx(0.928, abs=5e-4),
        pytest.approx(0.0703, abs=1e-4),
    ]
    assert found[3] == pytest.approx(6e-6, abs=1e-6)
    assert found[4] == 0.0


@pytest.mark.parametrize("scale", [0.1, 0.29, 0.5, 1.0, 1.7, 2.4, 3.3, 5.0, 8.0, 30.0, 200.0])
def test_softmax_entropy_is_the_mean_over_seeded_draws(scale: float) -> None:
    draws = 4000
    generator = torch.Generator().manual_seed(1)
    logits = scale * torch.randn(draws, 1024, generator=generator)
    logs = torch.log_softmax(logits, 1)
    entropies = -(logs.exp() * logs).sum(1).double() / math.log(1024)
    error = float(entropies.std()) / math.sqrt(draws)
    assert attention.softmax_entropy(scale) == pytest.approx(float(entropies.mean()), abs=4.0 * error + 2e-4)


def test_softmax_entropy_is_uniform_without_spread_and_falls_with_it() -> None:
    scales = [0.0, *(0.05 * 1.1**step for step in range(120))]
    found = [attention.softmax_entropy(scale) for scale in scales]
    assert found[0] == 1.0
    assert all(after < before for before, after in itertools.pairwise(found))
    assert min(found) > 0.0


def test_null_of_the_logit_matrix_is_met_by_gaussian_weights() -> None:
    norms, ranks, shares = [], [], []
    for seed in range(6):
        query, key = (gaussian(64, 512, 2 * seed + part).numpy() / math.sqrt(512) for part in (0, 1))
        values = np.linalg.svd(query.T @ key / 8.0, compute_uv=False)
        norms.append(values[0])
        ranks.append((values**2).sum() / values[0] ** 2)
        shares.append(values.sum() ** 2 / (64 * (values**2).sum()))
    norm, rank, share = attention.logit_matrix_null((512, 512), 64)
    # four draws against six; a single draw spreads by 1 % and 2 %
    assert norm == pytest.approx(np.mean(norms), rel=0.03)
    assert rank == pytest.approx(np.mean(ranks), rel=0.06)
    assert share == pytest.approx(np.mean(shares), rel=5e-3)
    assert (norm, rank) == (pytest.approx(0.188, rel=0.03), pytest.approx(28.2, rel=0.06))


def test_null_of_wide_heads_exists() -> None:
    norm, rank, share = attention.logit_matrix_null((2, 3), 16)
    assert norm > 0.0
    assert 1.0 <= rank <= 2.0
    assert 0.0 < share <= 2 / 16


def test_bound_after_query_and_key_norms() -> None:
    first, second = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([1.0, 3.0, 1.0])
    one = layer(weights={Role.ATTENTION_QK_NORM: (first, second)})
    assert attention.normalised_logit_bound(one) == [pytest.approx(math.sqrt(3) * 6.0)]
    shifted = layer(weights={Role.ATTENTION_QK_NORM: (first, second)}, norm_offset=1.0)
    assert attention.normalised_logit_bound(shifted) == [pytest.approx(math.sqrt(3) * 4.0)]
    per_head = layer(weights={Role.ATTENTION_QK_NORM: (torch.ones(4, 3), torch.arange(12.0).reshape(4, 3))})
    assert attention.normalised_logit_bound(per_head) == pytest.approx([math.sqrt(3) * peak for peak in (2, 5, 8, 11)])
    # one norm over the whole width: the length √12 of all queries may lie in one head, √6 of all keys in one group
    whole = layer(weights={Role.ATTENTION_QK_NORM: (2.0 * torch.ones(12), torch.ones(6))})
    assert attention.normalised_logit_bound(whole) == [pytest.approx(2.0 * math.sqrt(12) * math.sqrt(6) / math.sqrt(3))]
    assert attention.normalised_logit_bound(layer()) is None
