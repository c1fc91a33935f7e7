"""Stored tensors → effective weights and blocks: what to read, and how to build what the model multiplies with."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, final

from collapse_cli.core.naming import Placement, place
from collapse_cli.core.report import Skip
from collapse_cli.core.site import Role, Site
from collapse_cli.sources.adapters import adapter_scales
from collapse_cli.sources.attention import rotary_lengths
from collapse_cli.sources.base import Checkpoint
from collapse_cli.sources.blocks import Surroundings, blocks_of
from collapse_cli.sources.composition import Material, materials_of
from collapse_cli.sources.fused import Rows, head_counts, parts_of
from collapse_cli.sources.optimizers import moments_of
from collapse_cli.sources.recipes import BlockRecipe, Effective, Plan, WeightRecipe
from collapse_cli.sources.reparametrised import codebooks_projected, posteriors_as_deviations
from collapse_cli.sources.ties import aliased, ties_of

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Weight

__all__ = ["BlockRecipe", "Plan", "WeightRecipe", "plan", "plan_from"]

#: Roles whose tensors multiply with nothing by themselves.
_NO_WEIGHT = frozenset({Role.SCALE, Role.MASK, Role.BUFFER})
#: Roles that are counts: stored as integers as often as not.
_COUNTS = frozenset({Role.NORM_COUNT, Role.OPTIMIZER_STEP, Role.CLASS_COUNTS, Role.CODEBOOK_USAGE})
_BIASES = frozenset({Role.ATTENTION_BIAS, Role.MLP_BIAS, Role.EXPERT_BIAS})
_QKV = (Role.ATTENTION_Q, Role.ATTENTION_K, Role.ATTENTION_V)
_PARTS_OF_BIAS = {3: _QKV, 2: _QKV[1:]}


def plan(checkpoint: Checkpoint, *, roles: Mapping[str, Role] | None = None) -> Plan:
    """What can be built from the stored tensors of a checkpoint; headers only. `roles` maps name patterns to roles."""
    materials, skips, _ = materials_of(checkpoint.sites(), checkpoint.config)
    unread = {skip.site for skip in skips}
    sites = [material.site for material in materials]
    placements = place([*sites, *(site for site in checkpoint.sites() if site.name in unread)], checkpoint.config)
    return plan_from(checkpoint, _overridden(placements, roles or {}))


def plan_from(checkpoint: Checkpoint, placements: Mapping[str, Placement]) -> Plan:
    """What can be built, given where the tensors belong.

    A composed tensor is looked up under its composed name (`conv.weight`), else under the names it is composed of.
    """
    stored = tuple(checkpoint.sites())
    materials, skips, consumed = materials_of(stored, checkpoint.config)
    placed = _with_fused_biases({material.site.name: _placement(material, placements) for material in materials})
    materials = moments_of(checkpoint.optimizer, materials, placed)
    materials = codebooks_projected(materials, placed)
    materials = adapter_scales(posteriors_as_deviations(materials, placed), placed)
    ties = ties_of(checkpoint, materials, placed)
    widths = _input_widths(materials, placed)

    effective: list[Effective] = []
    for material in materials:
        placement = placed[material.site.name]
        if material.site.numel == 0:
            # what ZeRO-3 leaves of a partitioned parameter; any other empty shape is nothing, and all of it is here
            if material.site.shape == (0,) and placement.role not in _NO_WEIGHT and material.site.is_floating:
                skips.append(Skip(None, material.site.name, "empty tensor: its numbers are stored elsewhere"))
            continue
        effective += _effective(material, placement, config=checkpoint.config, widths=widths)
    members = aliased(effective, ties)
    around = Surroundings(checkpoint.config, checkpoint.adapter, checkpoint.optimizer, rotary_lengths(stored))
    return Plan(
        sites=tuple(_located(site, placements, placed, consumed) for site in stored),
        weights=tuple(one.recipe for one in effective if one.name.partition("#")[0] not in ties),
        blocks=tuple(blocks_of(members, around)),
        skips=tuple(skips),
        ties=ties,
        scale_blocks={one.reads[0]: one.scale_block for one in materials if one.scale_block is not None},
    )


def _overridden(placements: Mapping[str, Placement], roles: Mapping[str, Role]) -> dict[str, Placement]:
    def overridden(name: str, placement: Placement) -> Placement:
        role = next((role for pattern, role in roles.items() if fnmatchcase(name, pattern)), None)
        return placement if role is None else replace(placement, role=role, fused=(), stacked=False)

    return {name: overridden(name, placement) for name, placement in placements.items()}


def _placement(material: Material, placements: Mapping[str, Placement]) -> Placement:
    known = [placements[name] for name in (material.site.name, *material.reads) if name in placements]
    return next((one for one in known if one.role is not Role.OTHER), known[0] if known else Placement(Role.OTHER))


def _located(
    site: Site,
    placements: Mapping[str, Placement],
    placed: Mapping[str, Placement],
    consumed: Mapping[str, str],
) -> Site:
    if site.name in placed:
        return replace(site, layer=placed[site.name].layer, role=placed[site.name].role)
    own = placements.get(site.name)
    if own is not None:
        return replace(site, layer=own.layer, role=own.role)
    whole = placed.get(consumed.get(site.name, ""))
    return site if whole is None else replace(site, layer=whole.layer, role=Role.SCALE)


def _input_widths(materials: Iterable[Material], placed: Mapping[str, Placement]) -> dict[tuple[str, int], int]:
    """Columns of the fused weights by block and rows: what a fused bias is the bias of."""
    widths = {}
    for material in materials:
        placement = placed[material.site.name]
        if placement.fused and len(material.site.shape) == 2:
            rows, columns = _turned(material.site.shape, placement)
            widths[placement.block, rows] = columns
    return widths


def _turned(shape: tuple[int, ...], placement: Placement) -> tuple[int, ...]:
    return shape[::-1] if _is_turned(placement, shape) else shape


def _is_turned(placement: Placement, shape: tuple[int, ...]) -> bool:
    # a bias carries the layout of its weight; its two axes are experts and outputs
    return placement.layout == "in_out" and len(shape) == 2 and placement.role not in _BIASES


def _with_fused_biases(placed: Mapping[str, Placement]) -> dict[str, Placement]:
    """The same, a bias of a fused weight being fused like it."""

    def fused(name: str, placement: Placement) -> Placement:
        path, dot, leaf = name.rpartition(".")
        weight = placed.get(path + dot + leaf.replace("bias", "weight"))
        if placement.role not in _BIASES or placement.fused or weight is None or weight.stacked:
            return placement
        return replace(placement, fused=weight.fused, fused_order=weight.fused_order)

    return {name: fused(name, placement) for name, placement in placed.items()}


@final
@dataclass(frozen=True, slots=True)
class _Build:
    """One effective weight from the stored tensors: taken out of its stack, composed, turned, split, in that order."""

    site: Site
    material: Material
    member: int | None
    is_turned: bool
    rows: Rows | None

    def __call__(self, tensors: "Mapping[str, Tensor]") -> "Weight":
        """The weight; a view of the stored tensor where nothing has to be computed."""
        from collapse_cli.kernels.views import Weight

        parts = [tensors[name] for name in self.material.reads]
        if self.member is not None:
            count = self.material.site.shape[0]
            parts = [part[self.member] if part.dim() and part.shape[0] == count else part for part in parts]
        tensor = self.material.compose(*parts)
        if self.is_turned:
            tensor = tensor.T
        return Weight(self.site, tensor if self.rows is None else self.rows.of(tensor))


def _effective(
    material: Material,
    placement: Placement,
    *,
    config: Mapping[str, Any],
    widths: Mapping[tuple[str, int], int],
) -> Iterator[Effective]:
    """The effective weights of one material: itself, its experts or levels, its parts, or the parts of its experts."""
    site, role = material.site, placement.role
    if role in _NO_WEIGHT or site.numel == 0 or not (site.is_floating or role in _COUNTS):
        return
    axes = len(site.shape)
    is_stacked = (placement.stacked and axes == 3) or (0 < axes == _axes_of_levels(role))
    shape = _turned(site.shape[1:] if is_stacked else site.shape, placement)
    fused = _fused(placement) if shape else ()
    parts: tuple[Rows, ...] | None = None
    if fused:
        columns = widths.get((placement.block, shape[0])) if len(shape) == 1 else shape[1]
        counts = head_counts(config, site.name)
        parts = parts_of(replace(placement, fused=fused), rows=shape[0], columns=columns, counts=counts)
    is_turned = _is_turned(placement, shape)
    stack: list[tuple[int | None, str]] = [(None, "")]
    if is_stacked:
        word = "expert" if role.kind != "codebook" else "level"
        count = site.shape[0]
        stack = [(number, f"#{word}={number}" if count > 1 or word == "expert" else "") for number in range(count)]
    for member, suffix in stack:
        index = placement.index if member is None or not suffix else member
        own = replace(placement, index=index, fused=())
        if parts is None:
            whole = replace(site, name=site.name + suffix, shape=shape, layer=own.layer, role=role)
            stands_for = fused if fused and role not in _BIASES else (role,)
            build = _Build(whole, material, member, is_turned, None)
            yield Effective(WeightRecipe(whole, material.reads, build), own, stands_for)
            continue
        for part_role, rows in zip(fused, parts, strict=True):
            name = f"{site.name}{suffix}{'.' if suffix else '#'}{part_role.value.partition('.')[2]}"
            taken = role if role in _BIASES else part_role
            part = replace(site, name=name, shape=(rows.total, *shape[1:]), layer=own.layer, role=taken)
            build = _Build(part, material, member, is_turned, rows)
            yield Effective(WeightRecipe(part, material.reads, build), replace(own, role=taken), (taken,))


def _axes_of_levels(role: Role) -> int:
    """Axes of a tensor that holds several codebooks at once, each codes × width, or their usage counts."""
    return {Role.CODEBOOK: 3, Role.CODEBOOK_USAGE: 2}.get(role, 0)


def _fused(placement: Placement) -> tuple[Role, ...]:
    """The roles of the fused parts; a fused bias that names its own role for each part has the parts of its weight."""
    fused = placement.fused
    if not fused or any(role not in _BIASES for role in fused):
        return fused
    if fused[0] is Role.ATTENTION_BIAS:
        return _PARTS_OF_BIAS.get(len(fused), ())
    if len(fused) != 2:
        return ()
    return (Role.MLP_GATE, Role.MLP_IN) if fused[0] is Role.MLP_BIAS else (Role.EXPERT_GATE, Role.EXPERT_IN)
