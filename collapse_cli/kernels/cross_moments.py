"""Second moments between two roles on the same rows: two views, modalities or hook points, features and targets."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.batches import Batch

__all__ = ["CrossMoments"]


@final
class CrossMoments:
    """Sums over pairs of rows (x, y), all float64, about c and d, the means of the first batch.

    With u = x − c, v = y − d: `cross` C = Σuvᵀ, `left_weighted` Σ‖v‖²u, `right_weighted` Σ‖u‖²v, `product` Σ‖u‖²‖v‖²,
    `unit_cross` C_z = Σz_xz_yᵀ, and `left_sum` Σu, `right_sum` Σv, `left_squares` Σ‖u‖², `right_squares` Σ‖v‖².
    Where both sides are equally wide: `squared_distance_sum` Σ‖x−y‖², and `cosine_sum`, `squared_cosine_sum` over the
    `cosine_count` pairs of which neither row is zero. What is read is on the CPU.
    """

    def __init__(self, left: str = "view_a", right: str = "view_b") -> None:
        self.left_role, self.right_role = left, right
        self.count = self.cosine_count = 0
        self.left_squares = self.right_squares = self.product = 0.0
        self.squared_distance_sum = self.cosine_sum = self.squared_cosine_sum = 0.0
        empty = torch.zeros(0, dtype=torch.float64)
        self._left_shift = self._right_shift = self._left_sum = self._right_sum = empty
        self._left_weighted = self._right_weighted = empty
        self._cross = self._unit_cross = empty.reshape(0, 0)

    def update(self, batch: Batch) -> None:
        """Adds the pairs of a batch of which all roles are finite."""
        left, right = batch.rows(self.left_role), batch.rows(self.right_role)
        if left.shape[0] == 0:
            return
        if self.count == 0:
            self._begin(batch.mean(self.left_role), batch.mean(self.right_role))
        u, v = batch.shifted(self.left_role, self._left_shift), batch.shifted(self.right_role, self._right_shift)
        a = batch.shifted_squares(self.left_role, self._left_shift)
        b = batch.shifted_squares(self.right_role, self._right_shift)
        self.count += left.shape[0]
        self._left_sum += u.sum(0)
        self._right_sum += v.sum(0)
        self.left_squares += float(a.sum())
        self.right_squares += float(b.sum())
        self._cross.addmm_(u.T, v)
        self._left_weighted += b @ u
        self._right_weighted += a @ v
        self.product += float(a @ b)
        left_units, right_units = batch.unit_rows(self.left_role), batch.unit_rows(self.right_role)
        self._unit_cross.addmm_(left_units.T, right_units)
        if left.shape[1] == right.shape[1]:
            cosines = (left_units * right_units).sum(1)
            self.squared_distance_sum += float((left - right).square_().sum())
            self.cosine_sum += float(cosines.sum())
            self.squared_cosine_sum += float(cosines @ cosines)
            both = (batch.norms(self.left_role) > 0.0) & (batch.norms(self.right_role) > 0.0)
            self.cosine_count += int(both.sum())

    def merge(self, other: "CrossMoments") -> None:
        """Adds all pairs of another accumulator of the same roles, that may have other shifts."""
        if (other.left_role, other.right_role) != (self.left_role, self.right_role):
            raise ValueError(f"cross moments of {self.left_role!r} and of {other.left_role!r} do not merge")
        if other.count == 0:
            return
        if self.count == 0:
            self._begin(other._left_shift, other._right_shift)
        self._add_moved(other)
        self.count += other.count
        self._unit_cross += other._unit_cross.to(self._left_shift.device)
        self.squared_distance_sum += other.squared_distance_sum
        self.cosine_sum += other.cosine_sum
        self.squared_cosine_sum += other.squared_cosine_sum
        self.cosine_count += other.cosine_count

    def _begin(self, left: Float[Tensor, " left"], right: Float[Tensor, " right"]) -> None:
        self._left_shift, self._right_shift = left.clone(), right.clone()
        self._left_sum, self._left_weighted = torch.zeros_like(left), torch.zeros_like(left)
        self._right_sum, self._right_weighted = torch.zeros_like(right), torch.zeros_like(right)
        self._cross, self._unit_cross = (left.new_zeros(left.numel(), right.numel()) for _ in range(2))

    def _add_moved(self, other: "CrossMoments") -> None:
        """The sums of the other about these shifts: x − c₁ = u + δ, y − d₁ = v + ε."""
        device, n = self._left_shift.device, other.count
        delta = other._left_shift.to(device) - self._left_shift
        epsilon = other._right_shift.to(device) - self._right_shift
        u, v, cross = other._left_sum.to(device), other._right_sum.to(device), other._cross.to(device)
        left, right = other._left_weighted.to(device), other._right_weighted.to(device)
        a, b, dd, ee = other.left_squares, other.right_squares, float(delta @ delta), float(epsilon @ epsilon)
        along_left, along_right = float(u @ delta), float(v @ epsilon)
        self._left_sum += u + n * delta
        self._right_sum += v + n * epsilon
        self.left_squares += a + 2.0 * along_left + n * dd
        self.right_squares += b + 2.0 * along_right + n * ee
        self._cross += cross + torch.outer(u, epsilon) + torch.outer(delta, v) + n * torch.outer(delta, epsilon)
        self._left_weighted += left + 2.0 * (cross @ epsilon) + ee * u + (b + 2.0 * along_right + n * ee) * delta
        self._right_weighted += right + 2.0 * (delta @ cross) + dd * v + (a + 2.0 * along_left + n * dd) * epsilon
        self.product += other.product + 2.0 * float(right @ epsilon + left @ delta) + ee * a + dd * b + n * dd * ee
        self.product += 4.0 * float(delta @ cross @ epsilon) + 2.0 * ee * along_left + 2.0 * dd * along_right

    @property
    def left_sum(self) -> Float[Tensor, " left"]:
        """Σ(x − c)."""
        return self._left_sum.cpu()

    @property
    def right_sum(self) -> Float[Tensor, " right"]:
        """Σ(y − d)."""
        return self._right_sum.cpu()

    @property
    def cross(self) -> Float[Tensor, "left right"]:
        """C = Σ(x − c)(y − d)ᵀ."""
        return self._cross.cpu()

    @property
    def centred_cross(self) -> Float[Tensor, "left right"]:
        """Σ(x − x̄)(y − ȳ)ᵀ; the cross-covariance is this over N − 1."""
        return (self._cross - torch.outer(self._left_sum, self._right_sum) / max(self.count, 1)).cpu()

    @property
    def unit_cross(self) -> Float[Tensor, "left right"]:
        """C_z = Σz_xz_yᵀ."""
        return self._unit_cross.cpu()

    @property
    def left_weighted(self) -> Float[Tensor, " left"]:
        """Σ‖y − d‖²(x − c)."""
        return self._left_weighted.cpu()

    @property
    def right_weighted(self) -> Float[Tensor, " right"]:
        """Σ‖x − c‖²(y − d)."""
        return self._right_weighted.cpu()
