"""What every checkpoint is to the rest of the program: sites from headers, tensors one at a time.

A source turns bytes into tensors and measures nothing. Opening one reads headers only and validates everything that
can be validated without the numbers, so that a later `read` can fail only because the file changed or the disk did.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, final, runtime_checkable

from collapse_cli.core.layout import ShardLayout
from collapse_cli.core.report import Skip
from collapse_cli.core.site import Site

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Checkpoint", "OptimizerGroup", "Origin"]


@final
@dataclass(frozen=True, slots=True)
class Origin:
    """Where the bytes of one stored tensor lie: file and byte range; used to read in order and to prefetch."""

    path: str
    begin: int
    end: int


@final
@dataclass(frozen=True, slots=True)
class OptimizerGroup:
    """What a saved optimizer says beside its moments.

    `moments` maps the name of a parameter (or, where the file gives numbers only, `None`-named by index: `param_17`) to
    the stored tensors of its state by their own key (`exp_avg`, `exp_avg_sq`, `step`, …). `settings` are the scalars of
    the parameter's group (`lr`, `betas`, `eps`, `weight_decay`) and a scalar `step` where it is not a tensor.
    """

    parameter: str
    moments: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Checkpoint(Protocol):
    """A readable set of named tensors.

    `path` as the user gave it; `format` is `safetensors`, `torch-zip`, `sharded`, `numpy`, `memory`; `nbytes` of all
    files; `files` are the files that hold the bytes; `config` is `config.json` (`{}` without one), `adapter` is
    `adapter_config.json`; `unreadable` says which tensors exist but cannot be read, and why; `optimizer` describes
    saved optimizer state; `layout` is None for a single file; `metadata` is the free text inside the file
    (`__metadata__` of safetensors), `{}` without any.
    """

    path: str
    format: str
    nbytes: int
    files: tuple[str, ...]
    config: Mapping[str, Any]
    adapter: Mapping[str, Any]
    unreadable: tuple[Skip, ...]
    optimizer: tuple[OptimizerGroup, ...]
    layout: ShardLayout | None
    notices: tuple[str, ...]
    metadata: Mapping[str, str]

    def sites(self) -> Sequence[Site]:
        """Every stored tensor that can be read, in file order, named without wrapper prefixes; headers only."""

    def origin(self, name: str) -> Origin:
        """Where the bytes of a tensor lie."""

    def read(self, name: str) -> "Tensor":
        """The tensor as stored: its own dtype and shape, its own memory. Touches the bytes of that tensor only.

        Raises:
            UnreadableCheckpoint: the bytes are not there any more.
        """

    def row_reader(self, name: str) -> "Callable[[int, int], Tensor] | None":
        """A function that reads rows from `begin` up to `end` along the first axis, their bytes only.

        None where the layout gives whole tensors only: compressed, or not in row order.
        """

    def close(self) -> None:
        """Release the files; reading afterwards is an error."""
