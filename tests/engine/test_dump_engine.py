"""One pass over a dump: rows read once, fed to every accumulator that is needed, whatever the windows."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from collapse_cli.analyzer import Measurement, Metric, Skip, activation_analyzer, layers_analyzer, on
from collapse_cli.engine import Options
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.sources.dump import memory_dump

VALUE = Metric("value", "1", "A value.")
OTHER = Metric("other", "1", "Another.")
DECLARED: dict[str, Any] = {
    "family": "test", "title": "", "metrics": (VALUE, OTHER), "remedy": "", "references": (), "examples": {},
}  # fmt: skip
FEATURES = on.points("features", says="features")


def features(rows: int = 9000, columns: int = 8) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) + 100.0


@activation_analyzer(name="trace", accepts=FEATURES, needs=("moments", "class_moments"), uses=("labels",), **DECLARED)
def TRACE(point: Any) -> Iterator[Measurement | Skip]:
    yield VALUE.at(point.site.name, float(point.read("moments").centred_scatter.trace()), rows=point.rows)
    if point.has("class_moments"):
        yield OTHER.at(point.site.name, float(point.read("class_moments").variances.sum()))


def values(result: Any) -> dict[tuple[str, str], float]:
    return {(m.site, m.metric): m.value for m in result.measurements}


def test_rows_in_windows_give_what_the_whole_gives() -> None:
    data = features()
    labels = torch.arange(9000) % 7
    result = analyse_dump(memory_dump({"features": data, "labels": labels}), [TRACE])
    whole = data.double().numpy()
    expected = np.square(whole - whole.mean(0)).sum()
    within = sum(np.square(whole[labels == k] - whole[labels == k].mean(0)).sum(1).mean() for k in range(7))
    assert values(result)["output", "value"] == pytest.approx(expected, rel=1e-12)
    assert values(result)["output", "other"] == pytest.approx(within, rel=1e-10)


def test_shards_give_what_one_file_gives() -> None:
    data, labels = features(), torch.arange(9000) % 7
    parts = [{"features": data[a:b], "labels": labels[a:b]} for a, b in ((0, 1), (1, 4097), (4097, 9000))]
    one = analyse_dump(memory_dump({"features": data, "labels": labels}), [TRACE])
    several = analyse_dump(memory_dump(*parts), [TRACE])
    assert values(several) == pytest.approx(values(one), rel=1e-12)


def test_rows_that_are_not_finite_are_left_out_and_counted() -> None:
    data = features(100)
    data[3, 2], data[50, 0] = float("nan"), float("inf")
    seen: list[Any] = []

    @activation_analyzer(name="count", accepts=FEATURES, needs=("moments",), **DECLARED)
    def count(point: Any) -> Iterator[Measurement | Skip]:
        seen.append((point.rows, point.finite_rows))
        yield VALUE.at(point.site.name, point.read("moments").count)

    result = analyse_dump(memory_dump({"features": data}), [count])
    assert seen == [(100, 98)]
    assert values(result)["output", "value"] == 98


def test_what_is_needed_and_not_there_is_absent_and_not_an_error() -> None:
    result = analyse_dump(memory_dump({"features": features(50)}), [TRACE])
    assert {metric for _site, metric in values(result)} == {"value"}


def test_hook_points_stand_in_depth_order_and_layers_see_them_all() -> None:
    @layers_analyzer(name="depth", accepts=FEATURES, needs=("moments",), **DECLARED)
    def depth(layers: Any) -> Iterator[Measurement | Skip]:
        yield VALUE.at(layers.site.name, len(layers.points), order=[point.site.name for point in layers.points])

    names = [f"block.{layer}" for layer in (10, 2, 0, 1)]
    dump = memory_dump({f"{name}/features": features(20) for name in names})
    result = analyse_dump(dump, [TRACE, depth])
    order = [f"block.{layer}" for layer in (0, 1, 2, 10)]
    assert [m.site for m in result.measurements if m.analyzer == "trace"] == order
    (profile,) = [m for m in result.measurements if m.analyzer == "depth"]
    assert (profile.site, profile.evidence["order"]) == ("#layers", order)
    assert {m.site for m in result.measurements} <= {site.name for site in result.sites}


def test_a_stack_of_views_offers_two_and_a_predictor_its_output() -> None:
    @activation_analyzer(
        name="pair",
        accepts=on.points("view_a", "view_b", says="views"),
        needs=("cross_moments(view_a,view_b)",),
        **DECLARED,
    )
    def pair(point: Any) -> Iterator[Measurement | Skip]:
        yield VALUE.at(point.site.name, float(point.read("cross_moments(view_a,view_b)").centred_cross.trace()))

    @activation_analyzer(
        name="predicted",
        accepts=on.points("features", "predictor", says="predictor"),
        needs=("cross_moments(features,predictor)",),
        **DECLARED,
    )
    def predicted(point: Any) -> Iterator[Measurement | Skip]:
        yield VALUE.at(point.site.name, float(point.read("cross_moments(features,predictor)").centred_cross.trace()))

    views = torch.randn(5000, 3, 4, generator=torch.Generator().manual_seed(1))
    arrays = {"a/views": views, "b/features": views[:, 0], "b.predictor/features": views[:, 1]}
    result = values(analyse_dump(memory_dump(arrays), [pair, predicted]))
    left, right = (views[:, i].double().numpy() for i in (0, 1))
    expected = ((left - left.mean(0)) * (right - right.mean(0))).sum()
    assert result["a", "value"] == pytest.approx(expected, rel=1e-10)
    assert result["b", "value"] == pytest.approx(expected, rel=1e-10)


def test_features_too_wide_are_skipped_with_the_width() -> None:
    result = analyse_dump(memory_dump({"features": torch.zeros(2, 9000)}), [TRACE])
    assert [(s.analyzer, s.reason) for s in result.skips] == [
        ("trace", "width 9,000 > 8,192: its moments would not fit")
    ]
    assert not result.failures


def test_an_analyzer_that_fails_stops_nothing() -> None:
    @activation_analyzer(name="broken", accepts=FEATURES, needs=("moments",), **DECLARED)
    def broken(point: Any) -> Iterator[Measurement | Skip]:
        if point.site.name == "block.0":
            raise ZeroDivisionError("a bug")
        yield VALUE.at(point.site.name, 1.0)

    dump = memory_dump({f"block.{layer}/features": features(20) for layer in range(2)})
    result = analyse_dump(dump, [broken, TRACE])
    assert [(f.analyzer, f.site, f.error) for f in result.failures] == [("broken", "block.0", "ZeroDivisionError")]
    assert len(result.measurements) == 3


def test_what_nobody_accepts_is_not_read_and_said() -> None:
    @activation_analyzer(name="codes", accepts=on.points("codes", says="codes"), needs=(), **DECLARED)
    def codes(point: Any) -> Iterator[Measurement | Skip]:
        yield VALUE.at(point.site.name, 1.0)

    result = analyse_dump(memory_dump({"features": features(20)}), [codes])
    assert result.skips == (Skip("codes", None, "nothing to accept: takes codes"),)
    assert (result.coverage.wanted, result.coverage.read) == (0, 0)


def test_globs_choose_hook_points_and_a_timeout_is_said() -> None:
    dump = memory_dump({f"block.{layer}/features": features(20) for layer in range(3)})
    chosen = analyse_dump(dump, [TRACE], Options(sites=("block.*",), ignore_sites=("*.1",)))
    assert {m.site for m in chosen.measurements} == {"block.0", "block.2"}
    late = analyse_dump(dump, [TRACE], Options(timeout=0.0))
    assert len([s for s in late.skips if s.analyzer is None and "0 seconds" in s.reason]) == 3


def test_a_negative_label_is_a_class_unless_it_marks_rows_without() -> None:
    labels = torch.tensor([-7, -1, -100, 3, -2, -9, -50] * 20)
    seen: list[Any] = []

    @activation_analyzer(name="classes", accepts=FEATURES, needs=("class_moments",), uses=("labels",), **DECLARED)
    def CLASSES(point: Any) -> Iterator[Measurement | Skip]:
        seen.append(point.read("class_moments"))
        yield VALUE.at(point.site.name, 0.0)

    result = analyse_dump(memory_dump({"features": features(140), "labels": labels}), [CLASSES])
    assert seen[0].labels.tolist() == [-50, -9, -7, -2, 3]
    assert seen[0].count == 100
    (notice,) = result.notices
    assert notice.startswith("labels of output has the values -2, -7, -9: each is a class of its own")
    usual = labels.clamp_min(-1)
    assert analyse_dump(memory_dump({"features": features(140), "labels": usual}), [CLASSES]).notices == ()
