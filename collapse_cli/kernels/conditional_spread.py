"""How outputs vary within one condition and between conditions: variances, probabilities, answers, paired latents."""

import math
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.batches import UNLABELLED
from collapse_cli.kernels.nearest_rows import uniform_rows
from collapse_cli.kernels.softmax_rows import pieces, softmax_rows
from collapse_cli.kernels.views import Activations

__all__ = [
    "GROUP_SIZE",
    "ViewInformation",
    "WithinGroups",
    "answer_entropy",
    "direction_spread",
    "paired_groups",
    "paired_rows",
    "view_information",
    "within_groups",
    "within_sums",
]

#: Outputs of one condition from which it is looked at.
GROUP_SIZE = 4


@final
@dataclass(frozen=True, slots=True)
class WithinGroups:
    """Sums of squares about the mean of the group and about the mean of all, of the groups of four outputs or more."""

    within: float
    total: float
    rows: int
    variances: Float[Tensor, " groups"]

    @property
    def groups(self) -> int:
        """How many groups."""
        return self.variances.numel()

    @property
    def share(self) -> float:
        """[SS_within/(M−G)]/[SS_total/(M−1)]; 0 where everything is equal."""
        if self.total == 0.0:
            return 0.0
        return (self.within / (self.rows - self.groups)) / (self.total / (self.rows - 1))

    @property
    def total_variance(self) -> float:
        """SS_total/(M−1)."""
        return self.total / (self.rows - 1)


def within_groups(moments: Any) -> WithinGroups:
    """One-way analysis of variance from class moments, traces of the covariances; no rows where no group is large."""
    large = moments.counts >= GROUP_SIZE
    counts, means = moments.counts[large].double(), moments.means[large]
    rows = int(counts.sum())
    if rows == 0:
        return WithinGroups(0.0, 0.0, 0, counts)
    sums = moments.variances[large] * counts
    # what is below the rounding of the subtraction that variances are made of is nothing
    rounding = 4.0 * torch.finfo(torch.float64).eps * moments.squares[large]
    sums = torch.where(sums > rounding, sums, 0.0)
    middle = counts @ means / rows
    between = float(counts @ (means - middle).square().sum(1))
    within = float(sums.sum())
    return WithinGroups(within, within + between, rows, sums / (counts - 1.0))


@final
@dataclass(frozen=True, slots=True)
class ViewInformation:
    """Mean over groups of H(mean p) − mean H(p), in nats; E H(p) and H(E p) over all rows; groups and rows."""

    value: float
    quality: float
    variety: float
    groups: int
    rows: int


