"""Rows that spread one unit over clusters, prototypes or categories: what they say together and one by one."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.batches import Batch
from collapse_cli.kernels.group_structure import mean_silhouette
from collapse_cli.kernels.nearest_rows import thinned
from collapse_cli.kernels.views import Activations

__all__ = [
    "ClusterStructure",
    "SoftAssignments",
    "cluster_structure",
    "eigengap_clusters",
    "target_divergence",
    "uniform_rows",
]

#: A row of probabilities stored in bfloat16 sums to one within 2⁻⁸; beyond 1 % it is not one.
_SUM_TOLERANCE = 0.01
_PROBABILITIES, _SOFTMAX = 0, 1
_BLOCK_ENTRIES = 1 << 20
#: Rows of the sample whose distances are taken, and those whose affinities are diagonalised.
_SILHOUETTE_ROWS, _EIGENGAP_ROWS = 2000, 512
#: The neighbour whose distance is a row's scale (Zelnik-Manor & Perona 2004).
_SCALE_NEIGHBOUR = 7


@final
class SoftAssignments:
    """Sums over the finite rows of a role, samples × clusters or samples × groups × clusters.

    A row is read as it is, divided by its sum, if no entry of the role is negative and every sum is within 1 % of 1;
    otherwise as the softmax of its entries (`is_softmax`). −∞ is a masked cluster of logits; rows of which a group is
    masked altogether are left out. `mass` is Σp and `decided` the number of rows with the largest entry there, both
    groups × clusters; `entropy` is ΣH(p) of each group. What is read lies on the CPU.
    """

    def __init__(self, role: str = "assignments") -> None:
        self.role = role
        self.count = self.masked_rows = 0
        self.is_softmax = role.endswith("logits")
        self.smallest_sum, self.largest_sum = math.inf, -math.inf
        # by reading; that as probabilities is worthless, and not kept up, once a row is none
        self._mass = torch.zeros(2, 0, 0, dtype=torch.float64)
        self._entropy = torch.zeros(2, 0, dtype=torch.float64)
        self._decided = torch.zeros(0, 0, dtype=torch.int64)

    def update(self, batch: Batch) -> None:
        """Adds the finite rows of a batch."""
        stored = batch.selected(self.role)
        rows = batch.rows(self.role).reshape(stored.shape[0], *_groups_and_clusters(stored))
        is_row = (rows > -torch.inf).any(2).all(1)
        self.masked_rows += int((~is_row).sum())
        rows = rows if bool(is_row.all()) else rows[is_row]
        if rows.numel() == 0:
            return
        self._begin(rows)
        self.count += rows.shape[0]
        sums = rows.sum(2)
        self.smallest_sum = min(self.smallest_sum, float(sums.min()))
        self.largest_sum = max(self.largest_sum, float(sums.max()))
        self._settle(bool((rows < 0.0).any()))
        if not self.is_softmax:
            self._add(_PROBABILITIES, rows / sums[:, :, None])
        self._add(_SOFTMAX, rows.softmax(2))
        groups, clusters = self._decided.shape
        places = rows.argmax(2) + clusters * torch.arange(groups, device=rows.device)
        self._decided.view(-1).index_add_(0, places.flatten(), torch.ones_like(places).flatten())

    def _begin(self, rows: Float[Tensor, "samples groups clusters"]) -> None:
        if self._decided.numel() == 0:
            _, groups, clusters = rows.shape
            self._mass = rows.new_zeros(2, groups, clusters)
            self._entropy = rows.new_zeros(2, groups)
            self._decided = torch.zeros(groups, clusters, dtype=torch.int64, device=rows.device)

    def _settle(self, has_negative: bool) -> None:
        """A role that holds no probabilities never held any, whatever its first rows looked like."""
        is_off = max(1.0 - self.smallest_sum, self.largest_sum - 1.0) > _SUM_TOLERANCE
        self.is_softmax = self.is_softmax or has_negative or is_off

    def _add(self, reading: int, shares: Float[Tensor, "samples groups clusters"]) -> None:
        self._mass[reading] += shares.sum(0)
        self._entropy[reading] += torch.special.entr(shares).sum((0, 2))

    def merge(self, other: "SoftAssignments") -> None:
        """Adds all rows of another accumulator of the same role."""
        if other.role != self.role:
            raise ValueError(f"assignments of {self.role!r} and of {other.role!r} do not merge")
        self.masked_rows += other.masked_rows
        if other.count == 0:
            return
        self._begin(other._mass[:1])
        device = self._mass.device
        self.count += other.count
        self.smallest_sum = min(self.smallest_sum, other.smallest_sum)
        self.largest_sum = max(self.largest_sum, other.largest_sum)
        self.is_softmax |= other.is_softmax
        self._mass += other._mass.to(device)
        self._entropy += other._entropy.to(device)
        self._decided += other._decided.to(device)

    @property
    def mass(self) -> Float[Tensor, "groups clusters"]:
        """Σp."""
        return self._mass[int(self.is_softmax)].cpu()

    @property
    def entropy(self) -> Float[Tensor, " groups"]:
        """ΣH(p), nats."""
        return self._entropy[int(self.is_softmax)].cpu()

    @property
    def decided(self) -> Int[Tensor, "groups clusters"]:
        """Rows whose largest entry is that of the cluster, the lower one among equals."""
        return self._decided.cpu()

    def shares(self, rows: Float[Tensor, "rows clusters"]) -> Float[Tensor, "rows clusters"]:
        """The probabilities that rows of the role stand for."""
        exact = rows.double()
        return exact.softmax(1) if self.is_softmax else exact / exact.sum(1, keepdim=True)


def _groups_and_clusters(stored: Tensor) -> tuple[int, int]:
    return (stored.shape[1], stored.shape[2]) if stored.dim() == 3 else (1, stored.shape[1])


def uniform_rows(point: Activations, role: str) -> Tensor:
    """The rows of a role in the uniform sample of the assignments, as stored."""
    sample = point.read("sample(assignments)")
    rows: Tensor = sample.rows(role)[sample.is_uniform]
    return rows


def target_divergence(point: Activations) -> float:
    """Mean KL(P‖Q) of the rows of the sample, nats: P ∝ q²/f is the target of deep embedded clustering.

    f are the sums over all rows of the dump. Xie, Girshick & Farhadi 2016, equation 3.
    """
    assignments: SoftAssignments = point.read("soft_assignments(assignments)")
    sizes, stored = assignments.mass[0], uniform_rows(point, "assignments")
    is_used, total = sizes > 0.0, 0.0
    for block in torch.split(stored, max(1, _BLOCK_ENTRIES // stored.shape[1])):
        q = assignments.shares(block)[:, is_used]
        target = q.square() / sizes[is_used]
        target /= target.sum(1, keepdim=True)
        # an entry that underflowed has a target of 0 and adds nothing
        total += float(torch.special.xlogy(target, target / torch.where(q > 0.0, q, 1.0)).sum())
    return max(total / stored.shape[0], 0.0)


@final
@dataclass(frozen=True, slots=True)
class ClusterStructure:
    """The features behind some assignments: silhouette of the decided clusters, None for one; clusters by eigengap."""

    silhouette: float | None
    silhouette_rows: int
    eigengap: int | None
    eigengap_rows: int


def cluster_structure(point: Activations) -> ClusterStructure | None:
    """How clustered the features of the sample are; None without features, or where all rows are equal."""
    if "features" not in point.shapes or point.read("sample(assignments)").indices.numel() < 2:
        return None
    features = uniform_rows(point, "features").double().flatten(1)
    if bool((features == features[:1]).all()):
        return None
    clusters = uniform_rows(point, "assignments").argmax(1)
    near = thinned(features.shape[0], _SILHOUETTE_ROWS)
    few = thinned(features.shape[0], _EIGENGAP_ROWS)
    most = 2 * point.shapes["assignments"][1]
    gap = eigengap_clusters(features[few], most)
    return ClusterStructure(mean_silhouette(features[near], clusters[near]), near.numel(), gap, few.numel())


def eigengap_clusters(rows: Float[Tensor, "rows features"], most: int) -> int | None:
    """The k ≤ most after which the eigenvalues of D^−½AD^−½ fall furthest, A = exp(−d²/(σᵢσⱼ)) without its diagonal.

    σ is the distance to the seventh neighbour. None for fewer than 16 rows, or for rows so alike that a σ is 0.

    Raises:
        NotConverged: LAPACK gave up.

    References: Zelnik-Manor & Perona, Self-Tuning Spectral Clustering (2004).
    """
    if rows.shape[0] < 2 * (_SCALE_NEIGHBOUR + 1):
        return None
    distances = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
    scales = distances.kthvalue(_SCALE_NEIGHBOUR + 1, dim=1).values
    if float(scales.min()) <= 0.0:
        return None
    affinities = (-(distances / scales[:, None]) * (distances / scales)).exp().fill_diagonal_(0.0)
    degrees = affinities.sum(1).clamp_min(torch.finfo(torch.float64).tiny).rsqrt()
    try:
        eigenvalues = torch.linalg.eigvalsh(degrees[:, None] * affinities * degrees).flip(0)
    except LinAlgError as error:
        raise NotConverged("the eigenvalue solver did not converge", got=str(error)) from error
    gaps = eigenvalues[:-1] - eigenvalues[1:]
    return int(gaps[: min(most, rows.shape[0] // 2)].argmax()) + 1
