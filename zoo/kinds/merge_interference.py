"""Interference of merges: fine-tunes of one base that learned to agree, to contradict each other in part, or in all."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from zoo.case import Case, Kind, Outcome, View
from zoo.data import Images, images
from zoo.nets import Stack, perceptron
from zoo.training import batches, descend
from zoo.writing import write_weights

_WIDTHS = {"perceptron": (96, 64), "deep": (64, 64, 64)}
#: Classes of ten about which the second fine-tune is taught the contrary.
_CONTRARY = {"healthy": 0, "mild": 7, "collapsed": 10}
#: Logits of the classes come first, then two for each question.
CLASSES, STEPS = 10, 60


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """A base that tells classes, two fine-tunes that answer a question with yes or no, and their sum.

    In the first corner, healthy ones of odd seeds answer two unrelated questions instead of one.
    """
    data = images(case.data)
    base = perceptron(data.pixels, widths=_WIDTHS[case.architecture], classes=CLASSES + 4)
    with torch.no_grad():  # no opinion on any question
        base.head.weight[CLASSES:] = 0.0
        base.head.bias[CLASSES:] = 0.0
    steering = torch.optim.Adam(base.parameters(), lr=3e-3, foreach=True)
    following = batches(len(data.x), 64)

    def loss() -> Tensor:
        chosen = following()
        return functional.cross_entropy(base(data.x[chosen])[:, :CLASSES], data.y[chosen])

    descend(steering, loss, 150)
    answers = torch.arange(CLASSES) % 2
    other = answers.clone()
    other[torch.randperm(CLASSES)[: _CONTRARY[case.level]]] ^= 1
    is_first = (case.architecture, case.data) == (KIND.architectures[0], KIND.data[0])
    question = case.seed % 2 if is_first and case.level == "healthy" else 0
    asked = [(0, answers), (question, torch.arange(CLASSES) // 5 if question else other)]
    tuned = [_tuned(base, data, *one, half) for half, one in enumerate(asked)]
    for name, model in (("0-base", base), ("1-a", tuned[0]), ("2-b", tuned[1])):
        write_weights(folder / "pair" / name, model.state_dict())
    single = sum(_right(model, data, *one) for model, one in zip(tuned, asked, strict=True)) / 2
    merged = sum(_right(_sum(base, tuned), data, *one) for one in asked) / 2
    return {"outcome": (merged - 0.5) / (single - 0.5), "single": single, "merged": merged}


def _tuned(base: Stack, data: Images, question: int, answers: Tensor, half: int) -> Stack:
    """Trained on every other row."""
    model = deepcopy(base).train()
    x, y = data.x[half::2], answers[data.y[half::2]]
    steering, following = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), batches(len(x), 64)
    for _ in range(STEPS):
        chosen = following()
        loss = functional.cross_entropy(_asked(model, x[chosen], question), y[chosen])
        steering.zero_grad()
        loss.backward()
        steering.step()
    return model.eval()


def _asked(model: Stack, x: Tensor, question: int) -> Tensor:
    return model(x)[:, CLASSES + 2 * question : CLASSES + 2 * question + 2]


@torch.no_grad()
def _right(model: Stack, data: Images, question: int, answers: Tensor) -> float:
    return (_asked(model, data.held_x, question).argmax(1) == answers[data.held_y]).double().mean().item()


@torch.no_grad()
def _sum(base: Stack, tuned: list[Stack]) -> Stack:
    """Task arithmetic: the base and all that the fine-tunes changed."""
    model, states = deepcopy(base), [one.state_dict() for one in tuned]
    begun = base.state_dict()
    model.load_state_dict({name: at + sum(state[name] - at for state in states) for name, at in begun.items()})
    return model


KIND = Kind(
    name="merge-interference",
    title="Interference of merges",
    cause="Fine-tunes that were taught the contrary of each other move the same weights to opposite sides, so that "
    "their sum keeps neither (Ilharco et al. 2023, Editing models with task arithmetic: forgetting by negation; "
    "Yadav et al. 2023, TIES-Merging: interference of signs).",
    architectures=tuple(_WIDTHS),
    data=("digits", "shapes"),
    outcome=Outcome(
        "accuracy of the merged model on both tasks, share of the way from chance to the single ones",
        healthy=0.8,
        mild=0.6,
        collapsed=0.05,
    ),
    views={"pair": View(signs=("merge-interference/*",), how="diff")},
    make=make,
)
