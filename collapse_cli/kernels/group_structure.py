"""How much of a cloud of rows follows groups: variance, silhouette, what a readout loses between groups."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.class_moments import ClassMoments
from collapse_cli.kernels.nearest_rows import thinned

__all__ = ["compact_labels", "group_gap", "left_out_accuracy", "mean_silhouette", "share_within", "variance_share"]

#: Entries of one tile of distances: 32 MiB in float64.
_TILE_ENTRIES = 1 << 22
#: Ridge penalty over the mean eigenvalue of the scatter.
_PENALTY = 1e-3


def variance_share(moments: ClassMoments) -> float | None:
    """η² = Σn_g‖m_g − x̄‖²/Σ‖x − x̄‖²: the share of the variance that lies between groups; None if there is none.

    References: Fisher, Statistical Methods for Research Workers (1925), correlation ratio.
    """
    counts = moments.counts.double()
    if counts.numel() == 0:
        return None
    offset = moments.sums.sum(0) / counts.sum()
    between = float(counts @ (moments.sums / counts[:, None] - offset).square().sum(1))
    total = between + float(counts @ moments.variances)
    # rows that are equal up to rounding: relative to their squared length about the shift and the shift's own
    scale = float(moments.squares.sum()) + float(counts.sum()) * float(moments.shift.square().sum())
    return between / total if total > 1e-24 * scale else None


def compact_labels(labels: Int[Tensor, " rows"]) -> tuple[Int[Tensor, " rows"], int]:
    """The labels renumbered from 0 in ascending order, and how many there are."""
    found, place = torch.unique(labels, return_inverse=True)
    return place, found.numel()


def mean_silhouette(rows: Float[Tensor, "rows features"], labels: Int[Tensor, " rows"]) -> float | None:
    """Mean of (b − a)/max(a, b): a the mean distance to the own group, b to the nearest other (Rousseeuw 1987).

    Euclidean, float64, in tiles. A row alone in its group counts 0, as in the original; None for one group.
    """
    place, groups = compact_labels(labels)
    if groups < 2:
        return None
    exact = rows.double() - rows.double().mean(0)
    members = torch.nn.functional.one_hot(place, groups).double()
    counts, squares = members.sum(0), exact.square().sum(1)
    total = 0.0
    step = max(1, _TILE_ENTRIES // rows.shape[0])
    for start in range(0, rows.shape[0], step):
        chosen = slice(start, start + step)
        distances = squares[chosen, None] + squares - 2.0 * exact[chosen] @ exact.T
        # rounding of the difference; equal rows are at distance 0
        distances.masked_fill_(distances < 1e-13 * float(squares.max()), 0.0)
        distances.diagonal(start).zero_()
        sums = distances.sqrt_() @ members
        own = place[chosen, None]
        inside = (sums.gather(1, own) / (counts[own] - 1.0).clamp_min(1.0))[:, 0]
        outside = (sums / counts).scatter_(1, own, torch.inf).amin(1)
        scores = (outside - inside) / torch.maximum(outside, inside).clamp_min(torch.finfo(torch.float64).tiny)
        total += float(scores[counts[place[chosen]] > 1].sum())
    return total / rows.shape[0]


def left_out_accuracy(
    rows: Float[Tensor, "rows features"], labels: Int[Tensor, " rows"], parts: Int[Tensor, " rows"]
) -> float:
    """Accuracy of a ridge readout of one-hot labels, each part judged by the readout of all other parts.

    The residuals of a left-out part are (I − H_pp)⁻¹ times those of the fit to all rows, H the hat matrix with an
    unpenalised intercept: one factorisation for all parts, exact (Cook & Weisberg 1982, section 3.8, for the form).
    """
    place, classes = compact_labels(labels)
    targets = torch.nn.functional.one_hot(place, classes).double()
    exact = rows.double() - rows.double().mean(0)
    penalty = max(_PENALTY * float(exact.square().sum()) / max(exact.shape[1], 1), torch.finfo(torch.float64).tiny)
    design = torch.cat((exact, exact.new_ones(exact.shape[0], 1)), dim=1)
    gram = design.T @ design
    gram.diagonal()[:-1].add_(penalty)
    halves = torch.linalg.solve_triangular(torch.linalg.cholesky(gram), design.T, upper=False).T
    residuals = targets - halves @ (halves.T @ targets)
    right = 0
    for part in torch.unique(parts):
        chosen = (parts == part).nonzero().flatten()
        own = halves[chosen]
        within = torch.eye(chosen.numel(), dtype=torch.float64) - own @ own.T
        scores = targets[chosen] - torch.linalg.solve(within, residuals[chosen])
        right += int((scores.argmax(1) == place[chosen]).sum())
    return right / rows.shape[0]


def share_within(
    rows: Float[Tensor, "rows features"], labels: Int[Tensor, " rows"], groups: Int[Tensor, " rows"]
) -> float | None:
    """η² of the labels after the mean of each group is taken away; None if nothing is left then."""
    exact = rows.double() - rows.double().mean(0)
    left = exact - _means(exact, groups)
    total = float(left.square().sum())
    if total <= 1e-24 * float(exact.square().sum()) or total == 0.0:
        return None
    return float(_means(left, labels).square().sum()) / total


def _means(rows: Float[Tensor, "rows features"], labels: Int[Tensor, " rows"]) -> Float[Tensor, "rows features"]:
    """Per row, the mean of the rows with its label."""
    place, count = compact_labels(labels)
    sums = rows.new_zeros(count, rows.shape[1]).index_add_(0, place, rows)
    means: Tensor = (sums / torch.bincount(place, minlength=count)[:, None])[place]
    return means


def group_gap(
    chosen: tuple[Float[Tensor, "rows features"], Int[Tensor, " rows"], Int[Tensor, " rows"]],
    *,
    most_rows: int,
    least_class_rows: int,
) -> tuple[float, float, int] | str:
    """Accuracy of a readout on random parts, on groups left out, and the rows it used; or why there is none.

    `chosen` are rows, labels and groups. The random parts have the sizes of the groups, so that both readouts are
    fitted on as many rows.
    """
    rows, labels, groups = chosen
    if rows.shape[0] > most_rows:
        kept = thinned(rows.shape[0], most_rows)
        rows, labels, groups = rows[kept], labels[kept], groups[kept]
    place, classes = compact_labels(labels)
    is_kept = torch.bincount(place, minlength=classes)[place] >= least_class_rows
    rows, labels, groups = rows[is_kept], labels[is_kept], groups[is_kept]
    if torch.unique(labels).numel() < 2 or torch.unique(groups).numel() < 2:
        return f"fewer than two classes of {least_class_rows} rows"
    pairs = torch.unique(torch.stack((labels, groups)), dim=1)
    if int(torch.bincount(compact_labels(pairs[0])[0]).min()) < 2:
        return "some label occurs in one group only: confounded"
    if float((rows.double() - rows.double().mean(0)).square().sum()) <= 0.0:
        return "all rows are equal"
    shuffled = groups[torch.randperm(groups.numel(), generator=torch.Generator().manual_seed(0))]
    within, across = (left_out_accuracy(rows, labels, parts) for parts in (shuffled, groups))
    return within, across, rows.shape[0]
