"""Whether a transformation can be read from two views, and whether a prediction finds its own view among others."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.class_geometry import ridge_readout

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Ranking", "held_out_readout", "neighbour_differences", "ranking", "reciprocal_rank_null"]

#: Ridge penalty as a share of the mean variance of a regressor: views that are equal leave no inverse without it.
_PENALTY = 1e-6
#: What varies by a smaller share of its energy does not vary: float64 leaves (2.2e-16)² of every entry, and N of them.
_CONSTANT = 1e-24
#: Relative difference of squared distances that rounding to float64 could have made.
_ROUNDING = 1e-12


def held_out_readout(fit: Mapping[tuple[str, str], Any], test: Mapping[tuple[str, str], Any]) -> float | None:
    """Mean R² of ridge regression of every parameter on both views, fitted on one half of the rows, on the other half.

    Both are `Moments` by (role, role) and `CrossMoments` by (left, right), of view_a, view_b and transformation.
    None where no parameter varies.
    """
    gram, cross, means = _joint(fit)
    energy = sum(float(fit[role, role].squared_norm_sum) for role in ("view_a", "view_b"))
    spread = float(gram.trace())
    if spread <= _CONSTANT * energy:
        coefficients = torch.zeros_like(cross)
    else:
        coefficients = ridge_readout(gram, cross, alpha=_PENALTY * spread / gram.shape[0])
    test_gram, test_cross, test_means = _joint(test)
    target = test["transformation", "transformation"]
    total = target.centred_scatter.diagonal()
    varies = total > _CONSTANT * float(target.squared_norm_sum)
    if not bool(varies.any()):
        return None
    step = test_means[1] - means[1] - (test_means[0] - means[0]) @ coefficients
    residual = total - 2.0 * (coefficients * test_cross).sum(0) + (coefficients * (test_gram @ coefficients)).sum(0)
    residual = residual + target.count * step.square()
    return float((1.0 - residual[varies] / total[varies]).mean())


def _joint(moments: Mapping[tuple[str, str], Any]) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Centred scatter of [a, b], its cross with the parameters, and the means of both."""
    a, b, g = (moments[role, role] for role in ("view_a", "view_b", "transformation"))
    across = moments["view_a", "view_b"].centred_cross
    top = torch.cat((a.centred_scatter, across), 1)
    bottom = torch.cat((across.T, b.centred_scatter), 1)
    cross = torch.cat([moments[role, "transformation"].centred_cross for role in ("view_a", "view_b")])
    return torch.cat((top, bottom)), cross, (torch.cat((a.mean, b.mean)), g.mean)


@final
@dataclass(frozen=True, slots=True)
class Ranking:
    """Mean reciprocal rank and hits of predictions among the views of their object, with what chance gives.

    `error` is the standard error of the mean reciprocal rank by chance.
    """

    reciprocal_rank: float
    hit_at_1: float
    hit_at_5: float
    chance: float
    chance_at_1: float
    chance_at_5: float
    error: float
    rows: int
    objects: int


def reciprocal_rank_null(views: int) -> tuple[float, float]:
    """Mean and variance of 1/rank for a uniform rank among V: H_V/V (.0900 at V = 50)."""
    inverse = 1.0 / torch.arange(1, views + 1, dtype=torch.float64)
    mean = float(inverse.mean())
    return mean, max(float(inverse.square().mean()) - mean**2, 0.0)


def ranking(
    predictions: Float[Tensor, "rows features"],
    targets: Float[Tensor, "rows features"],
    objects: Int[Tensor, " rows"],
    *,
    min_views: int,
) -> Ranking | None:
    """Where each prediction's own target stands among all targets of the same object, by Euclidean distance.

    t tied targets behind c closer ones share their ranks: the reciprocal rank is (H_{c+t} − H_c)/t, the hit at k is the
    part of them within k, so that a prediction that is the same for all views is at chance. Objects of fewer than
    `min_views` rows are left out; None if that leaves none.
    """
    longest = max((places.numel() for places in _groups(objects)), default=0)
    inverse = 1.0 / torch.arange(1, longest + 1, dtype=torch.float64)
    harmonic = torch.cat((inverse.new_zeros(1), inverse.cumsum(0)))
    found, used, rows = torch.zeros(7, dtype=torch.float64), 0, 0
    for places in _groups(objects):
        views = places.numel()
        if views < min_views:
            continue
        closer, tied = _standing(predictions[places].double(), targets[places].double())
        reciprocal = (harmonic[closer + tied] - harmonic[closer]) / tied
        hits = [((k - closer) / tied).clamp(0.0, 1.0) for k in (1, 5)]
        mean, variance = reciprocal_rank_null(views)
        chances = torch.tensor([mean, 1 / views, min(5 / views, 1.0), variance], dtype=torch.float64)
        found += torch.cat((torch.stack([reciprocal.sum(), *(hit.sum() for hit in hits)]), views * chances))
        used += 1
        rows += views
    if used == 0:
        return None
    means = [float(value) / rows for value in found]
    return Ranking(
        reciprocal_rank=means[0],
        hit_at_1=means[1],
        hit_at_5=means[2],
        chance=means[3],
        chance_at_1=means[4],
        chance_at_5=means[5],
        error=math.sqrt(means[6] / rows),
        rows=rows,
        objects=used,
    )


def _groups(objects: Int[Tensor, " rows"]) -> "Iterator[Int[Tensor, ' members']]":
    order = objects.argsort(stable=True)
    _, counts = torch.unique_consecutive(objects[order], return_counts=True)
    first = 0
    for count in counts.tolist():
        yield order[first : first + count]
        first += count


def _standing(
    predictions: Float[Tensor, "views features"], targets: Float[Tensor, "views features"]
) -> tuple[Int[Tensor, " views"], Int[Tensor, " views"]]:
    """How many targets are closer to each prediction than its own, and how many tie with it, itself included."""
    # not by the dot product, whose rounding would break ties
    distances: Tensor = torch.cdist(predictions, targets, compute_mode="donot_use_mm_for_euclid_dist").square()
    own = distances.diagonal()[:, None]
    tolerance = _ROUNDING * (targets.square().sum(1).max() + predictions.square().sum(1).max())
    closer: Tensor = (distances < own - tolerance).sum(1)
    tied: Tensor = ((distances - own).abs() <= tolerance).sum(1)
    return closer, tied


def neighbour_differences(
    predictions: Float[Tensor, "rows features"], objects: Int[Tensor, " rows"]
) -> Float[Tensor, " pairs"]:
    """‖p − p'‖ over the mean of ‖p‖ and ‖p'‖, for rows of one object that follow each other; 0 where both are zero."""
    order = objects.argsort(stable=True)
    rows, keys = predictions[order].double(), objects[order]
    same = keys[1:] == keys[:-1]
    differences: Tensor = (rows[1:] - rows[:-1]).norm(dim=1)[same]
    norms: Tensor = rows.norm(dim=1)
    scale = ((norms[1:] + norms[:-1]) / 2.0)[same]
    return differences / torch.where(scale > 0.0, scale, 1.0)
