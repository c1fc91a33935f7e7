"""Stored tensors that make one matrix together: scaled fp8, weight norm, spectral norm, pruning masks.

A `Material` is what stands between the bytes and the effective weights: one tensor in its stored orientation, still
stacked and fused, under the name the model knows it by.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, final

from collapse_cli.core.report import Skip
from collapse_cli.core.site import Site

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Material", "materials_of", "plain"]

#: Entries per scale along both axes of block-scaled fp8 (DeepSeek-V3 technical report 2024, section 3.3).
_FP8_BLOCK = 128
_SCALE_SUFFIXES = ("{name}_scale_inv", "{name}_scale", "{stem}.scale", "{stem}.scale_weight", "{stem}.scale_inv")
_MARKS_OF_BITSANDBYTES = (".absmax", ".quant_map", ".SCB", "_format")
_MARKS_OF_BITSANDBYTES_MODULE = ("SCB", "weight_format")


@final
@dataclass(frozen=True, slots=True)
class Material:
    """One tensor before it is turned, unstacked and split: `compose` gets the tensors in the order of `reads`.

    `scale_block` is the number of entries that share one scale, for scaled fp8 only.
    """

    site: Site
    reads: tuple[str, ...]
    compose: "Callable[..., Tensor]"
    scale_block: int | None = None


def materials_of(
    stored: Iterable[Site], config: Mapping[str, Any]
) -> tuple[list[Material], list[Skip], dict[str, str]]:
    """Materials in source order, what could not be read, and which material each consumed stored tensor went into.

    Integer tensors become materials too: whether one of them is wanted (a batch count) is decided by its role.
    """
    sites = {site.name: site for site in stored}
    materials: list[Material] = []
    skips: list[Skip] = []
    consumed: dict[str, str] = {}
    for site in sites.values():
        if site.name in consumed:
            continue
        found = _reparametrised(site, sites) or _quantised(site, sites, config)
        if found is None:
            found = Material(site, (site.name,), plain)
        if isinstance(found, Skip):
            skips.append(found)
            continue
        materials.append(found)
        if found.reads != (found.site.name,):
            consumed |= dict.fromkeys(found.reads, found.site.name)
    # a scale or a gain may stand before the tensor it belongs to
    kept = [one for one in materials if one.reads != (one.site.name,) or one.site.name not in consumed]
    return kept, skips, consumed


def plain(tensor: "Tensor") -> "Tensor":
    """The tensor itself; counts and steps stored as integers become float64, which holds them exactly to 2⁵³."""
    return tensor if tensor.is_floating_point() else tensor.double()


# --- reparametrisations -----------------------------------------------------------------------------------------------


def _reparametrised(site: Site, sites: Mapping[str, Site]) -> Material | Skip | None:
    if not site.is_floating:
        return None
    if ".parametrizations." in site.name:
        return _parametrisation(site, sites)
    name, _, ending = site.name.rpartition("_")
    leaf = name.rpartition(".")[2]
    if not leaf.startswith("weight"):
        return None
    whole, left, right = f"{name}_orig", f"{name}_u", f"{name}_v"
    if ending in {"orig", "u", "v", "mask"} and whole in sites:
        if left in sites:
            reads = (whole, left, right) if right in sites else (whole, left)
            return _composed(name, site, [sites[read] for read in reads], spectral_normalised)
        if f"{name}_mask" in sites:
            return _composed(name, site, [sites[whole], sites[f"{name}_mask"]], masked)
    gain = f"{name}_g"
    if ending in {"g", "v"} and gain in sites and right in sites and sites[right].is_floating:
        return _composed(name, site, [sites[gain], sites[right]], weight_normalised)
    return None


def _parametrisation(site: Site, sites: Mapping[str, Site]) -> Material | Skip | None:
    path, _, inner = site.name.partition(".parametrizations.")
    parameter, _, part = inner.partition(".")
    prefix, name = f"{path}.parametrizations.{parameter}", f"{path}.{parameter}"
    gain, direction, whole = f"{prefix}.original0", f"{prefix}.original1", f"{prefix}.original"
    if gain in sites and direction in sites:
        return _composed(name, site, [sites[gain], sites[direction]], weight_normalised)
    left, right = f"{prefix}.0._u", f"{prefix}.0._v"
    if whole in sites and left in sites and right in sites:
        return _composed(name, site, [sites[whole], sites[left], sites[right]], spectral_normalised)
    if part == "original":
        return Skip(None, site.name, "unknown parametrisation: only weight norm and spectral norm are composed")
    return None


def _composed(name: str, asked: Site, parts: list[Site], compose: "Callable[..., Tensor]") -> Material | Skip:
    """The parts together, under the name of the whole; a skip of the part asked about where they do not fit."""
    shapes = [part.shape for part in parts]
    if not _FITS[compose](*shapes):
        listed = ", ".join(str(list(shape)) for shape in shapes)
        return Skip(None, asked.name, f"parts of a reparametrised weight do not fit one another: shapes {listed}")
    main = parts[1] if compose is weight_normalised else parts[0]
    return Material(replace(main, name=name), tuple(part.name for part in parts), compose)


def _is_gain(gain: tuple[int, ...], direction: tuple[int, ...]) -> bool:
    if math.prod(gain) == 1 or (len(gain) == 1 and gain == direction[:1]):
        return True
    return len(gain) == len(direction) and all(one in {1, side} for one, side in zip(gain, direction, strict=True))


def _is_norm(whole: tuple[int, ...], left: tuple[int, ...], right: tuple[int, ...] | None = None) -> bool:
    rows, entries = math.prod(left), math.prod(whole)
    if len(whole) < 2 or not entries or rows not in whole[:2]:
        return False
    return right is None or math.prod(right) == entries // rows


def _wide(tensor: "Tensor") -> "Tensor":
    import torch

    return tensor if tensor.dtype == torch.float64 else tensor.float()


def weight_normalised(gain: "Tensor", direction: "Tensor") -> "Tensor":
    """g·v/‖v‖, the norm over every axis that g does not have (Salimans & Kingma, Weight Normalization 2016)."""
    gain, direction = _wide(gain), _wide(direction)
    if gain.numel() == 1:
        scale: Tensor = gain.reshape(()) / direction.norm()
        return direction * scale
    if gain.dim() == 1:
        gain = gain.reshape(-1, *[1] * (direction.dim() - 1))
    axes = [axis for axis in range(direction.dim()) if gain.shape[axis] == 1 and direction.shape[axis] != 1]
    length: Tensor = direction.norm(dim=axes, keepdim=True) if axes else direction.abs()
    return direction * (gain / length)


def spectral_normalised(weight: "Tensor", left: "Tensor", right: "Tensor | None" = None) -> "Tensor":
    """W/σ with σ = uᵀWv from the stored vectors (Miyato et al., Spectral Normalization 2018), as in evaluation mode."""
    weight, left = _wide(weight), _wide(left).flatten()
    # a transposed convolution is normalised along axis 1; the length of u tells
    rows = weight if weight.shape[0] == left.numel() else weight.transpose(0, 1)
    matrix = rows.reshape(rows.shape[0], -1)
    if right is None:
        image = matrix.T @ left
        right = image / image.norm()
    normalised: Tensor = weight / (left @ (matrix @ _wide(right).flatten()))
    return normalised


def masked(weight: "Tensor", mask: "Tensor") -> "Tensor":
    """W ⊙ mask, as `torch.nn.utils.prune` stores it."""
    return weight * mask.to(weight.dtype)


#: Whether shapes belong together, by what is made of them.
_FITS: dict[Callable[..., Any], Callable[..., bool]] = {
    weight_normalised: _is_gain,
    spectral_normalised: _is_norm,
    masked: lambda whole, mask: whole == mask,
}


# --- quantised formats ------------------------------------------------------------------------------------------------


def _quantised(site: Site, sites: Mapping[str, Site], config: Mapping[str, Any]) -> Material | Skip | None:
    stem, _, leaf = site.name.rpartition(".")
    if site.dtype in {"F4", "F6_E2M3", "F6_E3M2"}:
        return Skip(None, site.name, f"quantised format not read: {site.dtype}")
    if site.dtype.startswith("F8") and site.dtype != "F8_E8M0":
        return _scaled(site, sites, config)
    if site.is_floating or len(site.shape) < 2:
        return None
    method = _declared(config).get("quant_method")
    if leaf in {"qweight", "weight_packed"}:
        guess = "compressed-tensors" if leaf == "weight_packed" else "GPTQ or AWQ"
        return Skip(None, site.name, f"quantised format not read: {method or guess}")
    if leaf.endswith("_blocks") and f"{site.name.removesuffix('_blocks')}_scales" in sites:
        return Skip(None, site.name, f"quantised format not read: {method or 'MXFP4'}")
    if site.dtype not in {"I8", "U8"} or not leaf.endswith(("weight", "_proj")):
        return None
    marks = [site.name + mark for mark in _MARKS_OF_BITSANDBYTES]
    marks += [f"{stem}.{mark}" for mark in _MARKS_OF_BITSANDBYTES_MODULE]
    guess = "bitsandbytes" if any(mark in sites for mark in marks) else site.dtype
    return Skip(None, site.name, f"quantised format not read: {method or guess}")


def _scaled(site: Site, sites: Mapping[str, Site], config: Mapping[str, Any]) -> Material | Skip:
    stem = site.name.removesuffix(".weight")
    for suffix in _SCALE_SUFFIXES:
        scale = sites.get(suffix.format(name=site.name, stem=stem))
        if scale is None or scale.name == site.name or not scale.is_floating:
            continue
        block = _block(site.shape, scale.shape, config)
        if block is None:
            reason = f"scale of shape {list(scale.shape)} does not fit {list(site.shape)}"
            return Skip(None, site.name, f"quantised format not read: {reason}")
        compose = partial(dequantised, block=block)
        return Material(site, (site.name, scale.name), compose, _entries_per_scale(site.shape, scale.numel, block))
    return Skip(None, site.name, "quantised without scale")


def _entries_per_scale(shape: tuple[int, ...], scales: int, block: tuple[int, int]) -> int:
    """Entries of a whole block; blocks at the edges may hold fewer."""
    if scales == 1:
        return Site("", shape, "").numel
    rows, columns = block
    # (1, 0): one scale for each index of the first axis; (0, 0): one for each matrix of a stack
    if not columns:
        return Site("", shape[1:], "").numel
    height, width = shape[-2:] if len(shape) > 1 else (shape[0], 1)
    return min(rows, height) * min(columns, width)


def _declared(config: Mapping[str, Any]) -> Mapping[str, Any]:
    quantisation = config.get("quantization_config")
    return quantisation if isinstance(quantisation, Mapping) else {}


def _block(shape: tuple[int, ...], scale: tuple[int, ...], config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns that share one scale, for the last two axes; (0, 0) is one scale for a whole matrix."""
    if all(side == 1 for side in scale):
        return 0, 0
    if len(shape) == 3 and scale[0] == shape[0]:
        return _block(shape[1:], scale[1:], config)
    if len(shape) == 1:
        shape, scale = (*shape, 1), (*scale, 1)
    if len(scale) == 1 and len(shape) >= 2:
        scale = (*scale, 1)
    if len(shape) != 2 or len(scale) != 2:
        # a convolution with one scale per output channel
        return (1, 0) if scale and scale[0] == shape[0] and all(side == 1 for side in scale[1:]) else None
    declared = _declared(config).get("weight_block_size")
    sides = declared if isinstance(declared, list) and len(declared) == 2 else (None, None)
    rows, columns = (_side(*pair) for pair in zip(shape, scale, sides, strict=True))
    return None if rows is None or columns is None else (rows, columns)


