"""How well a class is read from features: by a held-out ridge, by the nearest mean, by the nearest rows.

All three are functions of a hook point that has the need `FOLDS`, `class_moments` and `sample`. A class takes
part when it has 20 rows in each fold; classes are in order of descending size, so that a tie goes to the larger one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.batches import Batch
from collapse_cli.kernels.class_geometry import one_hot_cross
from collapse_cli.kernels.class_moments import ClassMoments
from collapse_cli.kernels.views import Activations

__all__ = [
    "CLASS_ROWS",
    "FOLDS",
    "NEIGHBOURS",
    "Readout",
    "centroid_readout",
    "generalised_cross_validation",
    "neighbour_readout",
    "probed_classes",
    "ridge_readout_accuracy",
    "variance_share",
]

#: Class moments of two halves of the rows, by group where there are groups: what is fitted on rows of one patient or
#: object is never tested on others of it.
FOLDS = "folds(class_moments,by=groups)"
#: Rows of a class in each fold from which on it takes part.
CLASS_ROWS = 20
#: Neighbours that vote.
NEIGHBOURS = 10
#: Rows whose neighbours are looked for: a share of 2048 has a standard error of at most .011.
_QUERIES = 2048
#: Rows of one block of a pass over the sample.
_BLOCK = 512
#: Penalties tried, times the largest eigenvalue: half decades, from what does not regularise to what leaves the prior.
_PENALTIES = torch.logspace(-7.0, 2.0, 19, dtype=torch.float64)
#: Cosines of unit rows closer than this are equal up to the rounding of float64 sums.
_TIE = 1e-12


@final
@dataclass(frozen=True, slots=True)
class Readout:
    """Share of `rows` whose class was found, the share of the largest class among them, and Σp² of their classes."""

    accuracy: float
    rows: int
    majority: float
    squared_shares: float


def probed_classes(point: Activations) -> Int[Tensor, " classes"]:
    """Labels with at least 20 rows in each fold, the largest class first, equal ones in order of their label."""
    folds = point.read(FOLDS)
    first, second = folds.first, folds.second
    shared = first.labels[torch.isin(first.labels, second.labels)]
    counts = torch.stack([_counts(moments, shared) for moments in (first, second)])
    is_kept = counts.amin(0) >= CLASS_ROWS
    order = counts.sum(0)[is_kept].argsort(descending=True, stable=True)
    kept: Tensor = shared[is_kept][order]
    return kept


def _counts(moments: ClassMoments, labels: Int[Tensor, " classes"]) -> Int[Tensor, " classes"]:
    counts: Tensor = moments.counts[torch.searchsorted(moments.labels, labels)]
    return counts


def _sampled(point: Activations) -> Batch:
    """The uniform sample rows whose class takes part: features as stored, `places` of the class, groups if any."""
    sample, classes = point.read("sample"), point.get(probed_classes)
    labels = sample.rows("labels").reshape(-1).long()
    ascending, order = classes.sort()
    place = torch.searchsorted(ascending, labels).clamp_max(max(classes.numel() - 1, 0))
    is_kept = sample.is_uniform & torch.isin(labels, classes)
    roles = {"features": sample.rows("features")[is_kept], "places": order[place[is_kept]]}
    if "groups" in point.shapes:
        roles["groups"] = sample.rows("groups")[is_kept]
    return Batch(roles, indices=sample.indices[is_kept])


def _readout(hits: int, places: Int[Tensor, " rows"]) -> Readout:
    shares = torch.bincount(places).double() / max(places.numel(), 1)
    return Readout(hits / places.numel(), places.numel(), float(shares.max()), float(shares.square().sum()))


def ridge_readout_accuracy(point: Activations) -> Readout | None:
    """One-hot ridge with an intercept, fitted on each fold's moments and tested on the other fold's sample rows.

    The penalty is that of least generalised cross-validation on the fold fitted (Golub, Heath & Wahba 1979). None with
    fewer than two classes.

    Raises:
        NotConverged: LAPACK gave up.
    """
    classes = point.get(probed_classes)
    if classes.numel() < 2:
        return None
    rows, folds = _sampled(point), point.read(FOLDS)
    hits, tested = 0, []
    for fitted, other in zip((folds.second, folds.first), rows.halves(folds.seed, folds.by), strict=True):
        coefficients, centre, prior = _fitted(fitted, classes)
        tested.append(other.roles["places"])
        for block, answer in _blocks(other.roles["features"], tested[-1]):
            hits += int(((block - centre) @ coefficients).add_(prior).argmax(1).eq(answer).sum())
    everything = torch.cat(tested)
    return _readout(hits, everything) if everything.numel() else None


def _blocks(
    features: Tensor, places: Int[Tensor, " rows"]
) -> Iterator[tuple[Float[Tensor, "rows features"], Int[Tensor, " rows"]]]:
    for start in range(0, features.shape[0], _BLOCK):
        block = features[start : start + _BLOCK]
        yield block.reshape(block.shape[0], -1).double(), places[start : start + _BLOCK]


def _fitted(moments: ClassMoments, classes: Int[Tensor, " classes"]) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients of the classes that take part, x̄ and the shares ȳ: scores are ȳ + (x − x̄)·coefficients."""
    counts, sums = moments.counts, moments.sums
    scatter, cross = moments.centred_scatter, one_hot_cross(sums, counts)
    columns = torch.searchsorted(moments.labels, classes)
    centre = moments.shift + sums.sum(0) / moments.count
    prior = (counts.double() / moments.count)[columns]
    # entries at the rounding of the mean are no variance
    if float(scatter.trace()) <= moments.count * float((64 * torch.finfo(torch.float64).eps * centre).square().sum()):
        return torch.zeros(cross.shape[0], classes.numel(), dtype=torch.float64), centre, prior
    try:
        eigenvalues, directions = torch.linalg.eigh(scatter)
    except LinAlgError as error:
        raise NotConverged("the ridge system has no spectrum", where="probe", got=str(error)) from error
    eigenvalues = eigenvalues.clamp_min(0.0)
    rotated = directions.T @ cross
    penalties = _PENALTIES * eigenvalues[-1]
    variance = moments.count - float(counts.double().square().sum()) / moments.count
    scores = generalised_cross_validation(
        eigenvalues, rotated.square().sum(1), penalties, count=moments.count, variance=variance
    )
    penalty = penalties[scores.argmin()]
    return directions @ (rotated[:, columns] / (eigenvalues + penalty)[:, None]), centre, prior


