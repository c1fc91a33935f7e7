"""Several views of every sample: how close they are, what of the variance lies between samples, and the order of pairs.

A stack is samples × views × features, float64.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged

__all__ = ["between_share", "between_share_null", "misordered_share", "multi_alignment", "singular_values"]

#: Entries of one tile of the matrix of pairs: 8 MiB in float64.
_TILE_ENTRIES = 1 << 20


def multi_alignment(units: Float[Tensor, "samples views features"]) -> float:
    """Mean over pairs of views of ‖z_l − z_l'‖², by (2/(V(V−1)))(V·Σ‖z_l‖² − ‖Σz_l‖²); 0 for equal views."""
    views = units.shape[1]
    own, total = units.square().sum((1, 2)), units.sum(1).square().sum(1)
    return max(float((views * own - total).mean()) * 2.0 / (views * (views - 1)), 0.0)


def between_share(stack: Float[Tensor, "samples views features"]) -> tuple[float, float] | None:
    """Variance of the means of samples over all variance, and the participation ratio of the covariance of all rows.

    None where nothing varies beyond rounding.
    """
    samples, views, width = stack.shape
    rows = stack.reshape(samples * views, width)
    centred = rows - rows.mean(0)
    scatter = centred.T @ centred
    total = float(scatter.trace())
    # float64 leaves 2.2e-16 of every entry, squared
    if total <= float(rows.square().sum()) * 1e-28:
        return None
    means = centred.reshape(samples, views, width).mean(1)
    share = views * float(means.square().sum()) / total
    return min(share, 1.0), total**2 / float(scatter.square().sum())


def between_share_null(samples: int, views: int, directions: float) -> tuple[float, float]:
    """Mean and standard error of `between_share` for Gaussian views that have nothing to do with each other.

    The share of (N−1) of NV−1 degrees of freedom in each of D directions is a Beta variable with a = (N−1)D/2 and
    b = N(V−1)D/2; D is the participation ratio where directions differ.
    """
    a, b = (samples - 1) * directions / 2.0, samples * (views - 1) * directions / 2.0
    return a / (a + b), math.sqrt(a * b / (a + b + 1.0)) / (a + b)


def singular_values(rows: Float[Tensor, "rows features"]) -> Float[Tensor, " rank"]:
    """Singular values of the uncentred rows by the Gram of the smaller side, descending; below 1e-8·√side they are 0.

    Raises:
        NotConverged: LAPACK gave up.
    """
    gram = rows.T @ rows if rows.shape[0] >= rows.shape[1] else rows @ rows.T
    try:
        values: Tensor = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0.0)
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", where="views", got=str(error)) from error
    floor = gram.shape[0] * torch.finfo(torch.float64).eps * values[:1]
    return torch.where(values > floor, values, 0.0).sqrt()


def misordered_share(units: Float[Tensor, "samples views features"]) -> float:
    """Share of the negatives that are nearer to their anchor than its positive is, ties counting half.

    Anchors are every view of every sample, the positive is the sample's next view, the negatives are the same view of
    all other samples. 0.5 where views of one sample are like those of any.
    """
    samples, views, _ = units.shape
    step, wrong = max(1, _TILE_ENTRIES // samples), 0.0
    for view in range(views):
        anchors, others = units[:, view], units[:, (view + 1) % views]
        squares = others.square().sum(1)
        for first in range(0, samples, step):
            # ‖z−u‖² without ‖z‖², which is the same for all of an anchor's pairs
            distances = squares - 2.0 * (anchors[first : first + step] @ others.T)
            positive = distances.diagonal(first)[:, None]
            # what rounding alone makes of equal distances is a tie
            differences = distances - positive
            nearer, ties = differences < -1e-12, differences.abs() <= 1e-12
            wrong += float(nearer.sum()) + 0.5 * (float(ties.sum()) - differences.shape[0])
    return wrong / (views * samples * (samples - 1))
