import pytest

from collapse_cli.analyzer import Example
from collapse_cli.analyzers.integrity.shard_index import collapsed, healthy, shard_index
from collapse_cli.core.finding import Severity
from collapse_cli.core.site import Role, Site
from collapse_cli.kernels.views import Inventory
from collapse_cli.sources.base import ShardLayout
from tests.contract.examples import analysed, judged
from tests.views import at, reasons, values

SITE = Site("#checkpoint", (), "", None, Role.OTHER)
FAULTS = {
    "missing_shards",
    "missing_tensors",
    "unindexed_tensors",
    "stray_shards",
    "conflicting_tensors",
    "tiling_errors",
}


def run(layout: ShardLayout | None, **config: object) -> list[object]:
    return list(shard_index.run(Inventory(SITE, (), config=config, layout=layout)))


def counted(example: Example) -> dict[str, float]:
    found = values(analysed(shard_index, example).measurements)
    return {metric: value for metric, value in found.items() if value}


def test_two_whole_shards_have_no_fault() -> None:
    found = values(analysed(shard_index, healthy()).measurements)
    assert found == dict.fromkeys(FAULTS, 0.0)


def test_a_deleted_shard_is_missed_with_its_three_tensors() -> None:
    assert counted(collapsed()) == {"missing_shards": 1, "missing_tensors": 3}


LAYOUTS = {
    "unindexed": (
        ShardLayout(index={"a": "1"}, shards={"1": ("a", "b", "c")}),
        {"unindexed_tensors": 2},
    ),
    "stray file, its tensors not counted twice": (
        ShardLayout(index={"a": "1"}, shards={"1": ("a",), "x": ("a", "b")}, stray=("x",)),
        {"stray_shards": 1},
    ),
    "in another shard than the index says": (
        ShardLayout(index={"a": "1", "b": "2"}, shards={"1": ("a", "b"), "2": ()}),
        {"missing_tensors": 1},
    ),
    "twice with different bytes": (
        ShardLayout(index={"a": "1", "b": "2"}, shards={"1": ("a", "b"), "2": ("b",)}, conflicting=("b",)),
        {"conflicting_tensors": 1},
    ),
    "chunks that overlap": (
        ShardLayout(index={"a": "1"}, shards={"1": ("a",)}, tiling_errors=("a",)),
        {"tiling_errors": 1},
    ),
    "sizes": (
        ShardLayout(index={"a": "1"}, shards={"1": ("a",)}, total_size=100, actual_size=64),
        {"size_error": 36},
    ),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_set_arithmetic(case: str) -> None:
    layout, expected = LAYOUTS[case]
    assert {metric: value for metric, value in values(run(layout)).items() if value} == expected


def test_an_absent_head_is_in_order_if_it_is_tied() -> None:
    layout = ShardLayout(index={"a": "1", "lm_head.weight": "1"}, shards={"1": ("a",)})
    assert values(run(layout))["missing_tensors"] == 1
    assert values(run(layout, tie_word_embeddings=True))["missing_tensors"] == 0
    assert values(run(layout, text_config={"tie_word_embeddings": True}))["missing_tensors"] == 0


def test_a_single_file_is_skipped() -> None:
    assert reasons(run(None)) == ["single file: there is no index"]


def test_severities_and_messages() -> None:
    names = tuple(f"t{number}" for number in range(20))
    found = at(run(ShardLayout(index=dict.fromkeys(names, "1"), shards={"1": ()})))["missing_tensors", "#checkpoint"]
    assert found.evidence["names"].endswith("t7 and 12 more")
    findings = judged(shard_index, collapsed()).findings
    assert {finding.severity for finding in findings} == {Severity.ERROR}
    assert findings[0].message == "1 of 2 shards are missing: model-00002-of-00002.safetensors."
