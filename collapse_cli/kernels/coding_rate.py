"""Coding rate of unit rows, and what splitting them into classes saves (MCR², Yu et al. 2020).

R(Z) = ½ ln det(I + D/(Nε²)·ZᵀZ) with ε² = ½: nats per row that code unit rows up to a squared error of ε².
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.views import Activations

__all__ = [
    "SQUARED_ERROR",
    "LabelledRows",
    "class_rate",
    "coding_rate",
    "coding_rate_maximum",
    "dealt_class_rate",
    "gram_eigenvalues",
    "labelled_unit_rows",
    "rate_of_eigenvalues",
    "rate_reduction_error",
    "rate_reduction_maximum",
]

#: ε², the squared error per row that is allowed (Yu et al. 2020 and every code since).
SQUARED_ERROR = 0.5
#: Products of one draw up to which four are drawn: a few seconds on two cores.
_CHEAP_DRAWS = 1e10


class LabelledRows(NamedTuple):
    """Unit rows of the uniform sample and the weight of every class in each: one-hot labels, or assignments."""

    rows: Float[Tensor, "rows features"]
    weights: Float[Tensor, "rows classes"]
    origin: str


def labelled_unit_rows(point: Activations, *, few_rows: int) -> LabelledRows | None:
    """Sampled rows with labels, zero rows and classes with fewer than `few_rows` left out; None with neither."""
    sample = point.read("sample")
    chosen = sample.is_uniform
    rows = sample.rows("features").double().flatten(1)[chosen]
    norms = rows.norm(dim=1)
    if "assignments" in point.shapes:
        origin, weights = "assignments", sample.rows("assignments").double()[chosen]
        is_kept = (norms > 0.0) & (weights.sum(1) > 0.0)
    elif "labels" in point.shapes:
        labels = sample.rows("labels").reshape(-1).long()[chosen]
        is_kept = (norms > 0.0) & (labels != -1) & (labels != -100)
        _, place, counts = torch.unique(labels[is_kept], return_inverse=True, return_counts=True)
        is_kept = is_kept.index_put((is_kept.nonzero().flatten(),), counts[place] >= few_rows)
        _, place = torch.unique(labels[is_kept], return_inverse=True)
        origin, weights = "labels", torch.zeros(rows.shape[0], int((counts >= few_rows).sum()), dtype=torch.float64)
        weights[is_kept.nonzero().flatten(), place] = 1.0
    else:
        return None
    units = rows[is_kept] / norms[is_kept, None]
    return LabelledRows(units, weights[is_kept], origin)


def rate_of_eigenvalues(eigenvalues: Float[Tensor, " rank"], weight: float, width: int) -> float:
    """½Σln(1 + D/(Nε²)·λ) with λ the eigenvalues of ZᵀZ and N the weight of the rows."""
    return 0.5 * float(torch.log1p(eigenvalues.clamp_min(0.0) * (width / (weight * SQUARED_ERROR))).sum())


def coding_rate(rows: Float[Tensor, "rows features"], weight: float) -> float:
    """R of rows whose squared norms sum to `weight`, from the Gram matrix of the smaller side."""
    gram = rows.T @ rows if rows.shape[0] > rows.shape[1] else rows @ rows.T
    scaled = gram * (rows.shape[1] / (weight * SQUARED_ERROR)) + torch.eye(gram.shape[0], dtype=torch.float64)
    # eigenvalues from 1 to 1 + D/ε²: a float64 Cholesky factor is exact to 1e-13
    return float(torch.linalg.cholesky(scaled).diagonal().log().sum())


def coding_rate_maximum(count: int, width: int) -> float:
    """(r/2)ln(1 + D/(rε²)), r = min(N, D): the rate of rows that fill all directions evenly."""
    rank = min(count, width)
    return 0.5 * rank * math.log1p(width / (rank * SQUARED_ERROR))


def gram_eigenvalues(rows: Float[Tensor, "rows features"]) -> Float[Tensor, " rank"]:
    """Eigenvalues of ZᵀZ that may differ from 0.

    Raises:
        NotConverged: LAPACK gave up.
    """
    try:
        values: Tensor = torch.linalg.eigvalsh(rows.T @ rows if rows.shape[0] > rows.shape[1] else rows @ rows.T)
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", where="features", got=str(error)) from error
    return values.clamp_min(0.0)


def class_rate(rows: Float[Tensor, "rows features"], weights: Float[Tensor, "rows classes"]) -> float:
    """Σ_k (w_k/N)·R(Z, Π_k), Π_k the weights of class k and w_k their sum; ΔR is R(Z) less this."""
    rate, total = 0.0, float(weights.sum())
    for column in weights.T:
        is_in, weight = column > 0.0, float(column.sum())
        if weight > 0.0:
            rate += weight / total * coding_rate(rows[is_in] * column[is_in, None].sqrt(), weight)
    return rate


def rate_reduction_maximum(classes: int, width: int) -> float:
    """(D/2)ln(1 + 1/ε²) − (D/2K)ln(1 + K/ε²): K orthogonal classes of D/K directions each."""
    return 0.5 * width * (math.log1p(1 / SQUARED_ERROR) - math.log1p(classes / SQUARED_ERROR) / classes)


def dealt_class_rate(
    rows: Float[Tensor, "rows features"], weights: Float[Tensor, "rows classes"], generator: torch.Generator
) -> float:
    """Mean `class_rate` with the weights dealt to other rows at random: four seeded draws, one where they cost much.

    Gaussian rows give ΔR = (K − 1)D(D + 1)/(4N(1 + ε²)²) to first order in D/n_k. Unit rows vary less, D(D − 1) in
    place of D(D + 1), and real ones are neither Gaussian nor many, hence draws.
    """
    sizes = (weights > 0.0).sum(0).tolist()
    work = sum(size * rows.shape[1] * min(size, rows.shape[1]) for size in sizes)
    draws = 4 if work <= _CHEAP_DRAWS else 1
    orders = [torch.randperm(rows.shape[0], generator=generator) for _ in range(draws)]
    return sum(class_rate(rows, weights[order]) for order in orders) / draws


def rate_reduction_error(eigenvalues: Float[Tensor, " rank"], *, count: int, width: int, classes: int) -> float:
    """Standard error of ΔR for labels that know nothing of Gaussian rows, to first order in D/n_k.

    With s_i = aλ_i/(1 + aλ_i), a = D/(Nε²), λ of ZᵀZ, ΔR is a quadratic form of the differences of the second moments,
    of variance (K − 1)((Σs²)² + Σs⁴)/(4N²).
    """
    scaled = eigenvalues * (width / (count * SQUARED_ERROR))
    shares = scaled / (1.0 + scaled)
    return math.sqrt((classes - 1) * (float(shares.square().sum()) ** 2 + float(shares.pow(4).sum()))) / (2 * count)
