"""Whether training only makes weights and logits larger: growth along themselves, and what else moved."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.comparisons import Comparison
from collapse_cli.kernels.weight_paths import step_gram

__all__ = ["Growth", "LogitGrowth", "growths", "logit_growth", "matrix_steps"]

#: float64 entries of one block of logits: 16 MiB.
_BLOCK_ENTRIES = 1 << 21


@final
@dataclass(frozen=True, slots=True)
class Growth:
    """One step of a weight: cosine between step and weight, and the logarithm of the growth of the norm."""

    alignment: float
    norm_growth: float


def matrix_steps(view: Comparison) -> Float[Tensor, "members members"]:
    """`weight_paths.step_gram`, under a name of its own: which sites have it tells which were asked for growth."""
    return view.get(step_gram)


def growths(gram: Float[Tensor, "members members"]) -> list[Growth | None]:
    """The growth of every step from the inner products of the start and the steps.

    None where nothing moved, where the weight was zero, and where it became zero.
    """
    found: list[Growth | None] = []
    for step in range(1, gram.shape[0]):
        along = float(gram[:step, step].sum())
        before, squared = float(gram[:step, :step].sum()), float(gram[step, step])
        relative = (2.0 * along + squared) / before if before > 0.0 else -1.0
        if squared <= 0.0 or relative <= -1.0:
            found.append(None)
            continue
        cosine = along / math.sqrt(before) / math.sqrt(squared)
        found.append(Growth(min(max(cosine, -1.0), 1.0), 0.5 * math.log1p(relative)))
    return found


@final
@dataclass(frozen=True, slots=True)
class LogitGrowth:
    """Fit of the row-centred logits after on those before, without an offset; `agreement` of the largest logits.

    `scale` and `fit` are None where one of the two is constant within every row. `chance` is the agreement of two
    independent predictors with these predictions.
    """

    scale: float | None
    fit: float | None
    agreement: float
    chance: float


def logit_growth(before: Float[Tensor, "rows classes"], after: Float[Tensor, "rows classes"]) -> LogitGrowth:
    """Slope, R² and agreement over rows that belong together; there is at least one."""
    rows, classes = before.shape
    sums, agreeing = torch.zeros(3, dtype=torch.float64), 0
    predicted = torch.zeros(2, classes, dtype=torch.float64)
    step = max(1, _BLOCK_ENTRIES // max(classes, 1))
    for start in range(0, rows, step):
        old, new = (one[start : start + step].to(torch.float64) for one in (before, after))
        chosen = old.argmax(1), new.argmax(1)
        agreeing += int((chosen[0] == chosen[1]).sum())
        predicted += torch.stack([torch.bincount(one, minlength=classes) for one in chosen])
        old, new = ((one - one.mean(1, keepdim=True)).reshape(-1) for one in (old, new))
        sums += torch.stack([old @ old, old @ new, new @ new])
    squared, product, squared_after = sums.tolist()
    chance = float((predicted[0] * predicted[1]).sum()) / rows**2
    if squared <= 0.0 or squared_after <= 0.0:
        return LogitGrowth(None, None, agreeing / rows, chance)
    fit = min(product / squared * (product / squared_after), 1.0)
    return LogitGrowth(product / squared, fit, agreeing / rows, chance)
