"""What a run of classifiers still knows of each of its tasks, and how far its answers moved from the first member's."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collapse_cli.kernels.batches import UNLABELLED
from collapse_cli.kernels.views import Activations

__all__ = [
    "Accuracies",
    "accuracies",
    "divergences",
    "growth_advantage",
    "is_in_groups",
    "maximisation_bias",
    "retention_advantage",
]

#: A residual below this share of the largest magnitude is rounding.
_ROUNDING: Final = 1e-12


@final
@dataclass(frozen=True, slots=True)
class Accuracies:
    """Accuracy of every member (stage) on every task, the rows it comes from, and the tasks that members lack."""

    tasks: tuple[int, ...]
    shares: Float[Tensor, "stages tasks"]
    rows: Int[Tensor, " tasks"]
    classes: int
    left_out: int


def accuracies(members: Sequence[Activations], least: int) -> Accuracies:
    """From the uniformly kept rows of logits, labels and groups; tasks with so many labelled rows in every member."""
    found = [_by_task(member) for member in members]
    every = set().union(*found) if found else set()
    tasks = tuple(sorted(task for task in every if all(one.get(task, (0, 0))[1] >= least for one in found)))
    right = [[one[task][0] / one[task][1] for task in tasks] for one in found]
    rows = [min(one[task][1] for one in found) for task in tasks]
    classes = members[0].shapes["logits"][-1]
    shares = torch.tensor(right, dtype=torch.float64).reshape(len(found), len(tasks))
    return Accuracies(tasks, shares, torch.tensor(rows, dtype=torch.int64), classes, len(every) - len(tasks))


def _by_task(member: Activations) -> dict[int, tuple[int, int]]:
    """Right answers and labelled rows of every task."""
    sample = member.read("sample(logits,groups)")
    kept = sample.is_uniform
    if not bool(kept.any()):
        return {}
    logits, labels = sample.rows("logits")[kept], sample.rows("labels")[kept].reshape(-1).long()
    groups = sample.rows("groups")[kept].reshape(-1).long()
    is_used = torch.ones_like(labels, dtype=torch.bool)
    for unlabelled in UNLABELLED:
        is_used &= (labels != unlabelled) & (groups != unlabelled)
    is_right = logits.flatten(1).argmax(1) == labels
    tasks, place = torch.unique(groups[is_used], return_inverse=True)
    rows = torch.bincount(place, minlength=tasks.numel()).tolist()
    right = torch.bincount(place, weights=is_right[is_used].double(), minlength=tasks.numel()).tolist()
    return {task: (int(r), int(n)) for task, r, n in zip(tasks.tolist(), right, rows, strict=True)}


def maximisation_bias(share: float, rows: int, stages: int) -> float:
    """How far the best of so many binomial shares of so many rows lies above their expectation, if all are equal.

    E max = Σ_k (1 − F(k)^m)/n, exact for independent stages; the stages of one run share their rows and lie nearer.
    """
    if share <= 0.0 or share >= 1.0 or stages < 1:
        return 0.0
    at = torch.arange(rows + 1, dtype=torch.float64)
    ways = math.lgamma(rows + 1) - torch.lgamma(at + 1) - torch.lgamma(rows - at + 1)
    cumulated = (ways + at * math.log(share) + (rows - at) * math.log1p(-share)).exp().cumsum(0).clamp_max(1.0)
    return float((1.0 - cumulated[:-1].pow(stages)).sum()) / rows - share


def retention_advantage(ages: Sequence[int], shares: Sequence[float], floor: float) -> float:
    """AICc of exponential forgetting, log a = α − λ·age, less that of a power law, log a = α − λ·log(1 + age).

    The accuracies are means over all tasks of that age, not below `floor`: half a right answer.
    """
    logs = [math.log(max(share, floor)) for share in shares]
    return _advantage([float(age) for age in ages], [math.log1p(age) for age in ages], logs)


def growth_advantage(steps: Sequence[float], values: Sequence[float]) -> float:
    """AICc of growth in proportion to steps (> 0) less that of growth with their logarithm."""
    return _advantage(list(steps), [math.log(step) for step in steps], values)


def _advantage(left: Sequence[float], right: Sequence[float], values: Sequence[float]) -> float:
    """n·ln of the ratio of residuals of two straight lines: their corrections for the sample size are equal."""
    residuals = [_residual(at, values) for at in (left, right)]
    return len(values) * math.log(residuals[0] / residuals[1])


def _residual(at: Sequence[float], values: Sequence[float]) -> float:
    x, y = torch.tensor(at, dtype=torch.float64), torch.tensor(values, dtype=torch.float64)
    x, centred = x - x.mean(), y - y.mean()
    floor = max(float(y.abs().max()) * _ROUNDING, 1e-150) ** 2 * len(values)
    slope = (x * centred).sum() / x.square().sum()
    return max(float((centred - slope * x).square().sum()), floor)


def is_in_groups(member: Activations, groups: Sequence[int]) -> Bool[Tensor, " rows"]:
    """Which of the rows that are kept uniformly are of those groups."""
    sample = member.read("sample(logits,groups)")
    return torch.isin(sample.rows("groups")[sample.is_uniform].reshape(-1).long(), torch.tensor(groups))


def divergences(reference: Activations, member: Activations) -> Float[Tensor, " rows"] | None:
    """KL(p_ref‖p) of every uniformly kept row, nats, none negative; None where the rows are not the same ones.

    Every term is taken as p(e^{−d} − 1 + d), d = log p − log q, whose sum is the divergence and which never is below 0.
    A class that only one of the two masks by −∞ makes it infinite.
    """
    left, right = (one.read("sample(logits,groups)") for one in (reference, member))
    if left.count != right.count or not torch.equal(left.indices, right.indices):
        return None
    kept = left.is_uniform
    for role in ("ids", "groups"):
        if role in reference.shapes and role in member.shapes and not torch.equal(left.rows(role), right.rows(role)):
            return None
    logs = [one.rows("logits")[kept].flatten(1).double() for one in (left, right)]
    if logs[0].shape != logs[1].shape:
        return None
    p, q = (rows.log_softmax(1) for rows in logs)
    result: Tensor = _terms(p, q).sum(1)
    return result


def _terms(p: Float[Tensor, "rows classes"], q: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
    is_masked: Bool[Tensor, "rows classes"] = p == -torch.inf
    distance = (p - q).masked_fill(is_masked, 0.0)
    terms = p.exp() * (torch.expm1(-distance) + distance)
    # where p is 0 what is left of p(e^{−d} − 1 + d) is q
    return torch.where(is_masked, q.exp(), terms)
