"""Plain records of what can be built from a checkpoint: effective weights, blocks, and what cannot be built."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

from collapse_cli.core.naming import Placement
from collapse_cli.core.report import Skip
from collapse_cli.core.site import Role, Site

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Weight

__all__ = ["BlockRecipe", "Effective", "Plan", "WeightRecipe", "module_of", "stem_of"]


@final
@dataclass(frozen=True, slots=True)
class WeightRecipe:
    """How to build one effective weight: `build` gets the stored tensors of `reads` (any device, stored dtype)."""

    site: Site
    reads: tuple[str, ...]
    build: "Callable[[Mapping[str, Tensor]], Weight]"


@final
@dataclass(frozen=True, slots=True)
class BlockRecipe:
    """Which effective weights form a block, by role and in index order, and what is known beside them."""

    site: Site
    members: Mapping[Role, tuple[str, ...]]
    facts: Mapping[str, Any] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that can be built from a checkpoint, in source order, and what cannot, with the reason.

    `ties` maps the second name of a tensor that stands under two names to the first, which alone is analysed.
    `scale_blocks` gives, for every scaled fp8 tensor, how many of its entries share one scale.
    """

    sites: tuple[Site, ...]  # the stored tensors, with layer and role filled in
    weights: tuple[WeightRecipe, ...]
    blocks: tuple[BlockRecipe, ...]
    skips: tuple[Skip, ...] = ()
    ties: Mapping[str, str] = field(default_factory=dict)
    scale_blocks: Mapping[str, int] = field(default_factory=dict)


@final
@dataclass(frozen=True, slots=True)
class Effective:
    """A recipe and where its weight belongs; `stands_for` has several roles when a fused tensor could not be split."""

    recipe: WeightRecipe
    placement: Placement
    stands_for: tuple[Role, ...]

    @property
    def name(self) -> str:
        """Name of the effective weight."""
        return self.recipe.site.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the effective weight."""
        return self.recipe.site.shape

    @property
    def is_unsplit(self) -> bool:
        """Whether it is a fused tensor whose layout is unknown."""
        return len(self.stands_for) > 1


def stem_of(name: str) -> str:
    """The name without what is derived and without a closing `.weight`: `model.embed_tokens`."""
    return name.partition("#")[0].removesuffix(".weight")


def module_of(name: str) -> str:
    """Path of the module that owns the tensor; empty at top level."""
    return name.partition("#")[0].rpartition(".")[0]
