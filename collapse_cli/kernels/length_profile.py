"""Cosines by length of the input, what averaging tokens alone would give, and what length does besides."""

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.batches import UNLABELLED
from collapse_cli.kernels.length_bins import LengthBin, half_octave
from collapse_cli.kernels.views import Activations

__all__ = [
    "MIN_BIN_ROWS",
    "LengthNull",
    "Recall",
    "centroid_distances",
    "centroid_null",
    "curve",
    "length_axis",
    "length_bins",
    "length_null",
    "pooling_null",
    "recall_by_length",
    "weighted_slope",
]

#: Rows of a bin at least: 1,225 pairs.
MIN_BIN_ROWS: Final = 50
#: Times that tokens are dealt to documents, documents of a bin in one deal, and tokens of a bin in one deal.
_DEALS, _DOCUMENTS, _DEALT_TOKENS = 16, 32, 1 << 17
#: Documents of a bin at least: 28 pairs, 448 in all deals.
_FEW_DOCUMENTS = 8
#: Rows of a bin whose nearest neighbour is sought: a share estimated on them has a standard error of at most .016.
_QUERIES = 1024
#: Features up to which all eigenvectors are computed to get the first; beyond, subspace iteration.
_DENSE_FEATURES, _SUBSPACE, _ITERATIONS = 1024, 8, 100


class LengthNull(NamedTuple):
    """Cosine of every bin by chance, one row per deal (a single one for a closed form), and where they come from."""

    deals: Float[Tensor, "deals bins"]
    source: str

    @property
    def cosines(self) -> list[float]:
        """The mean over deals."""
        found: list[float] = self.deals.mean(0).tolist()
        return found

    def interval_of_gap(self) -> list[float]:
        """Two standard deviations over deals about the mean of longest minus shortest; empty for a closed form."""
        return _interval(self.deals[:, -1] - self.deals[:, 0])

    def interval_of_longest(self) -> list[float]:
        """The same of the cosine of the longest bin."""
        return _interval(self.deals[:, -1])


def _interval(values: Float[Tensor, " deals"]) -> list[float]:
    if values.numel() < 2:
        return []
    centre, spread = float(values.mean()), 2.0 * float(values.std())
    return [centre - spread, centre + spread]


class Recall(NamedTuple):
    """Share of rows whose nearest neighbour has their label, of the shortest and of the longest bin, of as many."""

    shortest: float
    longest: float
    queries: int
    rows: int


def length_bins(point: Activations) -> list[LengthBin]:
    """Half-octaves of length with at least 50 rows, thin ones joined, shortest first."""
    found: list[LengthBin] = point.read("length_bins").merged(MIN_BIN_ROWS)
    return found


def pooling_null(bins: Sequence[LengthBin]) -> list[float] | None:
    """c(n) = 1/(1 + ρ/n) with ρ = n₁(1/c₁ − 1) from the shortest bin: the cosine of means of n independent tokens.

    None where c₁ ≤ 0 leaves ρ undefined.
    """
    first = bins[0]
    if first.cosine <= 0.0:
        return None
    # rounding leaves the cosine of equal rows beyond one
    rho = math.exp(first.mean_log_length) * max(1.0 / first.cosine - 1.0, 0.0)
    return [1.0 / (1.0 + rho * math.exp(-one.mean_log_length)) for one in bins]


def length_null(point: Activations, bins: Sequence[LengthBin]) -> LengthNull | None:
    """The cosines by length that pooling alone would give; for other poolings than the mean, those of the shortest."""
    pooling = point.metadata.get("pooling", "mean")
    if pooling != "mean":
        same = torch.tensor([[bins[0].cosine] * len(bins)], dtype=torch.float64)
        return LengthNull(same, f"pooling {pooling}: as the shortest bin")
    if point.has("token_sample") and point.read("token_sample").count:
        return LengthNull(_dealt_cosines(point, bins), f"{_DEALS} deals of the tokens")
    closed = pooling_null(bins)
    said = "pooling of independent tokens" + ("" if "pooling" in point.metadata else ", mean pooling assumed")
    return None if closed is None else LengthNull(torch.tensor([closed], dtype=torch.float64), said)


