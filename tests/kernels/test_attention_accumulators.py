"""Sums over attention: split anywhere, merge, and it is the whole; in blocks of any size; and what is left out."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from collapse_cli.errors import BadValues
from collapse_cli.kernels import attention_maps as passes
from collapse_cli.kernels.attention_floor import entropy_floors
from collapse_cli.kernels.attention_marginals import AttentionMarginals, uniform_information, uniform_prefix
from collapse_cli.kernels.attention_rows import AttentionRows
from collapse_cli.kernels.attention_visibility import Visibility
from collapse_cli.kernels.batches import Batch
from collapse_cli.kernels.head_gram import HeadGram
from collapse_cli.kernels.needs import Feeding, need
from tests.analyzers.attention.maps import drawn
from tests.kernels.merging import assert_is_the_whole, readings

KINDS: dict[str, Callable[..., Any]] = {
    "attention_rows": AttentionRows,
    "attention_marginals": AttentionMarginals,
    "head_gram": HeadGram,
}
SEEN = {
    "everything": Visibility(),
    "causal": Visibility(is_causal=True),
    "window": Visibility(is_causal=True, window=6),
    "leading": Visibility(leading=2),
}


def read(accumulator: Any) -> dict[str, Any]:
    return {**readings(accumulator), "tally": asdict(accumulator.tally)}


def padded(visibility: Visibility) -> dict[str, torch.Tensor]:
    """Maps of 20 tokens with 12 to 20 real ones, padding of NaN, an empty row and one that is no distribution."""
    mask = torch.arange(20)[None] < torch.tensor([20, 12, 15, 20, 18, 20, 20, 13, 20, 5, 20])[:, None]
    maps = drawn(11, 3, 20, 20, causal=visibility.is_causal, window=visibility.window, mask=mask)
    maps = torch.where(mask[:, None, :, None] & mask[:, None, None, :], maps, torch.nan)
    maps[0, 1, 7], maps[3, 2, 9], maps[5, 0, 4] = 0.0, 0.5, torch.inf
    return {"attention": maps, "mask": mask}


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("kind", KINDS)
def test_parts_merged_are_the_whole(kind: str, seen: str) -> None:
    assert_is_the_whole(lambda: KINDS[kind](visibility=SEEN[seen]), padded(SEEN[seen]), read=read)


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("entries", [1, 200, 2000])
def test_blocks_of_any_size_give_the_same(seen: str, entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    roles = padded(SEEN[seen])
    # few rows are compared entry by entry, whatever the blocks
    monkeypatch.setattr(passes, "_PROBE_ENTRIES", 20)
    for make in KINDS.values():
        monkeypatch.setattr(passes, "_BLOCK_ENTRIES", 1 << 18)
        whole, blocks = make(visibility=SEEN[seen]), make(visibility=SEEN[seen])
        whole.update(Batch(roles))
        monkeypatch.setattr(passes, "_BLOCK_ENTRIES", entries)
        blocks.update(Batch(roles))
        for name, value in read(whole).items():
            torch.testing.assert_close(read(blocks)[name], value, rtol=1e-12, atol=1e-12)


def test_one_batch_is_passed_over_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    one_pass = passes._Pass
    monkeypatch.setattr(passes, "_Pass", lambda *given: made.append(given) or one_pass(*given))
    batch = Batch({"attention": drawn(2, 2, 9, 9)})
    for name in KINDS:
        need(name).make(Feeding()).update(batch)
    assert len(made) == 1


def test_nothing_that_is_given_is_changed() -> None:
    roles = padded(Visibility())
    before = {role: tensor.clone() for role, tensor in roles.items()}
    for make in KINDS.values():
        make(visibility=Visibility(leading=1)).update(Batch(roles))
    for role, tensor in roles.items():
        torch.testing.assert_close(tensor, before[role], rtol=0, atol=0, equal_nan=True)


def test_rows_are_counted_for_what_they_are() -> None:
    rows = AttentionRows(visibility=Visibility(is_causal=True))
    rows.update(Batch(padded(Visibility(is_causal=True))))
    real = 3 * (20 + 12 + 15 + 20 + 18 + 20 + 20 + 13 + 20 + 5 + 20)
    assert asdict(rows.tally) == {
        "sequences": 11,
        "short": 1,
        "rows": real - 3,
        "empty": 2,
        "wrong": 1,
        "single": 3 * 11,
        "most_keys": 20,
    }
    # the first row sees one key; the three broken rows are of three heads; the short sequence says nothing
    assert rows.regression[0].tolist() == [real / 3 - 5 - 10 - 1] * 3
    assert (rows.least_keys, rows.most_keys) == (2, 20)


def test_many_rows_that_are_no_distribution_are_refused() -> None:
    maps = drawn(10, 2, 10, 10)
    maps[0, 0, :2] *= 1.01
    rows = AttentionRows()
    rows.update(Batch({"attention": maps}))
    rows.tally.check()
    maps[1, 0, 0] *= 1.01
    rows = AttentionRows()
    rows.update(Batch({"attention": maps}))
    with pytest.raises(BadValues, match="3 of 200 rows are not"):
        rows.tally.check()


def test_negative_weights_are_refused() -> None:
    maps = drawn(8, 1, 8, 8)
    maps[..., 0] -= 2.0
    maps[..., 1] += 2.0
    rows = AttentionRows()
    rows.update(Batch({"attention": maps}))
    assert (rows.tally.rows, rows.tally.wrong) == (0, 64)


@pytest.mark.parametrize(
    ("visibility", "is_causal"),
    [(Visibility(is_causal=True), False), (Visibility(is_causal=True, window=4), True), (Visibility(window=4), False)],
)
def test_a_map_that_sees_what_it_must_not_is_refused(visibility: Visibility, is_causal: bool) -> None:
    rows = AttentionRows(visibility=visibility)
    rows.update(Batch({"attention": drawn(8, 2, 16, 16, causal=is_causal)}))
    # every row but those with nothing to hide
    assert rows.tally.wrong == 8 * 2 * {(False, None): 15, (True, 4): 12, (False, 4): 16}[is_causal, visibility.window]
    with pytest.raises(BadValues):
        rows.tally.check()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_to_half_precision_is_no_fault(dtype: torch.dtype) -> None:
    maps = drawn(8, 4, 64, 64, sharpness=0.3)
    half, exact = AttentionRows(), AttentionRows()
    half.update(Batch({"attention": maps.to(dtype)}))
    exact.update(Batch({"attention": maps}))
    assert half.tally.wrong == 0
    # renormalised rows: the error is that of an entry, not of the sum
    torch.testing.assert_close(half.share, exact.share, rtol=2e-4, atol=0)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, Visibility()),
        ({"causal": "True", "cls": "true"}, Visibility(True, None, 1)),
        ({"causal": "1", "window": " 128 ", "cls": "5"}, Visibility(True, 128, 5)),
        ({"causal": "no", "window": "none", "cls": "false"}, Visibility()),
        ({"window": "0"}, Visibility()),
    ],
)
def test_visibility_is_what_metadata_says(metadata: dict[str, str], expected: Visibility) -> None:
    assert Visibility.of(metadata) == expected


def test_queries_of_a_causal_map_are_the_last_positions() -> None:
    maps = torch.zeros(1, 1, 8, 12, dtype=torch.float64)
    for query in range(8):
        maps[0, 0, query, : query + 5] = 1.0 / (query + 5)
    rows = AttentionRows(visibility=Visibility(is_causal=True, leading=1))
    rows.update(Batch({"attention": maps}))
    # leading tokens are those of a map of a sequence onto itself
    assert rows.tally.rows == 8
    assert rows.share.tolist() == pytest.approx([1.0], abs=1e-12)


def test_uniform_causal_maps_have_the_information_and_the_sink_of_their_definition() -> None:
    for tokens, window in ((64, None), (128, None), (64, 10)):
        seen = np.tril(np.ones((tokens, tokens)))
        seen = seen if window is None else np.triu(seen, -(window - 1))
        maps = seen / seen.sum(1, keepdims=True)
        keys = maps.mean(0)
        of_keys = -(keys * np.log(keys)).sum()
        information = of_keys - np.log(seen.sum(1)).mean()
        assert uniform_information(tokens, window) == pytest.approx(
            information / np.sqrt(np.log(tokens) * of_keys), rel=1e-12
        )
        expected = maps.sum(0) / np.arange(tokens, 0, -1)
        np.testing.assert_allclose(uniform_prefix(tokens, window).numpy(), expected, rtol=1e-12)
    assert [round(uniform_information(tokens), 4) for tokens in (64, 128, 1024)] == [0.1387, 0.1208, 0.0855]


def test_entropy_floor_is_of_the_spectral_norm_of_each_heads_logit_matrix() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(rows, 24, generator=generator, dtype=torch.float64) for rows in (12, 6))
    floors = entropy_floors(query, key, heads=4, largest_tokens=0.5, keys=64)
    assert isinstance(floors, list)
    for head, floor in enumerate(floors):
        products = query[3 * head : 3 * head + 3].T @ key[3 * (head // 2) : 3 * (head // 2) + 3]
        sigma = np.linalg.norm(products.numpy(), 2) * 0.5 / np.sqrt(3)
        # the softmax of the extremal row: one logit √(T/(T−1))·σ above equal others
        raised = np.exp(-sigma * np.sqrt(64 / 63))
        row = np.array([1.0] + [raised] * 63) / (1.0 + 63 * raised)
        lowest = -(row * np.log(row)).sum() / np.log(64)
        assert floor == pytest.approx(lowest, rel=1e-10)
    for wrong in (query[:5], query[:, :3], torch.zeros(0, 24), query * torch.nan):
        assert isinstance(entropy_floors(wrong, key, heads=4, largest_tokens=1.0, keys=64), str)
    assert isinstance(entropy_floors(query, key, heads=4, largest_tokens=0.0, keys=64), str)
