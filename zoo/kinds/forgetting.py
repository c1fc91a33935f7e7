"""Forgetting: classes learnt two at a time, with everything, next to nothing or nothing of the old ones at hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.case import Case, Kind, Outcome, View
from zoo.data import Images, images
from zoo.nets import perceptron
from zoo.training import accuracy
from zoo.writing import write_dump

_WIDTHS = {"perceptron": (128, 64), "deep": (96, 96, 96)}
#: Rows of each old class that are rehearsed; the shapes, drawn with noise, take more to be remembered at all.
_KEPT = {"healthy": {"digits": 1000, "shapes": 1000}, "mild": {"digits": 1, "shapes": 3}, "collapsed": {}}
TASKS, BATCH, STEPS = 5, 32, 80


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """One head for all classes; a dump of half of the held-out rows after every task, the other half tells."""
    data, kept = images(case.data), _KEPT[case.level].get(case.data, 0)
    model = perceptron(data.pixels, widths=_WIDTHS[case.architecture])
    steering = torch.optim.Adam(model.parameters(), lr=3e-3, foreach=True)
    shown, told = slice(0, None, 2), slice(1, None, 2)
    tasks = data.held_y[told] // 2
    known = []
    for task in range(TASKS):
        _learn(model, steering, data, task, kept)
        x, y = data.held_x[told], data.held_y[told]
        known.append([accuracy(model, x[tasks == old], y[tasks == old]) for old in range(TASKS)])
        with torch.no_grad():
            logits = model(data.held_x[shown])
        rows = {"logits": logits, "labels": data.held_y[shown], "groups": data.held_y[shown] // 2}
        write_dump(folder / "run" / f"task-{task}", rows, {"step": str((task + 1) * STEPS), "task": str(task)})
    first, last = known[0][0], known[-1]
    return {"outcome": last[0] / first, "first": first, "after": last[0], "all tasks": sum(last) / TASKS}


def _learn(model: nn.Module, steering: torch.optim.Optimizer, data: Images, task: int, kept: int) -> None:
    new = (data.y // 2 == task).nonzero().flatten()
    old = [(data.y == label).nonzero().flatten()[:kept] for label in range(2 * task)]
    rehearsed = torch.cat(old) if old else new[:0]
    model.train()
    for _ in range(STEPS):
        chosen = torch.cat([_drawn(new, BATCH), _drawn(rehearsed, BATCH * task)])
        loss = functional.cross_entropy(model(data.x[chosen]), data.y[chosen])
        steering.zero_grad()
        loss.backward()
        steering.step()
    model.eval()


def _drawn(rows: Tensor, count: int) -> Tensor:
    return rows[torch.randint(len(rows), (count,))] if len(rows) else rows


KIND = Kind(
    name="forgetting",
    title="Forgetting",
    cause="Class-incremental training without rehearsal: gradients of new classes overwrite what old ones need "
    "(McCloskey & Cohen 1989, Catastrophic interference in connectionist networks; Robins 1995, rehearsal).",
    architectures=tuple(_WIDTHS),
    data=("digits", "shapes"),
    outcome=Outcome(
        "accuracy on the first task after the last, share of that after the first",
        healthy=0.85,
        mild=0.8,
        collapsed=0.2,
    ),
    views={"run": View(signs=("forgetting/*",), how="trend")},
    make=make,
)
