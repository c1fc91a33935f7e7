"""k-means: seeded centres by k-means++, Lloyd's iterations, and the nearest centre of any row; float64."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["assigned", "k_means", "lloyd", "spread_centres"]

#: Iterations at most; what moves after that are single rows between neighbouring centres.
_ROUNDS = 100
#: Entries of one tile of distances: 32 MiB.
_TILE_ENTRIES = 1 << 22


def k_means(rows: Float[Tensor, "rows features"], count: int, *, seed: int = 0) -> Float[Tensor, "centres features"]:
    """At most `count` centres, fewer where fewer rows differ; without those that no row is nearest to.

    References: Lloyd (1982); Arthur & Vassilvitskii, k-means++ (2007).
    """
    exact = rows.double()
    centres = lloyd(exact, spread_centres(exact, count, seed=seed))
    return centres[torch.unique(assigned(exact, centres))]


def spread_centres(
    rows: Float[Tensor, "rows features"], count: int, *, seed: int = 0
) -> Float[Tensor, "centres features"]:
    """Rows drawn one after the other, each with probability ∝ squared distance to the nearest drawn before."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(count, generator=generator, dtype=torch.float64)
    chosen = [int(draws[0] * rows.shape[0])]
    nearest = (rows - rows[chosen[0]]).square().sum(1)
    for draw in draws[1:].tolist():
        total = nearest.cumsum(0)
        if float(total[-1]) == 0.0:
            break
        # past the rows of weight 0, which are copies of a centre
        place = int(torch.searchsorted(total, total[-1] * draw, right=True))
        chosen.append(min(place, rows.shape[0] - 1))
        nearest = torch.minimum(nearest, (rows - rows[chosen[-1]]).square().sum(1))
    return rows[torch.tensor(chosen, device=rows.device)]


def lloyd(
    rows: Float[Tensor, "rows features"], centres: Float[Tensor, "centres features"]
) -> Float[Tensor, "centres features"]:
    """Means of the rows nearest to each centre, again and again until no row changes; a centre without rows stays."""
    count, before = centres.shape[0], None
    for _ in range(_ROUNDS):
        place = assigned(rows, centres)
        if before is not None and torch.equal(place, before):
            break
        before = place
        sizes = torch.bincount(place, minlength=count)
        sums = torch.zeros_like(centres).index_add_(0, place, rows)
        centres = torch.where(sizes[:, None] > 0, sums / sizes.clamp_min(1)[:, None], centres)
    return centres


def assigned(rows: Float[Tensor, "rows features"], centres: Float[Tensor, "centres features"]) -> Int[Tensor, " rows"]:
    """The nearest centre of every row, the first of equals."""
    middle = centres.mean(0)
    about = centres - middle
    half = about.square().sum(1) / 2.0
    step = max(1, _TILE_ENTRIES // max(rows.shape[1], centres.shape[0]))
    parts = [
        torch.addmm(half, part.double() - middle, about.T, alpha=-1.0).argmin(1) for part in torch.split(rows, step)
    ]
    return torch.cat(parts)