def generalised_cross_validation(
    eigenvalues: Float[Tensor, " features"],
    energies: Float[Tensor, " features"],
    penalties: Float[Tensor, " penalties"],
    *,
    count: int,
    variance: float,
) -> Float[Tensor, " penalties"]:
    """N‖(I−H)Y‖²/(N − tr H)² of ridge with an intercept; `energies` ‖vᵢᵀX_cᵀY_c‖², `variance` ‖Y_c‖² (Golub 1979)."""
    shrunk = 1.0 / (eigenvalues + penalties[:, None])
    explained = (energies * (2.0 * shrunk - eigenvalues * shrunk.square())).sum(1)
    degrees = count - 1.0 - (eigenvalues * shrunk).sum(1)
    return count * (variance - explained).clamp_min(0.0) / degrees.clamp_min(1e-9 * count).square()


def centroid_readout(point: Activations) -> Readout | None:
    """Nearest class mean, each row left out of its own: ‖x−m_k‖²(n_k/(n_k−1))². None with fewer than two classes."""
    classes = point.get(probed_classes)
    if classes.numel() < 2:
        return None
    rows = _sampled(point)
    if rows.count == 0:
        return None
    features, places = rows.roles["features"], rows.roles["places"]
    moments = point.read("class_moments")
    chosen = torch.searchsorted(moments.labels, classes)
    means, counts = moments.means[chosen], moments.counts[chosen].double()
    centre = means.mean(0)
    means, length = means - centre, float(means.square().sum(1).max())
    own = (counts / (counts - 1.0)).square()
    hits = 0
    for block, answer in _blocks(features, places):
        rounding = 64 * torch.finfo(torch.float64).eps * (block.square().sum(1) + length)
        shifted = block - centre
        squares = shifted.square().sum(1)[:, None] - 2.0 * shifted @ means.T + means.square().sum(1)
        every = torch.arange(answer.numel())
        squares[every, answer] *= own[answer]
        # the first of those that rounding cannot tell from the nearest is the largest class
        is_nearest = squares <= (squares.amin(1) + rounding)[:, None]
        hits += int(is_nearest.int().argmax(1).eq(answer).sum())
    return _readout(hits, places)


