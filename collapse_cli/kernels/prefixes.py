"""What the first m features of a code keep of the whole: energy, neighbours, class; against other choices of m."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.group_structure import compact_labels
from collapse_cli.kernels.nearest_rows import shared_neighbours

__all__ = ["Judge", "Profile", "prefix_neighbours", "prefix_profile", "prefix_widths", "principal_scores"]

#: Neighbours of a row, and random orders of the features that a prefix is compared with.
NEIGHBOURS, ORDERS = 10, 5


def prefix_widths(features: int) -> tuple[int, ...]:
    """8, 16, 32, … below the full width (Kusupati et al. 2022)."""
    widths = []
    width = 8
    while width < features:
        widths.append(width)
        width *= 2
    return tuple(widths)


def prefix_neighbours(rows: Float[Tensor, "rows features"], widths: Sequence[int]) -> list[Int[Tensor, "rows count"]]:
    """The ten nearest other rows by the first m features, Euclidean, for every m; one sweep over the features.

    `widths` ascend. Squared distances are summed up feature block by feature block, in float64.
    """
    centred = rows.double() - rows.double().mean(0)
    distances = centred.new_zeros(rows.shape[0], rows.shape[0])
    found, done = [], 0
    for width in widths:
        block = centred[:, done:width]
        squares = block.square().sum(1)
        distances += squares[:, None] + squares - 2.0 * block @ block.T
        distances.fill_diagonal_(torch.inf)
        found.append(distances.topk(NEIGHBOURS, dim=1, largest=False).indices)
        distances.fill_diagonal_(0.0)
        done = width
    return found


def principal_scores(rows: Float[Tensor, "rows features"]) -> Float[Tensor, "rows features"]:
    """The rows in the axes of their principal components, strongest first; only distances between them mean anything.

    From the smaller of the two Gram matrices; components beyond the number of rows are 0.
    """
    centred = rows.double() - rows.double().mean(0)
    count, width = centred.shape
    if width <= count:
        directions: Tensor = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)
        return centred @ directions
    energies, vectors = torch.linalg.eigh(centred @ centred.T)
    scores = vectors.flip(1) * energies.flip(0).clamp_min(0.0).sqrt()
    return torch.nn.functional.pad(scores, (0, width - count))


@final
@dataclass(frozen=True, slots=True)
class Judge:
    """The quality of neighbour lists: leave-one-out 10-NN accuracy where there are labels, else agreement.

    Agreement is the share of the ten nearest rows that are those of the full code.
    """

    full: Int[Tensor, "rows count"]
    labels: Int[Tensor, " rows"] | None

    def quality(self, neighbours: Int[Tensor, "rows count"]) -> float:
        """Of one list of neighbours per row, in [0, 1]."""
        if self.labels is None:
            return shared_neighbours(neighbours, self.full)
        place, classes = compact_labels(self.labels)
        votes = torch.zeros(place.numel(), classes, dtype=torch.int64)
        votes.scatter_add_(1, place[neighbours], torch.ones_like(neighbours))
        return float((votes.argmax(1) == place).double().mean())


@final
@dataclass(frozen=True, slots=True)
class Profile:
    """Qualities per width: of the prefix, of m random features (one row per order), of m principal components."""

    widths: tuple[int, ...]
    full: float
    prefix: tuple[float, ...]
    random: Float[Tensor, "orders widths"]
    principal: tuple[float, ...]

    @property
    def nestedness(self) -> tuple[float, float]:
        """Mean over m of prefix − random, and its standard deviation where the prefix is one more random choice."""
        means = self.random.mean(1)
        count = means.numel()
        return float(sum(self.prefix) / len(self.prefix) - means.mean()), float(means.std()) * (1 + 1 / count) ** 0.5

    @property
    def principal_gap(self) -> float:
        """Mean over m of the quality of m principal components less that of the prefix."""
        return (sum(self.principal) - sum(self.prefix)) / len(self.widths)

    def sufficient_width(self, features: int, share: float = 0.99) -> int:
        """The least width with that share of the full quality; all features if none of the prefixes has it."""
        for width, quality in zip(self.widths, self.prefix, strict=True):
            if quality >= share * self.full:
                return width
        return features


def prefix_profile(rows: Float[Tensor, "rows features"], labels: Int[Tensor, " rows"] | None) -> tuple[Profile, Judge]:
    """Qualities of all prefixes of a code of more than 8 features and 11 rows, and the judge of them."""
    widths, features = prefix_widths(rows.shape[1]), rows.shape[1]
    *prefixes, full = prefix_neighbours(rows, (*widths, features))
    judge = Judge(full, labels)
    orders = []
    for seed in range(ORDERS):
        order = torch.randperm(features, generator=torch.Generator().manual_seed(seed))
        orders.append([judge.quality(near) for near in prefix_neighbours(rows[:, order], widths)])
    profile = Profile(
        widths,
        judge.quality(full),
        tuple(judge.quality(near) for near in prefixes),
        torch.tensor(orders, dtype=torch.float64),
        tuple(judge.quality(near) for near in prefix_neighbours(principal_scores(rows), widths)),
    )
    return profile, judge
