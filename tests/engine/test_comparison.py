"""Several checkpoints, two dumps, runs of dumps: what is paired, what is skipped, and what is read how often."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from collapse_cli.analyzer import (
    Metric,
    Reference,
    activation_pair_analyzer,
    activation_series_analyzer,
    on,
    pair_analyzer,
    pool_analyzer,
    series_analyzer,
    skip,
)
from collapse_cli.core.report import Skip
from collapse_cli.engine.comparison import Lineup, analyse_together
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.engine.dump_series import analyse_dump_series
from collapse_cli.engine.options import Options
from collapse_cli.errors import InputError, UnreadableDump
from collapse_cli.kernels.comparisons import ActivationSeries, Comparison, Model
from collapse_cli.sources.dump import memory_dump
from collapse_cli.sources.memory import memory_checkpoint
from collapse_cli.sources.paired import paired_dump

VALUE = Metric("value", "1", "A number.", better=None)
COMMON: dict[str, Any] = {
    "family": "test",
    "title": "Test",
    "metrics": (VALUE,),
    "remedy": "none",
    "references": (Reference("A paper, 2020", "https://example.org"),),
    "examples": {},
}


def norm_of_change(view: Comparison) -> float:
    return float((view.after.matrix.double() - view.before.matrix.double()).norm())


@pair_analyzer(name="change", accepts=on.floating(), sums_up=True, **COMMON)
def change(view: Comparison | Model) -> Iterator[Any]:
    """A change."""
    if isinstance(view, Model):
        total = sum(value for _, value in view.parts_with(norm_of_change))
        yield VALUE.at(view.site.name, total, parts=len(view.parts))
        return
    yield VALUE.at(view.site.name, view.get(norm_of_change))


@pool_analyzer(name="spread", accepts=on.floating(), **COMMON)
def spread(view: Comparison) -> Iterator[Any]:
    """A spread."""
    yield VALUE.at(view.site.name, len(view.descendants), base=view.base is not None)


@series_analyzer(name="path", accepts=on.floating(), **COMMON)
def path(view: Comparison) -> Iterator[Any]:
    """A path."""
    if len(view.members) < 3:
        yield skip(view.site.name, f"run too short: {len(view.members)} of 3")
        return
    yield VALUE.at(view.site.name, view.steps[-1] - view.steps[0], members=len(view.members))


def weights(seed: int, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {"a.weight": torch.randn(8, 4, generator=g), "b.weight": torch.randn(6, 6, generator=g), **more}


def pair(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> Lineup:
    return Lineup("pair", (memory_checkpoint(first), memory_checkpoint(second)), ("OLD", "NEW"))


def test_a_pair_is_shown_site_by_site_and_then_as_a_whole() -> None:
    first, second = weights(0), weights(1)
    analysis = analyse_together(pair(first, second), [change])
    values = {m.site: m.value for m in analysis.measurements}
    expected = {name: float((second[name].double() - first[name].double()).norm()) for name in first}
    assert values == pytest.approx({**expected, "#model": sum(expected.values())})
    assert (analysis.coverage.sites, analysis.coverage.wanted, analysis.coverage.read) == (2, 2, 2)


def test_what_is_in_one_side_only_or_has_another_shape_is_a_skip_that_says_so() -> None:
    first = weights(0, only_old=torch.ones(3), c=torch.ones(5, 2))
    second = weights(0, only_new=torch.ones(3), c=torch.ones(5, 3))
    analysis = analyse_together(pair(first, second), [change])
    assert set(analysis.skips) == {
        Skip("pairing", "only_old", "only in OLD"),
        Skip("pairing", "only_new", "only in NEW"),
        Skip("pairing", "c", "shape 5×2 → 5×3"),
    }
    assert analysis.coverage.sites == 2
    assert analysis.notices == ("3 of 5 tensors are not compared: they are not in every member, or have another shape",)


def test_models_without_a_common_tensor_are_refused() -> None:
    with pytest.raises(InputError, match="checkpoints of one model"):
        analyse_together(pair({"x": torch.ones(3, 3)}, {"y": torch.ones(3, 3)}), [change])


def test_a_site_with_nan_is_skipped_and_the_others_go_on() -> None:
    second = weights(1)
    second["a.weight"][0, 0] = torch.nan
    analysis = analyse_together(pair(weights(0), second), [change])
    assert Skip("change", "a.weight", "not finite") in analysis.skips
    assert {m.site for m in analysis.measurements} == {"b.weight", "#model"}


def test_every_tensor_is_read_once_and_nothing_that_nobody_wants() -> None:
    first, second = memory_checkpoint(weights(0)), memory_checkpoint(weights(1))
    analyse_together(Lineup("pair", (first, second), ("OLD", "NEW")), [change], Options(sites=("a.*",)))
    assert first.reads == second.reads == ["a.weight"]


def test_pools_and_series() -> None:
    members = tuple(memory_checkpoint(weights(seed)) for seed in range(4))
    labels = ("base", "1", "2", "3")
    pooled = analyse_together(Lineup("pool", members, labels), [spread, path])
    assert {(m.analyzer, m.value, m.evidence["base"]) for m in pooled.measurements} == {("spread", 3, True)}
    run = analyse_together(Lineup("series", members, labels, (0.0, 10.0, 20.0, 40.0)), [spread, path])
    assert {(m.analyzer, m.value, m.evidence["members"]) for m in run.measurements} == {("path", 40.0, 4)}
    short = analyse_together(Lineup("series", members[:2], labels[:2], (0.0, 1.0)), [path])
    assert {s.reason for s in short.skips} == {"run too short: 2 of 3"}


def test_members_of_a_site_that_take_more_than_the_memory_are_a_skip_of_the_subject() -> None:
    members = tuple(memory_checkpoint(weights(seed)) for seed in range(3))
    lineup = Lineup("series", members, ("0", "1", "2"))
    analysis = analyse_together(lineup, [path], Options(max_memory=400))
    skipped = {s.site: s for s in analysis.skips if s.analyzer is None}
    assert set(skipped) == {"b.weight"}
    assert "--max-memory" in skipped["b.weight"].reason


@activation_pair_analyzer(
    name="cross",
    accepts=on.points("features", "after.features", says="paired features"),
    needs=("cross_moments(features,after.features)", "sample(features,after.features)"),
    **COMMON,
)
def cross(point: Any) -> Iterator[Any]:
    """A cross moment."""
    moments = point.read("cross_moments(features,after.features)")
    kept = point.read("sample(features,after.features)")
    assert torch.equal(kept.rows("after.features"), 2 * kept.rows("features"))
    yield VALUE.at(point.site.name, float(moments.centred_cross.trace()), rows=point.rows)


def rows(seed: int = 0, count: int = 300, width: int = 5) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def test_two_dumps_are_paired_row_by_row() -> None:
    x = rows()
    before = memory_dump({"l.0/features": x, "l.1/features": x}, metadata={})
    after = memory_dump({"l.0/features": 2 * x, "l.2/features": x}, metadata={})
    analysis = analyse_dump(paired_dump(before, after), [cross])
    (found,) = analysis.measurements
    centred = x.double() - x.double().mean(0)
    assert found.value == pytest.approx(float(2 * centred.square().sum()), rel=1e-9)
    assert {(s.site, s.reason) for s in analysis.skips} == {("l.1", "only in OLD"), ("l.2", "only in NEW")}


def test_rows_with_other_ids_are_not_paired() -> None:
    x, ids = rows(), torch.arange(300)
    before = memory_dump({"features": x, "ids": ids}, metadata={})
    after = memory_dump({"features": 2 * x, "ids": ids.flip(0)}, metadata={})
    analysis = analyse_dump(paired_dump(before, after), [cross])
    assert not analysis.measurements
    assert "rows not paired: 300 ids differ" in analysis.skips[0].reason
    shorter = analyse_dump(paired_dump(before, memory_dump({"features": x[:7]}, metadata={})), [cross])
    assert shorter.skips[0].reason == "rows not paired: 300 rows against 7"


def test_other_preprocessing_is_a_caveat_of_every_measurement() -> None:
    x = rows()
    before = memory_dump({"features": x}, metadata={"preprocessing": "resize 224"})
    after = memory_dump({"features": 2 * x}, metadata={"preprocessing": "resize 256"})
    analysis = analyse_dump(paired_dump(before, after), [cross])
    assert analysis.measurements[0].evidence["caveat"].startswith('the dumps differ in preprocessing "resize 224" →')
    assert analysis.notices == (analysis.measurements[0].evidence["caveat"],)


def test_dumps_of_different_sites_are_refused() -> None:
    with pytest.raises(UnreadableDump, match="dumps of the same sites"):
        paired_dump(memory_dump({"a/features": rows()}), memory_dump({"b/features": rows()}))


@activation_series_analyzer(name="growth", accepts=on.points("features", says="features"), needs=("moments",), **COMMON)
def growth(view: ActivationSeries) -> Iterator[Any]:
    """Growth."""
    means = [float(member.read("moments").mean.norm()) for member in view.members]
    yield VALUE.at(view.site.name, means[-1] / means[0], steps=list(view.steps))


def test_a_run_of_dumps_is_shown_by_site_and_a_site_that_one_lacks_is_skipped() -> None:
    x = rows() + 1.0
    dumps = [memory_dump({"l.0/features": x * (g + 1), **({"l.1/features": x} if g else {})}) for g in range(3)]
    analysis = analyse_dump_series(dumps, [growth], labels=("0", "1", "2"), steps=(0.0, 1.0, 2.0))
    (found,) = analysis.measurements
    assert found.value == pytest.approx(3.0)
    assert [(s.site, s.reason) for s in analysis.skips] == [("l.1", "only in 2 of 3 members")]
