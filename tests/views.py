"""Views built directly, for closed-form tests of one analyzer."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from collapse_cli.core.metric import Measurement
from collapse_cli.core.site import Role, Site
from collapse_cli.kernels.views import Block, Stored, Weight
from collapse_cli.sources.dtypes import dtype_name


def weight(tensor: torch.Tensor, name: str = "w", *, role: Role = Role.LINEAR, dtype: str | None = None) -> Weight:
    return Weight(Site(name, tuple(tensor.shape), dtype or dtype_name(tensor.dtype), 0, role), tensor)


def stored(tensor: torch.Tensor, name: str = "w", *, role: Role = Role.LINEAR, dtype: str | None = None) -> Stored:
    return Stored(Site(name, tuple(tensor.shape), dtype or dtype_name(tensor.dtype), 0, role), tensor)


def block(
    weights: Mapping[Role, torch.Tensor | tuple[torch.Tensor, ...]],
    facts: Mapping[str, Any] | None = None,
    *,
    name: str = "model.layers.0",
) -> Block:
    members = {}
    for role, given in weights.items():
        tensors = given if isinstance(given, tuple) else (given,)
        members[role] = tuple(
            weight(tensor, f"{name}.{role.value}.{index}", role=role) for index, tensor in enumerate(tensors)
        )
    return Block(Site(name, (), "F32", 0, next(iter(members))), members, facts)


def values(results: Iterable[Any]) -> dict[str, float]:
    """metric → value of the measurements, for analyzers that measure one site."""
    return {result.metric: result.value for result in results if isinstance(result, Measurement)}


def at(results: Iterable[Any]) -> dict[tuple[str, str], Measurement]:
    """(metric, site) → measurement."""
    return {(result.metric, result.site): result for result in results if isinstance(result, Measurement)}


def reasons(results: Iterable[Any]) -> list[str]:
    """The reasons of the skips."""
    return [result.reason for result in results if not isinstance(result, Measurement)]
