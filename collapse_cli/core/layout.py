"""How a checkpoint of several files is laid out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

__all__ = ["ShardLayout"]


@final
@dataclass(frozen=True, slots=True)
class ShardLayout:
    """How a sharded checkpoint is laid out, from its index and the headers of its shards.

    `index` maps tensor to shard file as the index claims; `shards` maps each shard file that exists to the tensors in
    its header; `absent` are shard files the index names that do not exist; `stray` are weight files beside the index
    that it does not name. `conflicting` are tensors that stand in several shards with different bytes.
    `tiling_errors` are tensors whose chunks leave a gap or overlap. Sizes in bytes.
    """

    index: Mapping[str, str]
    shards: Mapping[str, tuple[str, ...]]
    absent: tuple[str, ...] = ()
    stray: tuple[str, ...] = ()
    conflicting: tuple[str, ...] = ()
    tiling_errors: tuple[str, ...] = ()
    total_size: int | None = None
    actual_size: int | None = None
