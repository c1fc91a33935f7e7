"""Several sets of accumulators that take turns are one set, whatever the number of threads."""

from typing import Any

import pytest
import torch

from collapse_cli.engine import dump as dump_engine
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.engine.lanes import Feeder
from collapse_cli.kernels.accumulators import Batch, ClassMoments, Moments, Sample
from collapse_cli.sources.dump import memory_dump
from tests.engine.test_dump_engine import TRACE, values

ROWS = 700


def batches() -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(ROWS, 5, generator=generator) + 30.0
    features[123, 2] = torch.nan
    labels = torch.arange(ROWS) % 7
    return [
        Batch({"features": features[start : start + 90], "labels": labels[start : start + 90]}, start=start)
        for start in range(0, ROWS, 90)
    ]


def accumulators() -> dict[str, Any]:
    return {"moments": Moments(), "class_moments": ClassMoments(), "sample": Sample(rows=50)}


def fed(lanes: int) -> dict[str, Any]:
    with Feeder([accumulators() for _ in range(lanes)]) as feeder:
        for batch in batches():
            feeder.feed(batch)
    return dict(feeder.finished)


@pytest.fixture
def two_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("lanes", [2, 3])
def test_lanes_are_the_whole(lanes: int) -> None:
    one, several = fed(1), fed(lanes)
    assert several["moments"].count == one["moments"].count == ROWS - 1
    assert torch.allclose(several["moments"].centred_scatter, one["moments"].centred_scatter, rtol=1e-12, atol=1e-9)
    assert torch.allclose(several["class_moments"].means, one["class_moments"].means, rtol=1e-13, atol=0)
    # the sample is fed by one thread alone: the same rows
    assert torch.equal(several["sample"].indices, one["sample"].indices)
    assert several["sample"].count == ROWS - 1
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_the_number_of_threads_changes_no_digit() -> None:
    threaded = fed(2)
    torch.set_num_threads(1)
    alone = fed(2)
    assert torch.equal(threaded["moments"].scatter, alone["moments"].scatter)
    assert torch.equal(threaded["class_moments"].unit_sums, alone["class_moments"].unit_sums)


@pytest.mark.usefixtures("two_threads")
def test_what_goes_wrong_in_a_lane_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_self: Any, batch: Batch) -> None:
        if batch.indices[0] >= 270:
            raise RuntimeError("the third batch")

    monkeypatch.setattr(Moments, "update", fails)
    with pytest.raises(RuntimeError, match="the third batch"):
        fed(2)
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_a_long_narrow_dump_takes_lanes_and_gives_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    data = torch.randn(9000, 6, generator=torch.Generator().manual_seed(1)) + 100.0
    dump = {"features": data, "labels": torch.arange(9000) % 5}
    one = analyse_dump(memory_dump(dump), [TRACE])
    used: list[int] = []

    class Counted(Feeder):  # type: ignore[misc]  # final, and counted all the same
        def __init__(self, sets: Any) -> None:
            used.append(len(sets))
            super().__init__(sets)

    monkeypatch.setattr(dump_engine, "Feeder", Counted)
    monkeypatch.setattr(dump_engine, "LANE_ROWS", 9000)
    several = analyse_dump(memory_dump(dump), [TRACE])
    assert used == [2, 1]  # samples, and the reference that is not there
    assert values(several) == pytest.approx(values(one), rel=1e-12)
    monkeypatch.setattr(dump_engine, "LANE_COLUMNS", 6)
    analyse_dump(memory_dump(dump), [TRACE])
    assert used[2:] == [1, 1]  # six features and a label are seven columns
