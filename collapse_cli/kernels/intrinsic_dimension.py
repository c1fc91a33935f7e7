"""On how many dimensions points locally lie, from the distances to their nearest neighbours."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.distinct_rows import content_hash
from collapse_cli.kernels.feature_spectrum import covariance_eigenvalues
from collapse_cli.kernels.nearest_rows import nearest_rows, uniform_rows
from collapse_cli.kernels.views import Activations

__all__ = [
    "NEIGHBOURS",
    "DistinctSample",
    "distinct_sample",
    "gaussian_sample",
    "maximum_likelihood",
    "neighbour_distances",
    "two_nearest",
]

#: Neighbours of the maximum-likelihood estimate: the upper end of what Levina & Bickel 2004 average over.
NEIGHBOURS = 20
#: Rows compared with one another: the estimate's standard error is d/√4096 and the products stay in seconds.
_COMPARED_ROWS = 4096
#: Share of the ratios that the line is fitted to: the largest are outliers (Facco et al. 2017).
_KEPT_SHARE = 0.9
#: Entries of one block of differences: 2 MiB stay in the cache.
_BLOCK_ENTRIES = 1 << 18


class DistinctSample(NamedTuple):
    """Different rows of the uniform sample, float64, and how many rows they were of."""

    rows: Float[Tensor, "distinct features"]
    compared: int


def distinct_sample(point: Activations) -> DistinctSample:
    """At most 4,096 sampled rows with exact repetitions dropped: a distance of 0 has no logarithm."""
    stored = uniform_rows(point.read("sample"), "features", _COMPARED_ROWS).flatten(1)
    hashes = content_hash(stored) if stored.shape[0] else torch.zeros(0, dtype=torch.int64)
    _, place = torch.unique(hashes, return_inverse=True)
    first = torch.full((int(place.max()) + 1 if place.numel() else 0,), stored.shape[0], dtype=torch.int64)
    first.scatter_reduce_(0, place, torch.arange(stored.shape[0]), "amin")
    return DistinctSample(stored[first.sort().values].double(), stored.shape[0])


def gaussian_sample(point: Activations, count: int) -> Float[Tensor, "count rank"]:
    """Seeded Gaussian rows with the features' covariance, in the coordinates of its eigenvectors."""
    values = point.get(covariance_eigenvalues)
    scales = values[values > 0.0].sqrt()
    return torch.randn(count, scales.numel(), generator=point.generator(), dtype=torch.float64) * scales


def neighbour_distances(rows: Float[Tensor, "rows features"], count: int) -> Float[Tensor, "rows count"]:
    """Euclidean distances to the `count` nearest other rows, ascending; each from its difference, not from products."""
    nearest = nearest_rows(rows, count=count, by="distance")
    step = max(1, _BLOCK_ENTRIES // max(1, count * rows.shape[1]))
    blocks = [
        (rows[start : start + step, None] - rows[nearest[start : start + step]]).square().sum(2).sqrt()
        for start in range(0, rows.shape[0], step)
    ]
    return torch.cat(blocks).sort(1).values


def two_nearest(distances: Float[Tensor, "rows count"]) -> float | None:
    """TwoNN: the slope through 0 of −ln(1 − i/N) on the i-th smallest ln(r₂/r₁), i up to 90 % (Facco et al. 2017).

    None where the two nearest are equally far, as on a lattice.
    """
    count = distances.shape[0]
    ratios = (distances[:, 1] / distances[:, 0]).log().sort().values[: int(_KEPT_SHARE * count)]
    shares = torch.arange(1, ratios.numel() + 1, dtype=torch.float64) / count
    energy = float(ratios @ ratios)
    return -float(ratios @ torch.log1p(-shares)) / energy if energy > 0.0 else None


def maximum_likelihood(distances: Float[Tensor, "rows count"]) -> float | None:
    """1/mean(1/d), d = (k − 1)/Σ_{j<k} ln(T_k/T_j) of every row (Levina & Bickel 2004).

    The average is that of MacKay & Ghahramani (2005). None where all neighbours are equally far.
    """
    inverse = float((distances[:, -1:] / distances[:, :-1]).log().mean())
    return 1.0 / inverse if inverse > 0.0 else None
