"""An example run through the whole path: memory source → plan → engine → judge."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from collapse_cli.analyzer import CHECKPOINT_VIEWS, DUMP_VIEWS, Analyzer, Example
from collapse_cli.analyzers import catalogue
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import Coverage, Subject
from collapse_cli.engine import Analysis, Options, analyse
from collapse_cli.engine.comparison import Lineup, analyse_together
from collapse_cli.engine.dump import analyse_dump
from collapse_cli.engine.dump_series import analyse_dump_series
from collapse_cli.engine.run import analyse_run
from collapse_cli.judge import judge
from collapse_cli.sources.dump import memory_dump
from collapse_cli.sources.memory import as_tensor, memory_checkpoint
from collapse_cli.sources.paired import paired_dump
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
    if analyzer.view not in CHECKPOINT_VIEWS | DUMP_VIEWS:
        return _compared(analyzer, example, given, change, options)
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


def _compared(
    analyzer: Analyzer,
    example: Example,
    given: Mapping[str, Any],
    change: Callable[[torch.Tensor], torch.Tensor],
    options: Options,
) -> Analysis:
    """An example of a pair, a pool or a run."""
    if analyzer.view == "run":
        manuals = [one.manual for one in catalogue(plugins=False).analyzers]
        steps = example.steps or tuple(float(place) for place in range(len(example.subjects)))
        return analyse_run(example.subjects, manuals, [analyzer], options, steps=steps)
    members = [given] + [
        {
            name: change(as_tensor(value))
            if as_tensor(value).is_floating_point() or change in ON_EVERY_ROW
            else as_tensor(value)
            for name, value in other.items()
        }
        for other in example.others
    ]
    labels = tuple(f"member {place}" for place in range(len(members)))
    steps = example.steps or tuple(float(place) for place in range(len(members)))
    if example.metadata is None:
        kind = next(kind for kind in (analyzer.view, *analyzer.also) if kind in ("pair", "pool", "series"))
        checkpoints = tuple(memory_checkpoint(member, config=example.config) for member in members)
        return analyse_together(Lineup(kind, checkpoints, labels, steps), [analyzer], options)  # type: ignore[arg-type]
    dumps = [memory_dump(member, metadata=example.metadata) for member in members]
    if "activation_series" in (analyzer.view, *analyzer.also):
        return analyse_dump_series(dumps, [analyzer], options, labels=labels, steps=steps)
    return analyse_dump(paired_dump(*dumps), [analyzer], options)


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
