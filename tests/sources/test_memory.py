"""Tensors in memory as a checkpoint."""

import numpy as np
import pytest
import torch

from collapse_cli.core.site import Site
from collapse_cli.errors import UnreadableCheckpoint
from collapse_cli.sources.base import Checkpoint, OptimizerGroup, Origin
from collapse_cli.sources.dtypes import BITS, NOT_DEQUANTISED, dtype_name, torch_dtype
from collapse_cli.sources.memory import memory_checkpoint


def test_only_what_is_read_is_listed_as_read():
    checkpoint = memory_checkpoint({"a": np.zeros(2), "b": np.ones((2, 3), np.float32)}, config={"heads": 2})
    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.sites() == (Site("a", (2,), "F64"), Site("b", (2, 3), "F32"))
    assert checkpoint.reads == []
    assert torch.equal(checkpoint.read("b"), torch.ones(2, 3))
    assert checkpoint.reads == ["b"]
    assert checkpoint.nbytes == 16 + 24
    assert checkpoint.origin("b") == Origin("memory", 16, 40)
    assert checkpoint.config == {"heads": 2}


def big_endian(array):
    return array.astype(array.dtype.newbyteorder(">"))


@pytest.mark.parametrize(
    "array",
    [
        pytest.param(np.arange(6.0).reshape(2, 3)[::-1], id="negative stride"),
        pytest.param(np.asfortranarray(np.arange(6.0).reshape(2, 3)), id="column order"),
        pytest.param(big_endian(np.arange(6, dtype=np.int32)), id="foreign byte order"),
        pytest.param(np.broadcast_to(np.float32(3), (2, 2)), id="read-only"),
        pytest.param(np.float32(3), id="scalar"),
        pytest.param(np.zeros((0, 3), np.float16), id="empty"),
        pytest.param(np.array([True, False]), id="bool"),
        pytest.param(np.array([2**64 - 1], np.uint64), id="u64"),
        pytest.param(np.array([1 + 2j]), id="complex"),
    ],
)
def test_arrays_lose_nothing(array):
    read = memory_checkpoint({"a": array}).read("a").numpy()
    assert read.shape == np.shape(array)
    assert read.tolist() == np.asarray(array).tolist()


def test_the_input_is_not_shared():
    given = torch.ones(2, dtype=torch.bfloat16)
    checkpoint = memory_checkpoint({"a": given})
    checkpoint.read("a").zero_()
    assert given.sum() == 2
    assert checkpoint.sites()[0].dtype == "BF16"


def test_layout_from_index_and_shards():
    layout = memory_checkpoint(
        {"a": np.zeros(1)}, shards={"1.st": ["a", "c"], "3.st": ["d"]}, index={"a": "1.st", "b": "2.st"}
    ).layout
    assert layout.index == {"a": "1.st", "b": "2.st"}
    assert layout.shards == {"1.st": ("a", "c"), "3.st": ("d",)}
    assert layout.absent == ("2.st",)
    assert layout.stray == ("3.st",)
    assert memory_checkpoint({}).layout is None
    assert memory_checkpoint({}, index={"a": "1.st"}).layout.shards == {"1.st": ("a",)}


def test_optimizer_and_adapter_are_handed_on():
    group = OptimizerGroup("w", {"exp_avg": "m"})
    checkpoint = memory_checkpoint({}, adapter={"r": 4}, optimizer=[group], path="x")
    assert (checkpoint.adapter, checkpoint.optimizer, checkpoint.path) == ({"r": 4}, (group,), "x")


def test_closed_is_closed():
    checkpoint = memory_checkpoint({"a": np.zeros(2)})
    checkpoint.close()
    with pytest.raises(UnreadableCheckpoint, match="closed"):
        checkpoint.read("a")


def test_dtype_names_go_there_and_back():
    for name in BITS.keys() - NOT_DEQUANTISED:
        dtype = torch_dtype(name)
        assert dtype_name(dtype) == name
        assert torch.empty(0, dtype=dtype).element_size() * 8 == BITS[name]


def test_dtype_names_are_those_of_safetensors():
    from safetensors.torch import _TYPES

    for name, dtype in _TYPES.items():
        assert torch_dtype(name) == dtype
    with pytest.raises(KeyError):
        torch_dtype("F6_E2M3")
    with pytest.raises(KeyError):
        dtype_name(torch.qint8)
