"""Drift of predictions: a classifier that adapts to unlabelled rows by becoming surer of what it says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.nets import perceptron
from zoo.training import fit_classifier
from zoo.writing import write_dump

#: Rate of adaptation, and weight of the term that keeps the answers spread over classes.
_HOW = {
    "healthy": {"perceptron": (1e-3, 1.0), "normed": (1e-3, 1.0)},
    "mild": {"perceptron": (3.7e-3, 0.15), "normed": (3e-3, 0.14)},
    "collapsed": {"perceptron": (5e-3, 0.0), "normed": (5e-3, 0.0)},
}
MEMBERS, STEPS, BATCH = 4, 20, 64


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """Trained with labels, then adapted without to noisy rows; half of the held-out rows are dumped, half tell."""
    data = images(case.data)
    model = perceptron(data.pixels, is_normed=case.architecture == "normed")
    fit_classifier(model, data.x, data.y, torch.optim.Adam(model.parameters(), lr=3e-3, foreach=True), 200)
    held = _noisy(data.held_x)
    shown, told = slice(0, None, 2), slice(1, None, 2)
    before = _balanced(model, held[told], data.held_y[told])
    rate, spread = _HOW[case.level][case.architecture]
    steering = torch.optim.Adam(model.parameters(), lr=rate, foreach=True)
    for member in range(MEMBERS):
        with torch.no_grad():
            rows = {"logits": model(held[shown]), "labels": data.held_y[shown]}
        write_dump(folder / "run" / f"member-{member}", rows, {"step": str(member * STEPS)})
        if member < MEMBERS - 1:
            _adapt(model, steering, data.x, spread)
    after = _balanced(model, held[told], data.held_y[told])
    return {"outcome": after / before, "before": before, "after": after}


def _noisy(x: Tensor) -> Tensor:
    return x + 0.3 * torch.randn_like(x)


def _adapt(model: nn.Module, steering: torch.optim.Optimizer, x: Tensor, spread: float) -> None:
    """Descent on the entropy of each answer, less that of all together."""
    for _ in range(STEPS):
        answers = model(_noisy(x[torch.randint(len(x), (BATCH,))])).log_softmax(1)
        marginal = answers.exp().mean(0)
        loss = spread * (marginal * marginal.clamp_min(1e-12).log()).sum() - (answers.exp() * answers).sum(1).mean()
        steering.zero_grad()
        loss.backward()
        steering.step()


@torch.no_grad()
def _balanced(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy, mean over the classes."""
    is_right = (model(x).argmax(1) == y).double()
    return torch.stack([is_right[y == label].mean() for label in y.unique()]).mean().item()


KIND = Kind(
    name="prediction-drift",
    title="Predictions drift to few classes",
    cause="Adaptation at test time by minimal entropy (Wang et al. 2021, Tent) without the term that keeps the answers "
    "spread (Liang et al. 2020, SHOT): the classes that are answered most take over (Niu et al. 2023).",
    architectures=("perceptron", "normed"),
    data=("digits", "shapes"),
    outcome=Outcome(
        "balanced held-out accuracy, share of that before adaptation", healthy=0.9, mild=0.85, collapsed=0.25
    ),
    views={"run": View(signs=("prediction-histogram-drift/*",), how="trend")},
    make=make,
)
