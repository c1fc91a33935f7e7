"""An example run through the whole path: memory source → plan → engine → judge."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from collapse_cli.analyzer import Analyzer, Example
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import Coverage, Subject
from collapse_cli.engine import Analysis, Options, analyse
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.judge import judge
from collapse_cli.sources.dump import memory_dump
from collapse_cli.sources.memory import as_tensor, memory_checkpoint
from tests.contract.transformations import ON_EVERY_ROW


def tensors(example: Example) -> dict[str, torch.Tensor]:
    return {name: as_tensor(value) for name, value in example.tensors.items()}


def analysed(
    analyzer: Analyzer,
    example: Example,
    *,
    change: Callable[[torch.Tensor], torch.Tensor] = lambda tensor: tensor,
    options: Options = Options(),
) -> Analysis:
    given: Mapping[str, Any] = {
        name: change(tensor) if tensor.is_floating_point() or change in ON_EVERY_ROW else tensor
        for name, tensor in tensors(example).items()
    }
    if example.metadata is not None:
        return analyse_dump(memory_dump(given, metadata=example.metadata), [analyzer], options)
    checkpoint = memory_checkpoint(
        given,
        config=example.config,
        adapter=example.adapter,
        shards=example.shards,
        index=example.index,
        optimizer=example.optimizer,
    )
    return analyse(checkpoint, [analyzer], options)


def judged(analyzer: Analyzer, example: Example) -> Subject:
    analysis = analysed(analyzer, example)
    subject = Subject(
        id="example",
        path="example",
        kind="checkpoint",
        format="memory",
        digest=None,
        bytes=0,
        status="complete",
        coverage=Coverage(0, 0, 0),
        measurements=analysis.measurements,
        skips=analysis.skips,
        failures=analysis.failures,
    )
    return judge(subject, [analyzer.manual], Policy(intent=example.intent))
