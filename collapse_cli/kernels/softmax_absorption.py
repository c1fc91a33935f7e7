"""Softmax in the dtype of training: rows whose largest term absorbs all others, so that 1 + S is 1."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, final

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.batches import Batch
from collapse_cli.kernels.quantiles import QuantileSketch
from collapse_cli.kernels.softmax_rows import LabelColumn, SoftmaxRows, label_column, pieces, softmax_rows

__all__ = ["SoftmaxAbsorption", "loss_dtype", "rounding_unit", "training_dtype"]

#: What metadata and stored dtypes call the floating dtypes in which a loss is computed.
_NAMES: Final[Mapping[str, torch.dtype]] = MappingProxyType(
    dict.fromkeys(("float64", "fp64", "f64", "double"), torch.float64)
    | dict.fromkeys(("float32", "fp32", "f32", "float", "single", "tf32"), torch.float32)
    | dict.fromkeys(("float16", "fp16", "f16", "half"), torch.float16)
    | dict.fromkeys(("bfloat16", "bf16"), torch.bfloat16)
)


def training_dtype(name: str) -> torch.dtype | None:
    """The dtype of that name (`fp32`, `torch.bfloat16`, `F16`); None if a loss is computed in none of that name."""
    return _NAMES.get(name.strip().lower().removeprefix("torch."))


def loss_dtype(metadata: Mapping[str, str], dtypes: Mapping[str, str]) -> torch.dtype:
    """The dtype in which the loss took its softmax: as metadata says, else that of the logits, else float32."""
    named = training_dtype(metadata.get("training_dtype", ""))
    return named or training_dtype(dtypes.get("logits", "")) or torch.float32


def rounding_unit(dtype: torch.dtype) -> float:
    """u, half the distance from 1 to the next number: 1 + S rounds to 1 exactly if S ≤ u (ties go to even)."""
    return torch.finfo(dtype).eps / 2.0


@final
class SoftmaxAbsorption:
    """Over `count` finite rows with two classes above −∞, cast to a dtype: S = Σ_{j≠max} e^{z_j − max z} against u.

    `absorbed` rows have S ≤ u, `operational` ones have Σe^{z − max z} = 1 when the dtype itself adds. Of the
    `labelled` rows, `lost` are absorbed and right, `zero_loss` have a cross entropy of exactly 0. `overflowing` rows
    have logits the dtype cannot hold; these are taken as its largest number. `headroom` is the sketch of log S − log u,
    `margin` that of (z_y − max_{k≠y} z_k)/‖h‖ over labelled rows with features h ≠ 0.
    """

    def __init__(self, dtype: torch.dtype, role: str = "logits") -> None:
        self.dtype, self.role, self.unit = dtype, role, rounding_unit(dtype)
        self.count = self.absorbed = self.operational = self.overflowing = 0
        self.labelled = self.lost = self.zero_loss = self.impossible_labels = self.zero_features = 0
        self.headroom, self.margin = QuantileSketch(), QuantileSketch()
        self._log_others = 0.0

    def update(self, batch: Batch) -> None:
        """Adds the finite rows of a batch."""
        logits = batch.selected(self.role)
        labels = batch.selected("labels") if "labels" in batch.roles else None
        norms = batch.norms("features") if "features" in batch.roles and labels is not None else None
        for kept in pieces(logits):
            cast = self._cast(logits[kept])
            rows = softmax_rows(cast)
            is_absorbed = rows.rest <= self.unit
            # rounding of C terms hides no more than that from any order of adding them: the dtype is asked of few rows
            is_near = rows.rest <= 2.0 * logits.shape[1] * self.unit
            self._add(rows, is_absorbed, cast[is_near])
            if labels is None:
                continue
            column = label_column(labels[kept], logits.shape[1])
            self._add_labelled(column, is_absorbed & (rows.predicted == column.values))
            self.zero_loss += _zero_losses(cast[is_near], column.values[is_near], column.is_labelled[is_near])
            if norms is not None:
                self._add_margins(rows, column, norms[kept])

    def _cast(self, logits: Float[Tensor, "rows classes"]) -> Float[Tensor, "rows classes"]:
        cast = logits.to(self.dtype)
        is_lost = cast.isinf() & logits.isfinite()
        self.overflowing += int(is_lost.any(1).sum())
        return torch.where(is_lost, torch.finfo(self.dtype).max * cast.sign(), cast)

    def _add(self, rows: SoftmaxRows, is_absorbed: Tensor, near: Float[Tensor, "near classes"]) -> None:
        self.count += rows.rest.numel()
        self.absorbed += int(is_absorbed.sum())
        if near.numel():
            self.operational += int(((near - near.amax(1, keepdim=True)).exp().sum(1) == 1.0).sum())
        # S may be below the least float64; its largest term is always there
        log_rest = torch.where(rows.rest > 0.0, rows.rest.log(), -rows.margin)
        self.headroom.add(log_rest - math.log(self.unit))
        self._log_others += float((rows.visible - 1).double().log().sum())

    def _add_labelled(self, column: LabelColumn, is_lost: Tensor) -> None:
        self.impossible_labels += column.impossible
        self.labelled += int(column.is_labelled.sum())
        self.lost += int((is_lost & column.is_labelled).sum())

    def _add_margins(self, rows: SoftmaxRows, column: LabelColumn, norms: Float[Tensor, " rows"]) -> None:
        own = rows.logits.gather(1, column.values[:, None])[:, 0]
        margins = torch.where(rows.predicted == column.values, rows.margin, own - rows.largest)
        is_used = column.is_labelled & (norms > 0.0)
        self.zero_features += int((column.is_labelled & ~is_used).sum())
        self.margin.add(margins[is_used] / norms[is_used])

    def merge(self, other: "SoftmaxAbsorption") -> None:
        """Adds all rows of another accumulator of the same role and dtype."""
        if (other.role, other.dtype) != (self.role, self.dtype):
            raise ValueError(f"softmax in {self.dtype} and in {other.dtype} do not merge")
        self.count += other.count
        self.absorbed += other.absorbed
        self.operational += other.operational
        self.overflowing += other.overflowing
        self.labelled += other.labelled
        self.lost += other.lost
        self.zero_loss += other.zero_loss
        self.impossible_labels += other.impossible_labels
        self.zero_features += other.zero_features
        self.headroom.merge(other.headroom)
        self.margin.merge(other.margin)
        self._log_others += other._log_others

    @property
    def equal_headroom(self) -> float:
        """Headroom of equal logits: log(C − 1) − log u, averaged over rows with masked classes."""
        return self._log_others / max(self.count, 1) - math.log(self.unit)


def _zero_losses(cast: Float[Tensor, "rows classes"], classes: Tensor, is_labelled: Tensor) -> int:
    """Labelled rows whose cross entropy is exactly 0 as the dtype itself computes it."""
    logs = torch.log_softmax(cast, 1).gather(1, classes[:, None])[:, 0]
    return int(((logs == 0.0) & is_labelled).sum())
