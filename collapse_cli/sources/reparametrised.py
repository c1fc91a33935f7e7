"""Weights that are a function of what is stored, told by role: projected codebooks, posterior deviations."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from collapse_cli.core.naming import Placement
from collapse_cli.core.site import Role
from collapse_cli.sources.composition import Material, plain
from collapse_cli.sources.recipes import module_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["codebooks_projected", "posteriors_as_deviations"]

#: Projections around a quantiser (into and out of a lower dimension) are no part of its codebook.
_AROUND = frozenset({"project_in", "project_out", "quant_conv", "post_quant_conv"})


def codebooks_projected(materials: Iterable[Material], placed: Mapping[str, Placement]) -> list[Material]:
    """The materials, a codebook replaced by its image where its block holds a projection that fits (SimVQ, 2024)."""
    materials = list(materials)
    by_name = {material.site.name: material for material in materials}
    projections: dict[str, list[Material]] = {}
    for material in materials:
        placement, module = placed[material.site.name], module_of(material.site.name).rpartition(".")[2]
        if placement.role is Role.CODEBOOK_PROJECTION and len(material.site.shape) == 2 and module not in _AROUND:
            projections.setdefault(placement.block, []).append(material)

    def projected(material: Material) -> Material:
        found = projections.get(placed[material.site.name].block, [])
        site = material.site
        if placed[site.name].role is not Role.CODEBOOK or len(found) != 1 or len(site.shape) not in {2, 3}:
            return material
        rows, columns = found[0].site.shape
        is_plain = material.compose is plain and found[0].compose is plain
        if not is_plain or columns != site.shape[-1] or (len(site.shape) == 3 and site.shape[0] != 1):
            return material
        bias = by_name.get(module_of(found[0].site.name) + ".bias")
        reads = (site.name, found[0].site.name, *((bias.site.name,) if bias else ()))
        return Material(replace(site, shape=(*site.shape[:-1], rows)), reads, projection)

    return [projected(material) for material in materials]


def projection(embedding: "Tensor", weight: "Tensor", bias: "Tensor | None" = None) -> "Tensor":
    """The codes after the projection: embedding · weightᵀ + bias, codes × width, at least float32."""
    import torch

    dtype = torch.float64 if embedding.dtype == torch.float64 else torch.float32
    codes = embedding.to(dtype) @ weight.to(dtype).T
    return codes if bias is None else codes + bias.to(dtype)


def posteriors_as_deviations(materials: Iterable[Material], placed: Mapping[str, Placement]) -> list[Material]:
    """The materials, what a posterior stores for its spread replaced by the standard deviation itself."""

    def deviation(material: Material) -> Material:
        if placed[material.site.name].role is not Role.POSTERIOR_SIGMA or material.compose is not plain:
            return material
        leaf = material.site.name.rpartition(".")[2].lower().replace("_", "")
        for ending, function in (("rho", softplus), ("logvar", half_exponential), ("logsigma", exponential)):
            if leaf.endswith(ending):
                return replace(material, compose=function)
        return material

    return [deviation(material) for material in materials]


def softplus(rho: "Tensor") -> "Tensor":
    """σ = ln(1 + e^ρ) (Blundell et al., Weight Uncertainty in Neural Networks 2015)."""
    import torch

    return torch.nn.functional.softplus(rho.float() if rho.element_size() < 4 else rho)


def half_exponential(log_variance: "Tensor") -> "Tensor":
    """σ = e^{½ ln σ²}."""
    return (0.5 * (log_variance.float() if log_variance.element_size() < 4 else log_variance)).exp()


def exponential(log_deviation: "Tensor") -> "Tensor":
    """σ = e^{ln σ}."""
    return (log_deviation.float() if log_deviation.element_size() < 4 else log_deviation).exp()