def _dealt_cosines(point: Activations, bins: Sequence[LengthBin]) -> Float[Tensor, "deals bins"]:
    """Tokens drawn from the sample for documents of the lengths there are, averaged, and their cosines in each bin."""
    tokens = point.read("token_sample").rows
    tokens = tokens if tokens.dtype is torch.float64 else tokens.float()
    lengths = point.read("sample").rows("lengths").reshape(-1).long()
    places = half_octave(lengths.clamp_min(1))
    generator = point.generator()
    result = torch.empty(_DEALS, len(bins), dtype=torch.float64)
    for column, one in enumerate(bins):
        known = lengths[(places >= one.first) & (places <= one.last) & (lengths >= 1)]
        if not known.numel():
            known = torch.tensor([round(math.exp(one.mean_log_length))])
        documents = max(_FEW_DOCUMENTS, min(_DOCUMENTS, _DEALT_TOKENS // int(known.max())))
        for deal in range(_DEALS):
            chosen = known[torch.randint(known.numel(), (documents,), generator=generator)]
            drawn = torch.randint(tokens.shape[0], (int(chosen.sum()),), generator=generator)
            pooled = torch.nn.functional.embedding_bag(drawn, tokens, chosen.cumsum(0) - chosen, mode="mean").double()
            square = _units(pooled).sum(0).square().sum()
            result[deal, column] = (square - documents) / (documents * (documents - 1))
    return result


def _units(rows: Float[Tensor, "rows features"]) -> Float[Tensor, "rows features"]:
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / torch.where(norms > 0.0, norms, 1.0)


def weighted_slope(bins: Sequence[LengthBin], values: Sequence[float]) -> float:
    """Row-weighted least squares of a value of each bin on the mean log length."""
    weights = torch.tensor([float(one.rows) for one in bins], dtype=torch.float64)
    logs = torch.tensor([one.mean_log_length for one in bins], dtype=torch.float64)
    centred = logs - (weights @ logs) / weights.sum()
    weighted = weights * centred
    return float(weighted @ torch.tensor(list(values), dtype=torch.float64) / (weighted @ centred))


def centroid_distances(bins: Sequence[LengthBin]) -> list[float]:
    """The mean of ‖z − g‖² in every bin, g the mean of all unit rows."""
    centre = torch.stack([one.unit_sum for one in bins]).sum(0) / sum(one.rows for one in bins)
    square = float(centre.square().sum())
    return [1.0 - 2.0 * float(one.unit_sum @ centre) / one.rows + square for one in bins]


def centroid_null(bins: Sequence[LengthBin], cosines: Sequence[float]) -> list[float]:
    """The same by chance, 1 − 2√c_b·γ + γ² with γ = Σw_b√c_b: bins that differ in how near they are to one mean."""
    roots = [math.sqrt(max(cosine, 0.0)) for cosine in cosines]
    gamma = sum(one.rows * root for one, root in zip(bins, roots, strict=True)) / sum(one.rows for one in bins)
    return [1.0 - 2.0 * root * gamma + gamma**2 for root in roots]


def length_axis(point: Activations) -> float | None:
    """∣corr(log n, score on the first principal component)∣; None where features or lengths do not vary.

    Raises:
        NotConverged: LAPACK gave up.
    """
    bins, scatter = point.read("length_bins"), point.read("moments").centred_scatter
    trace = float(scatter.diagonal().sum())
    if trace <= 0.0 or bins.square_log <= 0.0:
        return None
    direction = _first_eigenvector(scatter / trace, point.generator())
    variance = float(direction @ (scatter @ direction))
    return min(abs(float(direction @ bins.cross)) / math.sqrt(variance * bins.square_log), 1.0)


def _first_eigenvector(
    matrix: Float[Tensor, "features features"], generator: torch.Generator
) -> Float[Tensor, " features"]:
    width = matrix.shape[0]
    try:
        if width <= _DENSE_FEATURES:
            found: Tensor = torch.linalg.eigh(matrix)[1][:, -1]
            return found
        subspace = torch.randn(width, _SUBSPACE, generator=generator, dtype=torch.float64)
        for _ in range(_ITERATIONS):
            subspace = torch.linalg.qr(matrix @ subspace)[0]
        inner = torch.linalg.eigh(subspace.T @ matrix @ subspace)[1][:, -1]
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", where="features", got=str(error)) from error
    result: Tensor = subspace @ inner
    return result


def recall_by_length(point: Activations, bins: Sequence[LengthBin]) -> Recall | None:
    """How often a row's nearest neighbour by cosine, among the labelled rows of the sample, has its label.

    The shortest and the longest bin give equally many rows, at most 1,024; None where one has fewer than 50.
    """
    sample = point.read("sample")
    labels = sample.rows("labels").reshape(-1).long()
    kept = sample.is_uniform & (labels != UNLABELLED[0]) & (labels != UNLABELLED[1])
    labels, lengths = labels[kept], sample.rows("lengths").reshape(-1).long()[kept]
    units = _units(sample.rows("features")[kept].flatten(1).double()).float()
    places = half_octave(lengths.clamp_min(1))
    ends = [
        ((places >= one.first) & (places <= one.last) & (lengths >= 1)).nonzero().flatten()
        for one in (bins[0], bins[-1])
    ]
    queries = min(ends[0].numel(), ends[1].numel(), _QUERIES)
    if queries < MIN_BIN_ROWS:
        return None
    found = []
    for rows in ends:
        # rows of the sample stand in the order of the dump: every so many-th
        chosen = rows[torch.linspace(0, rows.numel() - 1, queries).round().long()]
        cosines = units[chosen] @ units.T
        cosines[torch.arange(queries), chosen] = -torch.inf
        found.append(float((labels[cosines.argmax(1)] == labels[chosen]).double().mean()))
    return Recall(found[0], found[1], queries, int(kept.sum()))


def curve(bins: Sequence[LengthBin], null: LengthNull | None) -> dict[str, Any]:
    """Length, rows and cosine of every bin, and the cosine by chance where it is known."""
    found: dict[str, Any] = {
        "length": [math.exp(one.mean_log_length) for one in bins],
        "rows": [one.rows for one in bins],
        "cosine": [one.cosine for one in bins],
    }
    return found if null is None else found | {"null": null.cosines}
