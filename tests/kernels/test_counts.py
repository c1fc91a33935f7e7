"""Counts against numpy, whatever the batches; ties, masks, impossible numbers and tables that grow too large."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from collapse_cli.kernels.accumulators import Batch, Counts
from collapse_cli.kernels.counts import chosen_experts, largest_entries
from tests.kernels.merging import assert_is_the_whole


def codes(*shape: int, high: int = 9) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(1))


def counted(roles: dict[str, torch.Tensor], *names: str, **settings: Any) -> Counts:
    counts = Counts(*names, **settings)
    counts.update(Batch(roles))
    return counts


@pytest.mark.parametrize("shape", [(40,), (40, 3), (40, 2, 3)])
def test_every_number_of_every_axis_is_counted(shape: tuple[int, ...]) -> None:
    numbers = codes(*shape)
    counts = counted({"codes": numbers.to(torch.uint8)}, "codes")
    assert counts.counts.tolist() == np.bincount(numbers.numpy().ravel()).tolist()
    assert (counts.total, counts.rows, counts.largest) == (numbers.numel(), 40, int(numbers.max()))
    assert counts.histogram(12).tolist() == np.bincount(numbers.numpy().ravel(), minlength=12).tolist()
    with pytest.raises(ValueError, match="among 3"):
        counts.histogram(3)


def test_split_and_merged_it_is_the_whole() -> None:
    roles = {"codes": codes(60, 2) - 1, "groups": codes(60, high=5) * 7 - 1}
    assert_is_the_whole(lambda: Counts("codes"), roles)
    assert_is_the_whole(lambda: Counts("codes", "groups"), roles)
    assert_is_the_whole(lambda: Counts("codes", "groups", limit=5), roles)
    # the groups fit one by one and not together: given up in every order
    assert_is_the_whole(lambda: Counts("codes", "groups", table_limit=20), roles)
    logits = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)).round()
    logits[::7, 1:] = -torch.inf
    assert_is_the_whole(lambda: Counts("router_logits", chosen=2), {"router_logits": logits})


def test_groups_are_counted_by_themselves_and_rows_without_one_in_the_whole_only() -> None:
    numbers, groups = codes(50, 2), torch.tensor([5, -1, 3, -100, 900])[codes(50, high=5)]
    counts = counted({"codes": numbers, "groups": groups}, "codes", "groups")
    assert counts.groups.tolist() == [3, 5, 900]
    for group, row in zip(counts.groups, counts.by_group, strict=True):
        expected = Counter(numbers[groups == group].flatten().tolist())
        assert {place: count for place, count in enumerate(row.tolist()) if count} == expected
    assert counts.total == 100


def test_impossible_numbers_are_counted_apart() -> None:
    counts = counted({"codes": torch.tensor([3, -1, 1 << 40, 10, 9, -7])}, "codes", limit=10)
    assert (counts.negative, counts.beyond, counts.largest, counts.total) == (2, 2, 9, 2)
    assert counts.counts.tolist() == [0, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    nothing = Counts("codes")
    assert (nothing.counts.tolist(), nothing.largest, nothing.total) == ([], -1, 0)
    assert counted({"codes": torch.zeros(4, 0, dtype=torch.int32)}, "codes").total == 0


def test_a_table_that_would_be_too_large_is_given_up_and_the_whole_is_not() -> None:
    counts = counted({"codes": torch.arange(8), "groups": torch.arange(8)}, "codes", "groups", table_limit=63)
    assert counts.has_too_many_groups
    assert counts.by_group.shape == (0, 8)
    assert counts.counts.tolist() == [1] * 8
    kept = counted({"codes": torch.arange(8), "groups": torch.arange(8)}, "codes", "groups", table_limit=64)
    assert torch.equal(kept.by_group, torch.eye(8, dtype=torch.int64))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_of_equal_entries_the_lower_place_is_chosen(count: int) -> None:
    rows = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 2.0, 1.0], [3.0, 1.0, 3.0, 3.0]])
    wanted = np.argsort(-rows.numpy(), axis=1, kind="stable")[:, :count]
    assert largest_entries(rows, count).tolist() == wanted.tolist()
    # a sort that is not stable shuffles equals from some width on
    assert largest_entries(torch.zeros(3, 300), count).tolist() == [list(range(count))] * 3


def test_the_largest_entries_of_floating_rows_are_counted_but_never_masked_ones() -> None:
    inf = torch.inf
    logits = torch.tensor([[0.0, 3.0, 1.0, -inf], [-inf, -inf, 2.0, 1.0], [-inf, 0.0, -inf, -inf], [-inf] * 4])
    counts = counted({"router_logits": logits}, "router_logits", chosen=3)
    assert counts.counts.tolist() == [1, 1, 2, 1]
    assert (counts.masked_rows, counts.rows) == (2, 4)
    assert counted({"assignments": torch.tensor([[1.0, 0.0], [0.5, 0.5]])}, "assignments").counts.tolist() == [2, 0]
    assert counted({"logits": torch.zeros(3, 5).index_fill(1, torch.tensor(1), 1.0)}, "logits").largest == 1


def test_counts_of_different_roles_do_not_merge() -> None:
    with pytest.raises(ValueError, match="do not merge"):
        Counts("codes").merge(Counts("labels"))


def test_experts_per_token_are_what_the_metadata_says() -> None:
    stated = [{"top_k": "8"}, {"top_k": " 2 "}, {"top_k": "0"}, {"top_k": "two"}, {"top_k": "²"}, {}]
    assert [chosen_experts(metadata) for metadata in stated] == [8, 2, 1, 1, 1, 1]
