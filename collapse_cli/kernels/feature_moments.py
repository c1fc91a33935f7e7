"""First and second moments of the rows of one role, and of their directions; streamed, shifted, mergeable."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.batches import Batch, outer_products, symmetric

__all__ = ["Moments"]


def _vector() -> Tensor:
    return torch.zeros(0, dtype=torch.float64)


def _matrix() -> Tensor:
    return torch.zeros(0, 0, dtype=torch.float64)


@final
class Moments:
    """Sums over the rows x of a role, all float64: of x − c, its outer products and its norm, and of z = x/‖x‖.

    The shift c is the mean of the first batch, so that an offset costs no digits. Zero rows are in the raw part and not
    among the `unit_count` rows of the unit part. What is read is on the CPU. With N = `count`:
    `sum` s = Σ(x−c), `scatter` G = Σ(x−c)(x−c)ᵀ, `weighted_sum` Σ‖x−c‖²(x−c), `fourth` Σ‖x−c‖⁴, `unit_sum` t = Σz,
    `unit_gram` U = Σzzᵀ, `norm_sum` Σ‖x‖, `squared_norm_sum` Σ‖x‖².

    References: Chan, Golub & LeVeque, Algorithms for computing the sample variance (1983), for shift and merge.
    """

    def __init__(self, role: str = "features") -> None:
        self.role = role
        self.count = self.unit_count = 0
        self.norm_sum = self.squared_norm_sum = self.fourth = 0.0
        self._shift, self._sum, self._weighted_sum, self._unit_sum = _vector(), _vector(), _vector(), _vector()
        self._scatter, self._unit_gram = _matrix(), _matrix()

    def update(self, batch: Batch) -> None:
        """Adds the finite rows of a batch."""
        if batch.finite_count() == 0:
            return
        if self.count == 0:
            self._begin(batch.mean(self.role))
        shifted, squares = batch.shifted(self.role, self._shift), batch.shifted_squares(self.role, self._shift)
        units, norms = batch.unit_rows(self.role), batch.norms(self.role)
        self.count += shifted.shape[0]
        self._scatter += batch.upper_scatter(self.role, self._shift)
        total, weighted = torch.stack((torch.ones_like(squares), squares)) @ shifted
        self._sum += total
        self._weighted_sum += weighted
        self.fourth += float(squares @ squares)
        self.unit_count += int(torch.count_nonzero(norms))
        self._unit_sum.addmv_(units.T, torch.ones_like(norms))
        outer_products(units, self._unit_gram)
        self.norm_sum += float(norms.sum())
        self.squared_norm_sum += float(norms @ norms)

    def merge(self, other: "Moments") -> None:
        """Adds all rows of another accumulator of the same role, that may have another shift."""
        if other.role != self.role:
            raise ValueError(f"moments of {self.role!r} and of {other.role!r} do not merge")
        if other.count == 0:
            return
        if self.count == 0:
            self._begin(other._shift)
        total, scatter, weighted, fourth = other._about(self._shift)
        self.count += other.count
        self._sum += total
        self._scatter += scatter
        self._weighted_sum += weighted
        self.fourth += fourth
        self.unit_count += other.unit_count
        self._unit_sum += other._unit_sum.to(self._shift.device)
        self._unit_gram += other._unit_gram.to(self._shift.device)
        self.norm_sum += other.norm_sum
        self.squared_norm_sum += other.squared_norm_sum

    def _begin(self, shift: Float[Tensor, " features"]) -> None:
        self._shift = shift.clone()
        self._sum, self._weighted_sum, self._unit_sum = (torch.zeros_like(shift) for _ in range(3))
        self._scatter, self._unit_gram = (shift.new_zeros(shift.numel(), shift.numel()) for _ in range(2))

    def _about(self, shift: Float[Tensor, " features"]) -> tuple[Tensor, Tensor, Tensor, float]:
        """`sum`, `scatter`, `weighted_sum` and `fourth` about another shift: x − c₁ = (x − c₂) + δ, δ = c₂ − c₁."""
        device, n = shift.device, self.count
        total, scatter, weighted = (
            part.to(device) for part in (self._sum, symmetric(self._scatter), self._weighted_sum)
        )
        step = self._shift.to(device) - shift
        squares, step_square, along = scatter.trace(), step @ step, total @ step
        moved_sum = total + n * step
        moved_scatter = scatter + torch.outer(total, step) + torch.outer(step, total) + n * torch.outer(step, step)
        moved_weighted = weighted + 2.0 * (scatter @ step) + step_square * total
        moved_weighted += (squares + 2.0 * along + n * step_square) * step
        fourth = self.fourth + 4.0 * (step @ scatter @ step) + n * step_square**2
        fourth += 4.0 * (weighted @ step) + 2.0 * step_square * squares + 4.0 * step_square * along
        return moved_sum, moved_scatter, moved_weighted, float(fourth)

    @property
    def shift(self) -> Float[Tensor, " features"]:
        """c, the mean of the first batch."""
        return self._shift.cpu()

    @property
    def sum(self) -> Float[Tensor, " features"]:
        """Sum about the shift, s = Σ(x − c)."""
        return self._sum.cpu()

    @property
    def scatter(self) -> Float[Tensor, "features features"]:
        """G = Σ(x − c)(x − c)ᵀ."""
        return symmetric(self._scatter).cpu()

    @property
    def weighted_sum(self) -> Float[Tensor, " features"]:
        """Σ‖x − c‖²(x − c)."""
        return self._weighted_sum.cpu()

    @property
    def unit_sum(self) -> Float[Tensor, " features"]:
        """Sum of directions, t = Σz."""
        return self._unit_sum.cpu()

    @property
    def unit_gram(self) -> Float[Tensor, "features features"]:
        """U = Σzzᵀ."""
        return symmetric(self._unit_gram).cpu()

    @property
    def mean(self) -> Float[Tensor, " features"]:
        """x̄; the shift of an empty accumulator, which has no features."""
        return (self._shift + self._sum / max(self.count, 1)).cpu()

    @property
    def centred_scatter(self) -> Float[Tensor, "features features"]:
        """G_c = Σ(x − x̄)(x − x̄)ᵀ = G − ssᵀ/N; the covariance is G_c/(N−1)."""
        return (symmetric(self._scatter) - torch.outer(self._sum, self._sum) / max(self.count, 1)).cpu()

    @property
    def uncentred_gram(self) -> Float[Tensor, "features features"]:
        """XᵀX = G + scᵀ + csᵀ + Nccᵀ."""
        cross = torch.outer(self._sum, self._shift)
        return (symmetric(self._scatter) + cross + cross.T + self.count * torch.outer(self._shift, self._shift)).cpu()
