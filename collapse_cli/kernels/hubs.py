"""How unevenly rows are found as neighbours, and how unevenly a Gaussian cloud of the same shape would be."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.distinct_rows import content_hash
from collapse_cli.kernels.nearest_rows import nearest_rows, occurrences, skewness

__all__ = ["Hubs", "distinct_count", "gaussian_like", "hubs"]

#: Entries of one tile of Gaussian weights: 8 MiB in float64.
_TILE_ENTRIES = 1 << 20


@final
@dataclass(frozen=True, slots=True)
class Hubs:
    """Of N_k, in how many neighbour lists each row stands: skewness, share of zeros, share held by N_k ≥ 2k, largest.

    References: Radovanović, Nanopoulos & Ivanović, Hubs in space (2010); Flexer & Schnitzer, Choosing ℓp norms in
    high-dimensional spaces based on hub analysis (2015), for the share of hubs.
    """

    skewness: float
    antihub_share: float
    hub_occurrence: float
    largest: int


def hubs(
    queries: Float[Tensor, "queries features"], gallery: Float[Tensor, "gallery features"] | None = None, *, count: int
) -> Hubs:
    """Hubs among the rows of the gallery, by cosine; without a gallery among the queries, no row in its own list."""
    found = nearest_rows(queries, gallery, count=count)
    times = occurrences(found, queries.shape[0] if gallery is None else gallery.shape[0])
    return Hubs(
        skewness(times),
        float((times == 0).double().mean()),
        float(times[times >= 2 * count].sum()) / found.numel(),
        int(times.max()),
    )


def gaussian_like(rows: Float[Tensor, "rows features"], generator: torch.Generator) -> Float[Tensor, "rows features"]:
    """As many Gaussian rows with exactly the mean and covariance of these as parameters, float64.

    x̄ + ZX_c/√N with Z standard normal has covariance X_cᵀX_c/N: no factorisation, whatever the rank.
    """
    exact = rows.double()
    mean = exact.mean(0)
    centred = (exact - mean) / exact.shape[0] ** 0.5
    drawn = torch.empty_like(exact)
    step = max(1, _TILE_ENTRIES // exact.shape[0])
    for start in range(0, exact.shape[0], step):
        block = drawn[start : start + step]
        weights = torch.randn(block.shape[0], exact.shape[0], generator=generator, dtype=torch.float64)
        torch.mm(weights, centred, out=block)
        block += mean
    return drawn


def distinct_count(rows: Float[Tensor, "rows features"]) -> int:
    """How many different rows there are, by their hashes."""
    return int(torch.unique(content_hash(rows)).numel()) if rows.numel() else 0
