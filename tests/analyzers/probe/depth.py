"""Hook points in memory, in depth order, as an analyzer of layers is handed them."""

import itertools
from collections.abc import Mapping, Sequence

import torch

from collapse_cli.analyzer import Analyzer, Example
from collapse_cli.core.report import Subject
from collapse_cli.core.site import Role, Site
from collapse_cli.kernels.batches import Batch
from collapse_cli.kernels.needs import Feeding, need
from collapse_cli.kernels.views import Activations, Layers
from tests.contract.examples import judged

Arrays = Mapping[str, torch.Tensor]


def subject(analyzer: Analyzer, points: Sequence[Arrays], *, intent: str | None = None) -> Subject:
    """The whole path, from the dump to the findings; hook points are `layers.0`, `layers.1`, …."""
    arrays = {f"layers.{i}/{role}": tensor for i, point in enumerate(points) for role, tensor in point.items()}
    result = judged(analyzer, Example(arrays, metadata={}, intent=intent))
    assert [failure.message for failure in result.failures] == []
    return result


def layers(analyzer: Analyzer, points: Sequence[Arrays], batches: int = 1) -> Layers:
    """The same hook points with their rows fed in so many batches of unequal size."""
    fed = tuple(_point(analyzer, layer, roles, batches) for layer, roles in enumerate(points))
    return Layers(Site("#layers", (), "", None, Role.ACTIVATION), fed)


def _point(analyzer: Analyzer, layer: int, roles: Arrays, batches: int) -> Activations:
    count = next(iter(roles.values())).shape[0]
    shapes = {role: tuple(tensor.shape) for role, tensor in roles.items()}
    accumulators = {
        one.name: one.make(Feeding(shapes=shapes))
        for one in map(need, analyzer.needs)
        if set(one.roles) <= roles.keys()
    }
    cuts = sorted({count * place * place // batches**2 for place in range(batches + 1)})
    for begin, end in itertools.pairwise(cuts):
        batch = Batch({role: tensor[begin:end] for role, tensor in roles.items()}, start=begin)
        for accumulator in accumulators.values():
            accumulator.update(batch)
    return Activations(
        Site(f"layers.{layer}", (), "", layer, Role.ACTIVATION),
        accumulators,
        shapes=shapes,
        dtypes=dict.fromkeys(roles, "F32"),
        rows=count,
        finite_rows=count,
    )
