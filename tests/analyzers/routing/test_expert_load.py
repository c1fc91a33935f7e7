"""Loads against numpy and hand-written counts; nulls against the values of a seeded simulation; what cannot be."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from collapse_cli.analyzers.routing.expert_load import collapsed, expert_load, healthy
from collapse_cli.core.finding import Severity
from collapse_cli.core.metric import Measurement
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.kernels.expert_load import ExpertLoad, dropped_share_null, load_cv_null, stated_capacity
from collapse_cli.kernels.expert_load import violation_null as largest_null
from collapse_cli.sources.dump import memory_dump
from tests.view_dumps import findings, measured, results


def chosen(*loads: int) -> dict[str, torch.Tensor]:
    """One expert per token, so many tokens each, of a router with an expert for each number."""
    index = torch.repeat_interleave(torch.arange(len(loads)), torch.tensor(loads))[:, None]
    return {"expert_index": index, "router_logits": torch.zeros(sum(loads), len(loads))}


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ((50, 50, 50, 50), (0.0, 0.0, 4.0, 0.0, 0, 0.0)),
        ((100, 0, 50, 50), (math.sqrt(0.5), 1.0, 2.0 * math.sqrt(2.0), 0.25, 1, 37 / 200)),
        ((200, 0, 0, 0), (math.sqrt(3.0), 3.0, 1.0, 0.75, 3, 137 / 200)),
    ],
)
def test_closed_forms_of_one_expert_per_token(loads: tuple[int, ...], expected: tuple[float, ...]) -> None:
    found = measured(expert_load, chosen(*loads))
    names = ("load_cv", "max_violation", "effective_experts", "unused_share", "starved_experts", "drop_rate")
    assert [found[name].value for name in names] == pytest.approx(expected, abs=1e-12)
    assert found["load_cv"].evidence["loads"] == list(loads)
    assert found["max_violation"].evidence["min_violation"] == min(loads) / 50 - 1


def test_several_experts_per_token_are_what_numpy_counts() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(700, 16, generator=generator) + torch.linspace(-1, 1, 16)
    index = logits.topk(4).indices
    loads = np.bincount(index.numpy().ravel(), minlength=16)
    for arrays in ({"router_logits": logits}, {"router_logits": logits, "expert_index": index}):
        found = measured(expert_load, arrays, top_k="4", capacity_factor="1.1")
        assert found["load_cv"].value == pytest.approx(loads.std() / loads.mean(), rel=1e-12)
        assert found["max_violation"].value == pytest.approx(loads.max() / loads.mean() - 1, rel=1e-12)
        assert found["effective_experts"].value == pytest.approx(math.exp(entropy(loads)) / 4, rel=1e-12)
        # ⌈1.1·175⌉ = ⌈192.5⌉
        assert found["drop_rate"].value == pytest.approx(np.maximum(loads - 193, 0).sum() / 2800, rel=1e-12)
        assert found["drop_rate"].evidence["capacity"] == 193
        softmax = np.exp(logits.double().numpy())
        softmax /= softmax.sum(1, keepdims=True)
        first = np.bincount(logits.numpy().argmax(1), minlength=16) / 700
        assert found["load_cv"].evidence["l_aux"] == pytest.approx(16 * softmax.mean(0) @ first, rel=1e-6)
    assert found["load_cv"].evidence["source"] == "expert_index"


def test_capacity_is_taken_exactly() -> None:
    # 1.1·10 is 11.000000000000002 in binary, which would round up to 12
    found = measured(expert_load, chosen(140, 20, *[5] * 8), capacity_factor="1.1")
    assert found["drop_rate"].evidence["capacity"] == 22
    assert found["drop_rate"].value == pytest.approx(118 / 200)


def even_load(tokens: int, experts: int, picked: int) -> ExpertLoad:
    counts = torch.full((experts,), tokens * picked // experts)
    none = torch.zeros(0, dtype=torch.int64)
    return ExpertLoad(counts, tokens, picked, True, "expert_index", none, none.reshape(0, experts), False)


def test_nulls_are_those_of_random_routing() -> None:
    load = even_load(4096, 64, 8)
    assert load_cv_null(load) == pytest.approx(0.04134, abs=1e-5)
    assert largest_null(load) == pytest.approx(0.0966, abs=1e-4)
    found = measured(expert_load, chosen(*[40] * 20))
    assert found["effective_experts"].null == pytest.approx(20 * math.exp(-19 / 1600), rel=1e-12)
    assert found["unused_share"].null == pytest.approx(0.95**800, rel=1e-9)
    generator = np.random.default_rng(5)
    draws = np.stack([np.bincount(generator.integers(0, 128, 512), minlength=128) for _ in range(400)])
    few = even_load(512, 128, 1)
    assert dropped_share_null(few, stated_capacity({})) == pytest.approx(0.098, abs=1e-3)
    assert dropped_share_null(few, stated_capacity({})) == pytest.approx(
        np.maximum(draws - 5, 0).sum(1).mean() / 512, abs=6e-3
    )


def test_groups_are_compared_with_the_load_of_all() -> None:
    arrays = chosen(100, 100, 100, 100) | {"groups": torch.arange(400) // 200}
    found = measured(expert_load, arrays)["group_load_distance"]
    assert found.value == pytest.approx(0.5)
    # four shares of ¼: ½·4·√(2·¼·¾/(π·200))
    assert found.null == pytest.approx(2.0 * math.sqrt(0.375 / (math.pi * 200)), rel=1e-12)
    generator = np.random.default_rng(0)
    random = {"expert_index": torch.tensor(generator.integers(0, 8, (4000, 1))), "groups": torch.arange(4000) % 20}
    chance = measured(expert_load, random)["group_load_distance"]
    # the largest of 20 groups against the mean of one
    assert chance.null is not None
    assert np.mean(chance.evidence["distances"]) == pytest.approx(chance.null, rel=0.15)
    # a group of 20 choices is far from all the others and too small to say so
    third = arrays | {"groups": torch.tensor([7] * 20 + [3] * 180 + [5] * 200)}
    large = measured(expert_load, third)["group_load_distance"]
    assert (large.evidence["group"], large.evidence["groups"], large.evidence["groups_too_small"]) == (3, 2, 1)
    assert large.value == pytest.approx(0.5 * (7 / 36 + 11 / 36 + 0.5))
    few = arrays | {"groups": (torch.arange(400) >= 20).long()}
    assert "group_load_distance: 1 groups with 20 choices" in str(results(expert_load, few))


def test_equal_logits_go_to_the_lower_experts() -> None:
    arrays = {"router_logits": torch.zeros(400, 8)}
    found = measured(expert_load, arrays, top_k="2")
    assert found["load_cv"].evidence["loads"] == [400, 400, 0, 0, 0, 0, 0, 0]
    assert measured(expert_load, arrays)["load_cv"].evidence["loads"][:2] == [400, 0]
    assert measured(expert_load, arrays)["load_cv"].evidence["top_k_stated"] is False


def test_masked_experts_are_not_chosen() -> None:
    logits = torch.zeros(400, 8)
    logits[:, 4:] = -torch.inf
    logits[:100, 1:] = -torch.inf
    found = measured(expert_load, {"router_logits": logits}, top_k="2")["unused_share"]
    assert (found.evidence["tokens"], found.value) == (300, 0.75)


def test_an_index_alone_says_how_many_experts_there_are_at_least() -> None:
    index = torch.stack([torch.zeros(300), torch.full((300,), 9)], 1).long()
    found = measured(expert_load, {"expert_index": index})
    assert found["effective_experts"].value == pytest.approx(1.0)
    assert found["starved_experts"].value == 8
    assert found["load_cv"].evidence["experts_known"] is False
    first_two = {"expert_index": torch.tensor([[1, 0]]).repeat(300, 1)}
    assert findings(expert_load, first_two) == [Severity.ERROR]
    assert measured(expert_load, first_two).keys() == {"effective_experts"}
    assert "no router_logits say how many" in str(results(expert_load, first_two))


def test_few_tokens_and_routers_without_a_choice_are_skipped() -> None:
    assert "159 choices < 20 for each of 8 experts" in str(results(expert_load, chosen(159, *[0] * 7)))
    dense = {"router_logits": torch.randn(400, 4, generator=torch.Generator().manual_seed(0))}
    (skipped,) = results(expert_load, dense, top_k="4")
    assert "4 of 4 experts for every token" in skipped.reason
    assert measured(expert_load, chosen(160, *[0] * 7))


def test_uneven_loads_are_judged_step_by_step() -> None:
    assert findings(expert_load, chosen(100, 90, 60, 70)) == []
    assert findings(expert_load, chosen(120, 110, 100, 0)) == [Severity.WARNING]
    assert findings(expert_load, chosen(199, 67, 67, 0)) == [Severity.WARNING, Severity.WARNING]
    assert findings(expert_load, chosen(930, 70)) == [Severity.WARNING]
    assert findings(expert_load, chosen(990, 10)) == [Severity.ERROR]
    assert sorted(findings(expert_load, chosen(400, 0))) == sorted([Severity.ERROR, Severity.WARNING])


@pytest.mark.parametrize(
    ("index", "metadata", "said"),
    [
        ([[8]], {}, "should name the 8 experts of router_logits, from 0 on, the largest is 8 or more"),
        ([[-1]], {}, "1 are negative"),
        ([[1 << 40]], {}, "or more"),
        (None, {"top_k": "two"}, "the metadata top_k should be a whole number from 1 to 8"),
        (None, {"top_k": "9"}, "it is '9'"),
        (None, {"top_k": "0"}, "it is '0'"),
        ([[1]], {"capacity_factor": "-1"}, "the metadata capacity_factor should be a positive number, it is '-1'"),
        ([[1]], {"capacity_factor": "1/0"}, "capacity_factor"),
        ([[1]], {"capacity_factor": "inf"}, "capacity_factor"),
    ],
)
def test_what_cannot_be_is_a_failure_of_this_analyzer(
    index: list[list[int]] | None, metadata: dict[str, str], said: str
) -> None:
    arrays = {"router_logits": torch.randn(400, 8, generator=torch.Generator().manual_seed(0))}
    if index is not None:
        arrays["expert_index"] = torch.cat([torch.arange(399)[:, None] % 8, torch.tensor(index)])
    analysis = analyse_dump(memory_dump(arrays, metadata=metadata), [expert_load])
    assert len(analysis.failures) == 1
    assert said in analysis.failures[0].message


def test_rows_in_several_arrays_of_a_dump_are_counted_once() -> None:
    for example in (healthy(), collapsed()):
        found = measured(expert_load, dict(example.tensors), **dict(example.metadata or {}))
        assert isinstance(found["load_cv"], Measurement)
        assert found["load_cv"].evidence["tokens"] == 480
        assert sum(found["load_cv"].evidence["loads"]) == 960
