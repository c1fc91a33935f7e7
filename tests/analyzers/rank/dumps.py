"""A hook point in memory, analysed and judged: what a test of one analyzer asks of it."""

from collections.abc import Mapping
from itertools import pairwise

import torch

from collapse_cli.analyzer import Analyzer, Example
from collapse_cli.core.report import Subject
from collapse_cli.core.site import Role, Site
from collapse_cli.kernels.batches import Batch
from collapse_cli.kernels.needs import Feeding, need
from collapse_cli.kernels.views import Activations
from tests.contract.examples import judged
from tests.views import values


def subject(analyzer: Analyzer, features: torch.Tensor, *, intent: str | None = None, **roles: torch.Tensor) -> Subject:
    arrays = {f"encoder/{role}": tensor for role, tensor in {"features": features, **roles}.items()}
    result = judged(analyzer, Example(arrays, metadata={}, intent=intent))
    assert [failure.message for failure in result.failures] == []
    return result


def found(analyzer: Analyzer, features: torch.Tensor, **roles: torch.Tensor) -> Mapping[str, float]:
    """metric → value."""
    return {m.metric: m.value for m in subject(analyzer, features, **roles).measurements}


def nulls(analyzer: Analyzer, features: torch.Tensor, **roles: torch.Tensor) -> Mapping[str, float | None]:
    """metric → null."""
    return {m.metric: m.null for m in subject(analyzer, features, **roles).measurements}


def severities(
    analyzer: Analyzer, features: torch.Tensor, *, intent: str | None = None, **roles: torch.Tensor
) -> set[str]:
    """Severities of the findings."""
    return {str(finding.severity) for finding in subject(analyzer, features, intent=intent, **roles).findings}


def skipped(analyzer: Analyzer, features: torch.Tensor, **roles: torch.Tensor) -> str:
    """The reasons of all skips."""
    return "; ".join(skip.reason for skip in subject(analyzer, features, **roles).skips)


def point(analyzer: Analyzer, batches: int, **roles: torch.Tensor) -> Activations:
    """The hook point as the analyzer is handed it, its rows fed in so many batches of unequal size."""
    count = next(iter(roles.values())).shape[0]
    shapes = {role: tuple(tensor.shape) for role, tensor in roles.items()}
    feeding = Feeding(shapes=shapes, dtypes=dict.fromkeys(roles, "F32"))
    accumulators = {one.name: one.make(feeding) for one in map(need, analyzer.needs) if set(one.roles) <= roles.keys()}
    cuts = sorted({count * place * place // batches**2 for place in range(batches + 1)})
    for begin, end in pairwise(cuts):
        batch = Batch({role: tensor[begin:end] for role, tensor in roles.items()}, start=begin)
        for accumulator in accumulators.values():
            accumulator.update(batch)
    return Activations(
        Site("encoder", (), "", None, Role.ACTIVATION),
        accumulators,
        shapes=shapes,
        dtypes=dict.fromkeys(roles, "F32"),
        rows=count,
        finite_rows=count,
    )


def split(analyzer: Analyzer, features: torch.Tensor, **roles: torch.Tensor) -> Mapping[str, float]:
    """metric → value with the rows fed in five batches of unequal size."""
    return values(analyzer.run(point(analyzer, 5, features=features, **roles)))


def judged_views(analyzer: Analyzer, views: torch.Tensor) -> Subject:
    """The analyzer on a hook point that has a stack of views and nothing else."""
    result = judged(analyzer, Example({"encoder/views": views}, metadata={}))
    assert [failure.message for failure in result.failures] == []
    return result