def view_information(logits: Float[Tensor, "rows classes"], groups: Int[Tensor, " rows"]) -> ViewInformation | None:
    """How much the class depends on the view of a group of four or more; None where there is no such group.

    Rows with fewer than two classes above −∞ are left out. Reference: Wang et al., Taming Mode Collapse in Score
    Distillation (2024), for quality E H(p) and variety H(E p).
    """
    kept = torch.cat([*pieces(logits), torch.zeros(0, dtype=torch.int64)])
    kept = kept[~torch.isin(groups[kept], torch.tensor(UNLABELLED))]
    found, place, sizes = torch.unique(groups[kept], return_inverse=True, return_counts=True)
    is_chosen = (sizes >= GROUP_SIZE)[place]
    if not bool(is_chosen.any()):
        return None
    kept, place = kept[is_chosen], place[is_chosen]
    mass = torch.zeros(found.numel(), logits.shape[1], dtype=torch.float64)
    entropies = torch.zeros(found.numel(), dtype=torch.float64)
    step = max(1, (1 << 20) // logits.shape[1])
    for rows, slots in zip(torch.split(kept, step), torch.split(place, step), strict=True):
        soft = softmax_rows(logits[rows])
        mass.index_add_(0, slots, soft.probabilities)
        entropies.index_add_(0, slots, soft.entropy)
    large = sizes >= GROUP_SIZE
    counts = torch.bincount(place, minlength=found.numel())[large].double()
    mass, entropies = mass[large], entropies[large]
    gains = _entropy(mass / counts[:, None]) - entropies / counts
    rows_total = int(counts.sum())
    return ViewInformation(
        max(0.0, float(gains.mean())),
        float(entropies.sum()) / rows_total,
        float(_entropy(mass.sum(0, keepdim=True) / rows_total)),
        counts.numel(),
        rows_total,
    )


def _entropy(shares: Float[Tensor, "groups classes"]) -> Float[Tensor, " groups"]:
    result: Tensor = torch.special.entr(shares).sum(1)
    return result


def answer_entropy(counts: Int[Tensor, "groups answers"]) -> tuple[float, int] | None:
    """Mean over groups of four answers or more of H(answers)/log n, and their number; None without such a group."""
    sizes = counts.sum(1)
    large = counts[sizes >= GROUP_SIZE].double()
    if large.shape[0] == 0:
        return None
    totals = large.sum(1)
    return float((_entropy(large / totals[:, None]) / totals.log()).mean()), large.shape[0]


def paired_rows(point: Activations) -> tuple[Tensor, Tensor]:
    """The rows of samples and of reference that have the same place in the dump and are kept of both, in their order.

    Both samples are drawn by the same hashes of the place, so that they keep the same rows.
    """
    both = [point.read(f"sample({role})") for role in ("samples", "reference")]
    places = [sample.indices[sample.is_uniform] for sample in both]
    rows = [
        uniform_rows(sample, role)[torch.isin(own, other)].flatten(1).to(sample.device)
        for sample, role, own, other in zip(both, ("samples", "reference"), places, reversed(places), strict=True)
        if sample.count
    ]
    if len(rows) < 2:
        return torch.zeros(0, 0), torch.zeros(0, 0)
    return rows[0], rows[1]


def paired_groups(point: Activations) -> Int[Tensor, " rows"]:
    """The condition of each of the paired rows, in their order."""
    samples, reference = (point.read(f"sample({role})") for role in ("samples", "reference"))
    is_paired = torch.isin(samples.indices[samples.is_uniform], reference.indices[reference.is_uniform])
    return uniform_rows(samples, "groups").reshape(-1)[is_paired].long().cpu()


def within_sums(rows: Float[Tensor, "rows features"], groups: Int[Tensor, " rows"]) -> WithinGroups:
    """The same sums of squares from rows with their groups; rows without a group are left out."""
    is_known = ~torch.isin(groups, torch.tensor(UNLABELLED))
    found, place, sizes = torch.unique(groups[is_known], return_inverse=True, return_counts=True)
    kept = (sizes >= GROUP_SIZE)[place]
    values, place = rows.to("cpu").double()[is_known][kept], place[kept]
    means = torch.zeros(found.numel(), rows.shape[1], dtype=torch.float64).index_add_(0, place, values)
    means /= sizes[:, None]
    squares = (values - means[place]).square().sum(1)
    sums = torch.zeros(found.numel(), dtype=torch.float64).index_add_(0, place, squares)[sizes >= GROUP_SIZE]
    counts = sizes[sizes >= GROUP_SIZE].double()
    total = float((values - values.mean(0)).square().sum()) if values.numel() else 0.0
    return WithinGroups(float(squares.sum()), total, values.shape[0], sums / (counts - 1.0))


def direction_spread(left: Float[Tensor, "rows features"], right: Float[Tensor, "rows features"]) -> float | None:
    """1 − ‖mean of unit differences‖², rows without a difference left out; None with fewer than two others."""
    total, count = torch.zeros(left.shape[1], dtype=torch.float64, device=left.device), 0
    for one, other in zip(torch.split(left, 4096), torch.split(right, 4096), strict=True):
        differences = one.double() - other.double()
        norms = differences.norm(dim=1)
        moved = norms > 0.0
        total += (differences[moved] / norms[moved, None]).sum(0)
        count += int(moved.sum())
    if count < 2:
        return None
    return max(0.0, 1.0 - math.fsum((total / count).square().tolist()))
