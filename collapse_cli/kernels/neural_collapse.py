"""Neural collapse at a hook point: the classes that are large enough, their pooled spread, and what chance gives.

K classes of n_k rows, means m_k about their unweighted mean m_G, spread V_k = (1/n_k)Σ‖x − m_k‖².
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collapse_cli.kernels.class_geometry import (
    centred_means,
    self_duality_error,
    simplex_error,
    within_class_variability,
)
from collapse_cli.kernels.class_moments import ClassMoments
from collapse_cli.kernels.views import Activations

__all__ = [
    "MIN_ROWS",
    "Classes",
    "bias_of_head",
    "classes",
    "classes_of",
    "duality_distance",
    "equiangularity_null",
    "harmonic_size",
    "head_mismatch",
    "head_of_classes",
    "largest_ratio_null",
    "log_kernel_null",
    "mean_logit_offset",
    "nc1",
    "nc1_null",
    "nc1_quotient",
    "nc1_quotient_null",
    "ratio_null",
    "simplex_distance",
    "simplex_distance_of",
    "sizes",
    "within_covariance",
    "within_dimension",
]

#: Fewer rows give a class mean that is mostly noise: such classes are left out.
MIN_ROWS = 5
#: Classes up to which K × K matrices are formed, which keep digits that the traces lose near 0.
_DENSE_CLASSES = 2048


@final
@dataclass(frozen=True, slots=True)
class Classes:
    """The classes with enough rows, in order of their label; `left_out` had fewer. Float64, on the CPU."""

    labels: Int[Tensor, " classes"]
    counts: Int[Tensor, " classes"]
    means: Float[Tensor, "classes features"]
    variances: Float[Tensor, " classes"]
    left_out: int

    @property
    def count(self) -> int:
        """K."""
        return self.labels.numel()

    @property
    def width(self) -> int:
        """D."""
        return self.means.shape[1]

    @property
    def rows(self) -> int:
        """N, of these classes."""
        return int(self.counts.sum())

    @property
    def centred(self) -> Float[Tensor, "classes features"]:
        """M_c: the means about their unweighted mean."""
        return centred_means(self.means)

    @property
    def rounding(self) -> float:
        """Length that rounding alone gives to the difference of two means."""
        if self.means.numel() == 0:
            return 0.0
        return 4.0 * torch.finfo(torch.float64).eps * math.sqrt(self.width) * float(self.means.abs().max())

    def where(self, chosen: Bool[Tensor, " classes"]) -> "Classes":
        """Some of the classes; the others count as left out."""
        left_out = self.left_out + int((~chosen).sum())
        return Classes(self.labels[chosen], self.counts[chosen], self.means[chosen], self.variances[chosen], left_out)


def classes(point: Activations) -> Classes:
    """The classes of a hook point with at least 5 rows."""
    return classes_of(point.read("class_moments"))


def classes_of(moments: ClassMoments, *, rows: int = MIN_ROWS) -> Classes:
    """The classes with at least that many rows."""
    if moments.count == 0:
        none = torch.zeros(0, dtype=torch.int64)
        return Classes(none, none, torch.zeros(0, 0, dtype=torch.float64), none.double(), 0)
    everything = Classes(moments.labels, moments.counts, moments.means, moments.variances, 0)
    return everything.where(everything.counts >= rows)


def sizes(point: Activations) -> dict[str, Any]:
    """What the numbers rest on, as evidence: rows, width, classes and their sizes, stored dtype."""
    found = point.get(classes)
    said: dict[str, Any] = {"rows": found.rows, "width": found.width, "classes": found.count}
    said |= {"classes_left_out": found.left_out, "dtype": point.dtypes.get("features", "")}
    if found.count:
        said |= {"smallest_class": int(found.counts.min()), "largest_class": int(found.counts.max())}
    return said if point.finite_rows == point.rows else said | {"finite_rows": point.finite_rows}


def within_covariance(point: Activations) -> Float[Tensor, "features features"]:
    """Σ_W = ΣΣ(x − m_k)(x − m_k)ᵀ/N of all classes with more than one row: one row has no spread to tell of.

    Small classes are in it although they are left out elsewhere: their rows spread about their own mean all the same.
    """
    moments: ClassMoments = point.read("class_moments")
    counts = moments.counts
    return moments.within_scatter / max(int(counts[counts > 1].sum()), 1)


def within_dimension(point: Activations) -> float:
    """Participation ratio (tr Σ_W)²/tr Σ_W²; 0 where no class spreads."""
    covariance = point.get(within_covariance)
    energy = float(covariance.square().sum())
    return float(covariance.trace()) ** 2 / energy if energy > 0.0 else 0.0


def nc1(point: Activations) -> float | None:
    """Trace tr(Σ_B⁺Σ_W)/K over exactly min(K − 1, D) directions; None if means are equal (Papyan et al. 2020)."""
    found = point.get(classes)
    return within_class_variability(found.means, point.get(within_covariance)) if found.count > 1 else None


def nc1_quotient(point: Activations) -> float | None:
    """Quotient tr Σ_W/tr Σ_B; None if all means are equal to rounding."""
    found = point.get(classes)
    between = float(found.centred.square().sum()) / max(found.count, 1)
    if between <= found.rounding**2:
        return None
    return max(float(point.get(within_covariance).trace()), 0.0) / between


def harmonic_size(counts: Int[Tensor, " classes"]) -> float:
    """ν, the harmonic mean of the class sizes."""
    return counts.numel() / float(counts.double().reciprocal().sum())


def nc1_null(counts: Int[Tensor, " classes"], width: int) -> float | None:
    """`nc1` under random labels of isotropic Gaussian rows; None for K = D … D + 2, where no mean exists.

    D > K: (1 − K/N)·tr[(P diag(1/n_k)P)⁺]/(D − K), a Wishart inverse; the trace is N − Σn_k²/N. K > D + 2:
    (ν − 1)D/(K − D − 2), with the harmonic mean ν for the sizes.
    """
    many, total = counts.numel(), float(counts.sum())
    if width > many:
        spread = total - float(counts.double().square().sum()) / total
        return (1.0 - many / total) * spread / (width - many)
    if many > width + 2:
        return (harmonic_size(counts) - 1.0) * width / (many - width - 2)
    return None


def nc1_quotient_null(counts: Int[Tensor, " classes"]) -> float:
    """`nc1_quotient` under random labels, (1 − K/N)νK/(K − 1)."""
    many = counts.numel()
    return (1.0 - many / float(counts.sum())) * harmonic_size(counts) * many / (many - 1)


def ratio_null(counts: Int[Tensor, " classes"], dimension: float) -> float | None:
    """CDNV under random labels: mean of (1 − 1/ν)n_in_j/(n_i + n_j)·PR_W/(PR_W − 2); None for PR_W ≤ 2."""
    if dimension <= 2.0:
        return None
    sizes, repeats = torch.unique(counts, return_counts=True)
    n, weight = sizes.double(), repeats.double()
    halves, weights = torch.outer(n, n) / (n[:, None] + n), torch.outer(weight, weight)
    # a class does not pair with itself
    weights.diagonal().sub_(weight)
    mean = float((halves * weights).sum()) / float(weights.sum())
    return (1.0 - 1.0 / harmonic_size(counts)) * mean * dimension / (dimension - 2.0)


def largest_ratio_null(counts: Int[Tensor, " classes"], dimension: float) -> float | None:
    """Typical largest CDNV under random labels: among the m largest classes, of the m for which it is largest.

    (1 − 1/ν)·h·p/q with h = n_in_j/(n_i + n_j) of the smallest two of the m, p = PR_W, and q the quantile of χ²_p that
    one of m(m−1)/2 pairs falls below, after Wilson & Hilferty (1931); None where it is not positive.
    """
    if counts.numel() < 2 or dimension <= 0.0:
        return None
    spread, largest = 2.0 / (9.0 * dimension), 0.0
    ordered = counts.double().sort(descending=True).values.tolist()
    for many in range(2, len(ordered) + 1):
        a, b = ordered[many - 2 : many]
        quantile = NormalDist().inv_cdf(1.0 / (many * (many - 1) // 2 + 1))
        root = 1.0 - spread + quantile * math.sqrt(spread)
        if root <= 0.0:
            return None
        largest = max(largest, a * b / (a + b) / root**3)
    return (1.0 - 1.0 / harmonic_size(counts)) * largest


def simplex_distance(means: Float[Tensor, "classes features"]) -> float:
    """‖Q/‖Q‖_F − (I − 11ᵀ/K)/√(K−1)‖_F of Q = M_cM_cᵀ, K ≥ 2; √2 if all means are equal (NC2, Papyan et al. 2020)."""
    centred = centred_means(means)
    if means.shape[0] > _DENSE_CLASSES:
        return simplex_error(means)
    gram = centred @ centred.T
    size = float(gram.norm())
    return float((gram / size - _simplex(means.shape[0])).norm()) if size > 0.0 else math.sqrt(2.0)


def simplex_distance_of(rank: float, count: int) -> float:
    """`simplex_distance` of K means with that participation ratio, √(2 − 2√(PR/(K−1))); PR = D is the least."""
    return math.sqrt(2.0 - 2.0 * math.sqrt(min(rank / (count - 1), 1.0)))


def equiangularity_null(width: int) -> float:
    """Mean ∣cos∣ of random directions, √(2/(πD)): the normal limit."""
    return math.sqrt(2.0 / (math.pi * width))


def log_kernel_null(count: int, width: int) -> tuple[float, float]:
    """Mean −½ln(2K/(K−1)) + 1/(4D) and variance 1/(4D) of −ln distance between centred random directions."""
    return -0.5 * math.log(2.0 * count / (count - 1)) + 0.25 / width, 0.25 / width


def duality_distance(means: Float[Tensor, "classes features"], head: Float[Tensor, "classes features"]) -> float:
    """‖WM_cᵀ/‖WM_cᵀ‖_F − (I − 11ᵀ/K)/√(K−1)‖_F, K ≥ 2; √2 where the product is 0 (NC3, Papyan et al. 2020)."""
    if means.shape[0] > _DENSE_CLASSES:
        return self_duality_error(means, head)
    product = head @ centred_means(means).T
    size = float(product.norm())
    return float((product / size - _simplex(means.shape[0])).norm()) if size > 0.0 else math.sqrt(2.0)


def head_mismatch(point: Activations) -> str:
    """Why the rows of `head_weight` are not those of the classes; empty if they are."""
    found, (rows, columns) = point.get(classes), point.shapes["head_weight"]
    if columns != found.width:
        return f"head_weight is {rows} × {columns} and the features are {found.width} wide"
    lowest, highest = int(found.labels.min()), int(found.labels.max())
    if lowest < 0 or highest >= rows:
        return f"head_weight has {rows} rows and the labels go from {lowest} to {highest}"
    head = point.arrays["head_weight"]
    return "" if bool(head.isfinite().all()) else "head_weight is not finite"


def head_of_classes(point: Activations) -> Float[Tensor, "classes features"] | None:
    """The rows of the head that belong to the classes, float64; None where `head_mismatch` says why."""
    if point.get(head_mismatch):
        return None
    return point.arrays["head_weight"].cpu().double()[point.get(classes).labels]


def bias_of_head(point: Activations) -> Float[Tensor, " outputs"] | None:
    """The bias of every row of the head, zeros without one; None if it is of another length or not finite."""
    rows = point.shapes["head_weight"][0]
    bias = point.arrays.get("head_bias")
    if bias is None:
        return torch.zeros(rows, dtype=torch.float64)
    flat = bias.cpu().double().reshape(-1)
    return flat if flat.numel() == rows and bool(flat.isfinite().all()) else None


def mean_logit_offset(point: Activations) -> float | None:
    """‖Wm_G + b‖₂/‖WM_cᵀ‖_F; None where the head is orthogonal to the means or the bias does not fit."""
    found, head, bias = point.get(classes), point.get(head_of_classes), point.get(bias_of_head)
    if head is None or bias is None:
        return None
    centred = found.centred
    squared = float(((head.T @ head) * (centred.T @ centred)).sum())
    if squared <= float(head.square().sum()) * found.rounding**2:
        return None
    return float((head @ found.means.mean(0) + bias[found.labels]).norm()) / math.sqrt(squared)


def _simplex(count: int) -> Float[Tensor, "classes classes"]:
    return (torch.eye(count, dtype=torch.float64) - 1.0 / count) / math.sqrt(count - 1)
