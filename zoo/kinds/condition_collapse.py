"""Condition collapse: a conditional generator that answers each condition with one output."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.case import Case, Kind, Outcome, View
from zoo.training import descend
from zoo.writing import write_dump

_CONDITIONS, _CONDITION, _OUTPUT, _NOISE, _ANSWERS = 50, 4, 6, 4, 12
#: Hidden widths.
_NETWORKS = {"two": (64, 64), "three": (48, 48, 48)}
#: Weight of the term that keeps two outputs of one condition apart; 1 makes the loss a proper score.
_APART = {"healthy": 1.0, "mild": 0.3, "collapsed": 0.0}


class _World:
    """Outputs with more than one right answer: two branches, or a ring, about a place that the condition gives."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._place, self._across = torch.randn(2, _CONDITION, _OUTPUT).unbind()
        self._around = torch.randn(_CONDITION, _OUTPUT)

    def answers(self, condition: Tensor) -> Tensor:
        """One right answer to each condition, drawn afresh."""
        place, across = (torch.tanh(condition @ part) for part in (self._place, self._across))
        if self._name == "branches":
            sides = torch.randint(2, (len(condition), 1)) * 2.0 - 1.0
            drawn = sides * (0.5 + across.abs())
        else:
            angles = 2 * torch.pi * torch.rand(len(condition), 1)
            around = torch.tanh(condition @ self._around)
            drawn = angles.cos() * (0.5 + across.abs()) + angles.sin() * (0.5 + around.abs())
        return 2 * place + drawn + 0.1 * torch.randn(len(condition), _OUTPUT)


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """A generator of condition and noise under the energy score, whose second term forbids ignoring the noise."""
    world = _World(case.data)
    widths = (_CONDITION + _NOISE, *_NETWORKS[case.architecture])
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    generator = nn.Sequential(*layers, nn.Linear(widths[-1], _OUTPUT))
    steering = torch.optim.Adam(generator.parameters(), lr=4e-3, foreach=True)

    def made(condition: Tensor) -> Tensor:
        return generator(torch.cat([condition, torch.randn(len(condition), _NOISE)], 1))

    def loss() -> Tensor:
        condition = torch.randn(256, _CONDITION)
        outputs = made(condition.repeat(2, 1)).view(2, 256, _OUTPUT)
        error = torch.linalg.vector_norm(outputs - world.answers(condition), dim=2).mean()
        apart = torch.linalg.vector_norm(outputs[0] - outputs[1], dim=1).mean()
        return error - _APART[case.level] / 2 * apart

    descend(steering, loss, 500)
    conditions = torch.randn(_CONDITIONS, _CONDITION)
    groups = torch.arange(_CONDITIONS).repeat_interleave(_ANSWERS)
    with torch.no_grad():
        samples, reference = made(conditions[groups]), world.answers(conditions[groups])
        many = conditions.repeat_interleave(100, 0)
        spreads = [
            rows.view(_CONDITIONS, 100, _OUTPUT).var(1).sum().item() for rows in (made(many), world.answers(many))
        ]
    write_dump(folder / "dump", {"samples": samples, "groups": groups, "reference": reference}, {"paired": "true"})
    return {"outcome": spreads[0] / spreads[1], "spread": spreads[0], "true_spread": spreads[1]}


KIND = Kind(
    name="condition-collapse",
    title="One output per condition",
    cause="Regression on one answer per condition: without the term that keeps two outputs apart, noise is averaged "
    "away (Isola et al. 2017, pix2pix, on ignored noise; Gneiting & Raftery 2007 for the energy score).",
    architectures=tuple(_NETWORKS),
    data=("branches", "rings"),
    outcome=Outcome(
        "variance within a condition, over that of the right answers", healthy=0.8, mild=0.5, collapsed=0.05
    ),
    views={"dump": View(signs=("same-condition-diversity/*",))},
    make=make,
)
