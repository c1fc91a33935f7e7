"""Memory is used again when, and only when, nothing looks at it any more."""

import gc

import torch

from collapse_cli.sources.buffers import Buffers

MIB = 1 << 20


def test_a_buffer_comes_back_when_the_last_view_of_it_is_gone() -> None:
    buffers = Buffers()
    first = buffers.take(4 * MIB)
    place = first.data_ptr()
    view = first.view(torch.float32)[7:9]
    del first
    gc.collect()
    assert buffers.take(4 * MIB).data_ptr() != place
    del view
    gc.collect()
    assert place in {tensor.data_ptr() for tensor in [buffers.take(3 * MIB), buffers.take(4 * MIB)]}


def test_tensors_alive_together_never_share_memory() -> None:
    buffers = Buffers()
    for _ in range(3):
        tensors = [buffers.take(2 * MIB) for _ in range(5)]
        for index, tensor in enumerate(tensors):
            tensor.fill_(index)
        assert [int(tensor.unique()) for tensor in tensors] == [0, 1, 2, 3, 4]
        del tensors, tensor


def test_small_tensors_do_not_hold_large_buffers() -> None:
    buffers = Buffers()
    large = buffers.take(64 * MIB)
    place = large.data_ptr()
    del large
    gc.collect()
    assert buffers.take(2 * MIB).data_ptr() != place
    assert buffers.take(10).numel() == 10
    assert buffers.take(0).numel() == 0


def test_only_two_buffers_wait() -> None:
    buffers = Buffers()
    tensors = [buffers.take(2 * MIB) for _ in range(6)]
    del tensors
    gc.collect()
    assert len(buffers._idle) == 2