def _side(side: int, scales: int, declared: object) -> int | None:
    """Entries per scale along one axis. Rounding up is ambiguous: declared, then 128, then a divisor, then 2ᵏ."""
    candidates = [declared] if isinstance(declared, int) and declared > 0 else []
    candidates += [_FP8_BLOCK, -(-side // max(scales, 1)) if side % max(scales, 1) == 0 else 0]
    candidates += [2**power for power in range(13)] + [-(-side // max(scales, 1))]
    return next((entries for entries in candidates if entries and -(-side // entries) == scales), None)


def dequantised(weight: "Tensor", scale: "Tensor", *, block: tuple[int, int]) -> "Tensor":
    """Each entry times the scale of its block, in float32; blocks start at the first row and column."""
    import torch

    if weight.dim() == 3 and scale.numel() > 1 and scale.shape[0] == weight.shape[0]:
        return torch.stack([dequantised(one, its, block=block) for one, its in zip(weight, scale, strict=True)])
    wide, scale = weight.float(), scale.float()
    rows, columns = block
    if scale.numel() == 1:
        return wide.mul_(scale.reshape(()))
    if not columns or wide.dim() != 2:
        return wide.mul_(scale.reshape(-1, *[1] * (wide.dim() - 1)))
    scale = scale.reshape(-(-wide.shape[0] // rows), -(-wide.shape[1] // columns))
    if rows == 1:
        return wide.mul_(scale if columns >= wide.shape[1] else scale.repeat_interleave(columns, 1)[:, : wide.shape[1]])
    for index, factors in enumerate(scale):
        # one stripe at a time: the full grid of factors would double the memory
        wide[index * rows : (index + 1) * rows] *= factors.repeat_interleave(columns)[: wide.shape[1]]
    return wide
