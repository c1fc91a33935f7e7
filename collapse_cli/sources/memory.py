"""Tensors in memory as a checkpoint: the double that examples and tests use; nothing else is faked."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, final

from collapse_cli.core.layout import ShardLayout
from collapse_cli.core.report import Skip
from collapse_cli.core.site import Site
from collapse_cli.errors import UnreadableCheckpoint
from collapse_cli.sources.base import OptimizerGroup, Origin
from collapse_cli.sources.dtypes import dtype_name

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["MemoryCheckpoint", "memory_checkpoint"]


@final
class MemoryCheckpoint:
    """A checkpoint over tensors in memory; `reads` lists the names that were read, in order, repeats included."""

    format = "memory"

    def __init__(
        self,
        path: str,
        tensors: Mapping[str, "Tensor"],
        *,
        config: Mapping[str, Any],
        adapter: Mapping[str, Any],
        layout: ShardLayout | None,
        optimizer: Iterable[OptimizerGroup],
        metadata: Mapping[str, str],
    ) -> None:
        self.path, self.layout, self.optimizer = path, layout, tuple(optimizer)
        self.config: Mapping[str, Any] = dict(config)
        self.adapter: Mapping[str, Any] = dict(adapter)
        self.metadata: Mapping[str, str] = dict(metadata)
        self.files: tuple[str, ...] = ()
        self.unreadable: tuple[Skip, ...] = ()
        self.notices: tuple[str, ...] = ()
        self.reads: list[str] = []
        self._tensors = dict(tensors)
        self._origins: dict[str, Origin] = {}
        end = 0
        for name, tensor in self._tensors.items():
            begin, end = end, end + tensor.numel() * tensor.element_size()
            self._origins[name] = Origin(path, begin, end)
        self.nbytes = end

    def sites(self) -> tuple[Site, ...]:
        """Every tensor, in the order given."""
        return tuple(
            Site(name, tuple(tensor.shape), dtype_name(tensor.dtype)) for name, tensor in self._tensors.items()
        )

    def origin(self, name: str) -> Origin:
        """Where the tensor would lie if all were written one after another."""
        return self._origins[name]

    def read(self, name: str) -> "Tensor":
        """A copy of the tensor.

        Raises:
            UnreadableCheckpoint: the checkpoint was closed.
        """
        if name in self._origins and name not in self._tensors:
            raise UnreadableCheckpoint("the checkpoint is closed", where=self.path)
        self.reads.append(name)
        return self._tensors[name].clone()

    def row_reader(self, name: str) -> "Callable[[int, int], Tensor] | None":
        """What copies the rows from `begin` up to `end`; None for a scalar."""
        tensor = self._tensors[name]
        return (lambda begin, end: tensor[begin:end].clone()) if tensor.dim() else None

    def close(self) -> None:
        """Release the tensors."""
        self._tensors = {}


def memory_checkpoint(
    tensors: Mapping[str, Any],
    *,
    config: Mapping[str, Any] | None = None,
    adapter: Mapping[str, Any] | None = None,
    shards: Mapping[str, Iterable[str]] | None = None,
    index: Mapping[str, str] | None = None,
    path: str = "memory",
    optimizer: Iterable[OptimizerGroup] = (),
    metadata: Mapping[str, str] | None = None,
) -> MemoryCheckpoint:
    """A checkpoint over numpy arrays or torch tensors; `shards` and `index` make it a sharded one (`ShardLayout`)."""
    return MemoryCheckpoint(
        path,
        {name: as_tensor(value) for name, value in tensors.items()},
        config=config or {},
        adapter=adapter or {},
        layout=_layout(shards, index),
        optimizer=optimizer,
        metadata=metadata or {},
    )


def as_tensor(value: Any) -> "Tensor":
    """A torch tensor with exactly the entries of a numpy array, in memory of its own; a torch tensor as it is.

    Raises:
        TypeError: the array's dtype has no torch counterpart (objects, strings, dates, long double).
    """
    import numpy
    import torch

    if isinstance(value, torch.Tensor):
        return value.detach()
    array = numpy.asarray(value)
    # torch knows neither foreign byte order nor negative strides, and warns on read-only arrays
    native = numpy.array(array, dtype=array.dtype.newbyteorder("="), order="C", copy=True)
    return torch.from_numpy(native)


def _layout(shards: Mapping[str, Iterable[str]] | None, index: Mapping[str, str] | None) -> ShardLayout | None:
    if shards is None and index is None:
        return None
    if shards is None:
        named = dict(index or {})
        held = {file: tuple(name for name in named if named[name] == file) for file in dict.fromkeys(named.values())}
    else:
        held = {file: tuple(names) for file, names in shards.items()}
        named = {name: file for file, names in held.items() for name in names} if index is None else dict(index)
    wanted = dict.fromkeys(named.values())
    return ShardLayout(
        index=named,
        shards=held,
        absent=tuple(file for file in wanted if file not in held),
        stray=tuple(file for file in held if file not in wanted),
    )