def neighbour_readout(point: Activations) -> Readout | None:
    """Majority of the 10 rows with the largest cosine, the row itself left out; None with fewer than two classes.

    Rows at the same cosine as the tenth share the seats that are left, the row itself among them if it is one of them:
    where all rows are equal, the vote is the share of the classes.
    """
    classes = point.get(probed_classes)
    if classes.numel() < 2:
        return None
    rows = _sampled(point)
    if rows.count <= NEIGHBOURS:
        return None
    features, places = rows.roles["features"], rows.roles["places"]
    units = features.reshape(features.shape[0], -1).double()
    norms: Tensor = torch.linalg.vector_norm(units, dim=1, keepdim=True)
    units = units / norms.masked_fill(norms == 0.0, 1.0)
    count = units.shape[0]
    queries = torch.arange(count) if count <= _QUERIES else torch.linspace(0, count - 1, _QUERIES).long()
    classes_of = torch.nn.functional.one_hot(places, classes.numel()).float()
    hits = 0
    for asked in torch.split(queries, _BLOCK):
        votes = _votes(units, asked, places, classes_of)
        # votes are sums of shares: equal ones may differ by rounding
        hits += int((votes >= votes.amax(1, keepdim=True) - 1e-4).int().argmax(1).eq(places[asked]).sum())
    return _readout(hits, places[queries])


def _votes(
    units: Float[Tensor, "rows features"],
    asked: Int[Tensor, " asked"],
    places: Int[Tensor, " rows"],
    classes_of: Float[Tensor, "rows classes"],
) -> Float[Tensor, "asked classes"]:
    cosines = units[asked] @ units.T
    itself = cosines[torch.arange(asked.numel()), asked].clone()
    cosines[torch.arange(asked.numel()), asked] = -2.0
    nearest = cosines.topk(min(NEIGHBOURS + 1, units.shape[0] - 1), dim=1)
    last = nearest.values[:, NEIGHBOURS - 1]
    votes = torch.zeros(asked.numel(), classes_of.shape[1])
    votes.scatter_add_(1, places[nearest.indices[:, :NEIGHBOURS]], torch.ones(asked.numel(), NEIGHBOURS))
    is_tied = (
        nearest.values[:, -1] >= last - _TIE
        if nearest.values.shape[1] > NEIGHBOURS
        else torch.ones_like(last, dtype=torch.bool)
    )
    tied = is_tied.nonzero().flatten()
    if tied.numel():
        cosines, bound = cosines[tied], last[tied, None]
        above = (cosines > bound + _TIE).float()
        cosines[torch.arange(tied.numel()), asked[tied]] = itself[tied]
        level = ((cosines - bound).abs() <= _TIE).float()
        seats = (NEIGHBOURS - above.sum(1, keepdim=True)) / level.sum(1, keepdim=True)
        votes[tied] = above @ classes_of + seats * (level @ classes_of)
    return votes


def variance_share(moments: ClassMoments) -> float | None:
    """η² = tr(between)/tr(total) about the mean of the labelled rows; None if all rows are equal up to rounding."""
    counts, sums = moments.counts.double(), moments.sums
    if moments.count < 2:
        return None
    offset = sums.sum(0) / moments.count
    total = float(moments.squares.sum()) - moments.count * float(offset.square().sum())
    rounding = (64 * torch.finfo(torch.float64).eps) * (moments.shift + offset).abs()
    if total <= moments.count * float(rounding.square().sum()):
        return None
    between = float((counts[:, None] * (sums / counts[:, None] - offset).square()).sum())
    return min(max(between / total, 0.0), 1.0)
