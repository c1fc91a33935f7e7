"""Sums over the rows of every class, from which class means, within and between scatter are derived."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.batches import Batch, outer_products, symmetric
from collapse_cli.kernels.class_slots import ClassSlots, grown

__all__ = ["ClassMoments"]


@final
class ClassMoments:
    """Per class k: rows n_k, S_k = Σ(x−c), q_k = Σ‖x−c‖², T_k = Σx/‖x‖; and G = Σ(x−c)(x−c)ᵀ of the labelled rows.

    Rows labelled −1 or −100 stay out. c is the mean of the first batch, labelled or not: the shift of the `Moments` fed
    with the same batches, which share their product with G where every row is labelled. What is read is float64 on the
    CPU, classes in order of their label.
    """

    def __init__(self, role: str = "features", labels: str = "labels") -> None:
        self.role, self.label_role = role, labels
        self.count = 0
        self._slots = ClassSlots()
        self._shift = torch.zeros(0, dtype=torch.float64)
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)
        self._counts, self._unit_counts = (torch.zeros(0, dtype=torch.int64) for _ in range(2))
        self._squares = torch.zeros(0, dtype=torch.float64)
        self._sums, self._unit_sums = (torch.zeros(0, 0, dtype=torch.float64) for _ in range(2))

    def update(self, batch: Batch) -> None:
        """Adds the finite, labelled rows of a batch."""
        if batch.finite_count() == 0:
            return
        if self._shift.numel() == 0:
            self._begin(batch.mean(self.role))
        labels, place, is_labelled = batch.classes(self.label_role)
        if labels.numel() == 0:
            return
        rows, units = batch.shifted(self.role, self._shift), batch.unit_rows(self.role)
        squares, is_unit = batch.shifted_squares(self.role, self._shift), batch.norms(self.role) > 0.0
        if is_labelled is None:
            self._scatter += batch.upper_scatter(self.role, self._shift)
        else:
            rows, units, squares, is_unit = (part[is_labelled] for part in (rows, units, squares, is_unit))
            outer_products(rows, self._scatter)
        self.count += rows.shape[0]
        slots = self._room(labels)[place]
        self._counts.index_add_(0, slots, torch.ones_like(slots))
        self._unit_counts.index_add_(0, slots, is_unit.long())
        self._squares.index_add_(0, slots, squares)
        self._sums.index_add_(0, slots, rows)
        self._unit_sums.index_add_(0, slots, units)

    def merge(self, other: "ClassMoments") -> None:
        """Adds all rows of another accumulator of the same roles, that may have another shift and other classes."""
        if (other.role, other.label_role) != (self.role, self.label_role):
            raise ValueError(f"class moments of {self.role!r} and of {other.role!r} do not merge")
        if other._shift.numel() == 0:
            return
        if self._shift.numel() == 0:
            self._begin(other._shift)
        device, used = self._shift.device, other._slots.count
        step = other._shift.to(device) - self._shift
        counts, sums = other._counts[:used].to(device), other._sums[:used].to(device)
        total = sums.sum(0)
        slots = self._room(other._slots.by_appearance.to(device))
        self.count += other.count
        self._counts.index_add_(0, slots, counts)
        self._unit_counts.index_add_(0, slots, other._unit_counts[:used].to(device))
        moved = other._squares[:used].to(device) + 2.0 * (sums @ step) + counts * (step @ step)
        self._squares.index_add_(0, slots, moved)
        self._sums.index_add_(0, slots, sums + torch.outer(counts.double(), step))
        self._unit_sums.index_add_(0, slots, other._unit_sums[:used].to(device))
        cross = torch.outer(total, step)
        self._scatter += other._scatter.to(device) + cross + cross.T + other.count * torch.outer(step, step)

    def _begin(self, shift: Float[Tensor, " features"]) -> None:
        self._shift = shift.clone()
        self._scatter = shift.new_zeros(shift.numel(), shift.numel())
        self._sums, self._unit_sums = (shift.new_zeros(0, shift.numel()) for _ in range(2))
        self._squares = self._squares.to(shift.device)
        self._counts, self._unit_counts = self._counts.to(shift.device), self._unit_counts.to(shift.device)

    def _room(self, labels: Int[Tensor, " found"]) -> Int[Tensor, " found"]:
        slots, count = self._slots.places(labels), self._slots.count
        self._counts, self._unit_counts = grown(self._counts, count), grown(self._unit_counts, count)
        self._squares = grown(self._squares, count)
        self._sums, self._unit_sums = grown(self._sums, count), grown(self._unit_sums, count)
        return slots

    @property
    def labels(self) -> Int[Tensor, " classes"]:
        """The labels that occurred, ascending."""
        return self._slots.labels.cpu()

    @property
    def counts(self) -> Int[Tensor, " classes"]:
        """n_k."""
        return self._counts[self._slots.order].cpu()

    @property
    def unit_counts(self) -> Int[Tensor, " classes"]:
        """Rows of each class that are not zero."""
        return self._unit_counts[self._slots.order].cpu()

    @property
    def shift(self) -> Float[Tensor, " features"]:
        """c, the mean of the first batch."""
        return self._shift.cpu()

    @property
    def sums(self) -> Float[Tensor, "classes features"]:
        """S_k = Σ(x − c)."""
        return self._sums[self._slots.order].cpu()

    @property
    def squares(self) -> Float[Tensor, " classes"]:
        """q_k = Σ‖x − c‖²."""
        return self._squares[self._slots.order].cpu()

    @property
    def unit_sums(self) -> Float[Tensor, "classes features"]:
        """T_k = Σx/‖x‖."""
        return self._unit_sums[self._slots.order].cpu()

    @property
    def means(self) -> Float[Tensor, "classes features"]:
        """m_k."""
        return self.shift + self.sums / self.counts[:, None]

    @property
    def variances(self) -> Float[Tensor, " classes"]:
        """V_k = (1/n_k)Σ‖x − m_k‖² = q_k/n_k − ‖S_k/n_k‖², never negative."""
        counts = self.counts
        return (self.squares / counts - (self.sums / counts[:, None]).square().sum(1)).clamp_min_(0.0)

    @property
    def centred_scatter(self) -> Float[Tensor, "features features"]:
        """Σ(x − x̄)(x − x̄)ᵀ over the labelled rows, x̄ their mean."""
        total = self._sums.sum(0)
        return (symmetric(self._scatter) - torch.outer(total, total) / max(self.count, 1)).cpu()

    @property
    def within_scatter(self) -> Float[Tensor, "features features"]:
        """W = ΣΣ(x − m_k)(x − m_k)ᵀ = G − Σ S_kS_kᵀ/n_k, over all classes, small ones included; Σ_W is W/N."""
        if self.count == 0:
            return symmetric(self._scatter).cpu()
        scaled = self._sums[: self._slots.count] / self._counts[: self._slots.count, None].double().sqrt()
        return (symmetric(self._scatter) - scaled.T @ scaled).cpu()
