"""Structure inside a class: whether neighbours share a finer label, and whether two clusters explain more than one."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.batches import UNLABELLED
from collapse_cli.kernels.neural_collapse import classes
from collapse_cli.kernels.views import Activations

__all__ = [
    "CLASS_ROWS",
    "NEIGHBOURS",
    "FinePurity",
    "class_samples",
    "fine_purity",
    "two_cluster_share",
    "within_share",
]

#: Rows from which a class is looked into; rows and classes that are looked into at most, which bounds the time.
CLASS_ROWS, MOST_ROWS, MOST_CLASSES = 20, 256, 64
#: Neighbours of each row.
NEIGHBOURS = 10
#: Shufflings of the fine labels behind a standard error: it is known to 1/√100.
_SHUFFLES = 50
#: Seeded starts of the two means, and rounds of Lloyd's algorithm, which mostly needs ten.
_STARTS, _ROUNDS = 3, 100


@final
@dataclass(frozen=True, slots=True)
class FinePurity:
    """Share of neighbours with the same fine label, what shuffled labels give, and its standard deviation."""

    share: float
    chance: float
    deviation: float
    rows: int
    classes: int


def class_samples(point: Activations) -> list[tuple[Float[Tensor, "rows features"], Int[Tensor, " rows"] | None]]:
    """Sampled rows of classes with 20 rows or more about their own mean, float64, and their fine labels.

    Of more than 64 classes or 256 rows a seeded choice.
    """
    sample, found, generator = point.read("sample"), point.get(classes), point.generator()
    labels, features = sample.rows("labels").reshape(-1).long(), sample.rows("features")
    fine = sample.rows("fine_labels").reshape(-1).long() if "fine_labels" in point.shapes else None
    large = found.labels[found.counts >= CLASS_ROWS]
    if large.numel() > MOST_CLASSES:
        large = large[torch.randperm(large.numel(), generator=generator)[:MOST_CLASSES]].sort().values
    result = []
    for label in large.tolist():
        places = (labels == label).nonzero().flatten()
        if places.numel() > MOST_ROWS:
            places = places[torch.randperm(places.numel(), generator=generator)[:MOST_ROWS]]
        rows = features[places].flatten(1).double()
        rows = rows - rows.mean(0)
        # a class that is one point has the rounding of its mean for spread
        rows[rows.norm(dim=1) <= found.rounding] = 0.0
        result.append((rows, None if fine is None else fine[places]))
    return [one for one in result if one[0].shape[0] >= CLASS_ROWS]


def within_share(point: Activations) -> float | None:
    """Tr Σ_W/tr Σ_T of the classes with enough rows; None if all rows are equal."""
    found = point.get(classes)
    within = float((found.counts * found.variances).sum())
    shares = found.counts.double() / found.rows
    between = float((found.counts * (found.means - shares @ found.means).square().sum(1)).sum())
    # rounding of the means, once per row
    return within / (within + between) if within + between > found.rows * found.rounding**2 else None


def fine_purity(point: Activations) -> FinePurity | None:
    """Purity of the 10 nearest rows of the same class in fine labels; None if no class has two fine labels."""
    hits, drawn, count, used = 0, torch.zeros(_SHUFFLES, dtype=torch.float64), 0, 0
    chance, generator = 0.0, point.generator()
    for every, labels in point.get(class_samples):
        if labels is None:
            continue
        kept = (labels != UNLABELLED[0]) & (labels != UNLABELLED[1])
        fine, rows = labels[kept], every[kept]
        _, sizes = torch.unique(fine, return_counts=True)
        if fine.numel() < CLASS_ROWS or sizes.numel() < 2:
            continue
        nearest = _nearest(rows)
        hits += int((fine[nearest] == fine[:, None]).sum())
        for draw in range(_SHUFFLES):
            shuffled = fine[torch.randperm(fine.numel(), generator=generator)]
            drawn[draw] += int((shuffled[nearest] == shuffled[:, None]).sum())
        chance += float((sizes * (sizes - 1)).sum()) / (fine.numel() - 1)
        count, used = count + fine.numel(), used + 1
    if count == 0:
        return None
    pairs = count * NEIGHBOURS
    return FinePurity(hits / pairs, chance / count, float(drawn.std()) / pairs, count, used)


def _nearest(rows: Float[Tensor, "rows features"]) -> Int[Tensor, "rows neighbours"]:
    squares = rows.square().sum(1)
    distances = torch.addmm(squares[:, None] + squares, rows, rows.T, alpha=-2.0)
    return distances.fill_diagonal_(torch.inf).topk(NEIGHBOURS, largest=False).indices


def two_cluster_share(
    rows: Float[Tensor, "rows features"], *, generator: torch.Generator
) -> tuple[float, float] | None:
    """Share of the spread that the best two means explain, and λ₁/Σλ; None without spread. Rows are centred.

    Lloyd's algorithm from the sign of the first principal component and three seeded starts. One Gaussian gives
    (2/π)λ₁/Σλ: the best split is that of its first axis.

    Raises:
        NotConverged: LAPACK gave up.
    """
    total = float(rows.square().sum())
    if total <= torch.finfo(torch.float64).tiny:
        return None
    gram = rows @ rows.T
    try:
        values, vectors = torch.linalg.eigh(gram)
    except LinAlgError as error:
        raise NotConverged("the rows of a class have no spectrum", where="class", got=str(error)) from error
    starts = [vectors[:, -1] > 0.0]
    for _ in range(_STARTS):
        a, b = torch.randperm(rows.shape[0], generator=generator)[:2].tolist()
        # closer to row a than to row b
        starts.append(gram[:, a] - 0.5 * gram[a, a] > gram[:, b] - 0.5 * gram[b, b])
    best = max(_explained(gram, start) for start in starts)
    return best / total, float(values[-1]) / total


def _explained(gram: Float[Tensor, "rows rows"], side: Tensor) -> float:
    """Σ n_c‖m_c‖² of the two clusters that Lloyd's algorithm ends in, from inner products of centred rows."""
    for _ in range(_ROUNDS):
        members = torch.stack((side, ~side)).double()
        sizes = members.sum(1)
        if float(sizes.min()) == 0.0:
            return 0.0
        products = gram @ (members / sizes[:, None]).T
        lengths = ((members / sizes[:, None]) * products.T).sum(1)
        closer = products[:, 0] - 0.5 * lengths[0] > products[:, 1] - 0.5 * lengths[1]
        if torch.equal(closer, side):
            break
        side = closer
    members = torch.stack((side, ~side)).double()
    sizes = members.sum(1)
    return float((((members @ gram) * members).sum(1) / sizes.clamp_min(1.0)).sum())
