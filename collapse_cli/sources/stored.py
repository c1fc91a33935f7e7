"""A checkpoint whose tensors are each read by a function of their own; what every reader of files gives."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, final

from collapse_cli.core.layout import ShardLayout
from collapse_cli.core.report import Skip
from collapse_cli.core.site import Site
from collapse_cli.errors import OutOfMemory, UnreadableCheckpoint
from collapse_cli.sources.base import Checkpoint, OptimizerGroup, Origin
from collapse_cli.sources.buffers import Buffers
from collapse_cli.sources.dtypes import BITS, torch_dtype

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["StoredCheckpoint", "StoredTensor", "filled", "filled_rows", "renamed", "stored_tensors"]


@final
@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file: what its header says, where its bytes lie, and how they are read, whole or by rows."""

    site: Site
    origin: Origin
    read: "Callable[[], Tensor]"
    read_rows: "Callable[[int, int], Tensor] | None" = None


@final
@dataclass(slots=True)
class StoredCheckpoint:
    """A checkpoint over `tensors` in file order; `release` closes what they are read from."""

    path: str
    format: str
    nbytes: int
    files: tuple[str, ...]
    tensors: Sequence[StoredTensor]
    release: Callable[[], None]
    config: Mapping[str, Any] = field(default_factory=dict)
    adapter: Mapping[str, Any] = field(default_factory=dict)
    unreadable: tuple[Skip, ...] = ()
    optimizer: tuple[OptimizerGroup, ...] = ()
    layout: ShardLayout | None = None
    notices: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    _by_name: dict[str, StoredTensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._by_name = {tensor.site.name: tensor for tensor in self.tensors}

    def sites(self) -> Sequence[Site]:
        """Every tensor that can be read, in file order."""
        return tuple(tensor.site for tensor in self.tensors)

    def origin(self, name: str) -> Origin:
        """Where the bytes of a tensor lie."""
        return self._by_name[name].origin

    def read(self, name: str) -> "Tensor":
        """The tensor as stored, in memory of its own.

        Raises:
            UnreadableCheckpoint: the bytes are not there any more, or the checkpoint was closed.
            OutOfMemory: there is no room for it.
        """
        return self._by_name[name].read()

    def row_reader(self, name: str) -> "Callable[[int, int], Tensor] | None":
        """What reads the rows from `begin` up to `end`; None where the layout gives whole tensors only."""
        return self._by_name[name].read_rows

    def close(self) -> None:
        """Release the files."""
        self.release()


def stored_tensors(checkpoint: Checkpoint) -> list[StoredTensor]:
    """The tensors of any checkpoint, to make them part of another."""
    return [
        StoredTensor(
            site, checkpoint.origin(site.name), partial(checkpoint.read, site.name), checkpoint.row_reader(site.name)
        )
        for site in checkpoint.sites()
    ]


def renamed(tensors: Iterable[StoredTensor], names: Mapping[str, str]) -> list[StoredTensor]:
    """The same tensors under the names that `names` gives for the stored ones."""
    return [
        replace(tensor, site=replace(tensor.site, name=names.get(tensor.site.name, tensor.site.name)))
        for tensor in tensors
    ]


def filled(site: Site, where: str, fill: Callable[[memoryview], None], buffers: Buffers) -> "Tensor":
    """A tensor of the site's dtype and shape whose memory, fresh or used before, `fill` writes.

    Raises:
        UnreadableCheckpoint: the installed torch has no such dtype.
        OutOfMemory: there is no room for it.
    """
    import torch

    try:
        dtype = torch_dtype(site.dtype)
    except KeyError:
        raise UnreadableCheckpoint(
            f"torch {torch.__version__} has no dtype {site.dtype}", where=where, hint="install a newer torch"
        ) from None
    nbytes = prod(site.shape) * (BITS.get(site.dtype, 128) // 8)
    try:
        memory = buffers.take(nbytes)
    except (RuntimeError, MemoryError) as error:
        raise OutOfMemory(f"{nbytes:,} bytes are too many for one tensor here", where=where) from error
    if nbytes:
        fill(memory.numpy().data)
    return memory.view(dtype).reshape(site.shape)


def filled_rows(
    site: Site, where: str, fill: "Callable[[int, memoryview], None]", buffers: Buffers
) -> "Callable[[int, int], Tensor]":
    """What reads rows of a tensor that lies in row order; `fill` begins at a byte counted from its first value."""
    row_bytes = prod(site.shape[1:]) * (BITS.get(site.dtype, 128) // 8)

    def read_rows(begin: int, end: int) -> "Tensor":
        window = replace(site, shape=(end - begin, *site.shape[1:]))
        return filled(window, where, partial(fill, begin * row_bytes), buffers)

    return read_rows
