"""One pass over rows of logits: their scale, their certainty, what they answer and whether it is right."""

import math
from typing import final

import torch
from torch import Tensor

from collapse_cli.kernels.batches import Batch
from collapse_cli.kernels.calibration import CalibrationBins
from collapse_cli.kernels.prediction_counts import PredictionCounts
from collapse_cli.kernels.quantiles import QuantileSketch
from collapse_cli.kernels.softmax_rows import SoftmaxRows, label_column, pieces, softmax_rows

__all__ = ["LogitRows"]

#: Sums over the rows.
_LOG_Z, _LOG_Z_SQUARE, _LOG_VISIBLE, _LOG_VISIBLE_SQUARE, _ENTROPY, _CONFIDENCE = range(6)


@final
class LogitRows:
    """Sums over the finite rows with at least two classes above −∞, `count` of them; −∞ is a masked class.

    `short_rows` have fewer and are in nothing else; `masked` counts the entries at −∞ of the others, `tied` rows with
    two equal largest logits; `impossible_labels` are neither a class nor −1 or −100. `spread` and `margin` are sketches
    of the rows' standard deviation and of the largest logit less the second; `bins` and `classes` hold the labelled
    rows and the classes. State grows with the number of classes only.
    """

    def __init__(self, role: str = "logits") -> None:
        self.role, self.width = role, 0
        self.count = self.short_rows = self.masked = self.tied = self.labelled = self.impossible_labels = 0
        self.smallest_logit, self.largest_logit = math.inf, -math.inf
        self.spread, self.margin = QuantileSketch(), QuantileSketch()
        self.bins, self.classes = CalibrationBins(), PredictionCounts()
        self._sums = torch.zeros(6, dtype=torch.float64)

    def update(self, batch: Batch) -> None:
        """Adds the finite rows of a batch."""
        logits = batch.selected(self.role)
        self.width = logits.shape[1]
        labels = batch.selected("labels") if "labels" in batch.roles else None
        groups = batch.selected("groups").reshape(-1).long() if "groups" in batch.roles else None
        before = self.count
        for kept in pieces(logits):
            rows = softmax_rows(logits[kept])
            self._add(rows, None if labels is None else labels[kept], None if groups is None else groups[kept])
        self.short_rows += logits.shape[0] - (self.count - before)

    def _add(self, rows: SoftmaxRows, labels: Tensor | None, groups: Tensor | None) -> None:
        visible = rows.visible
        self.count += visible.numel()
        self.masked += rows.logits.numel() - int(visible.sum())
        self.tied += int((rows.margin == 0.0).sum())
        self.largest_logit = max(self.largest_logit, float(rows.largest.max()))
        self.smallest_logit = min(self.smallest_logit, rows.smallest)
        self.spread.add(rows.spread)
        self.margin.add(rows.margin)
        log_z, log_visible = rows.log_z, visible.double().log()
        scalars = (log_z, log_z.square(), log_visible, log_visible.square(), rows.entropy, rows.confidence)
        self._sums += torch.stack([scalar.sum() for scalar in scalars]).to(self._sums.device)
        column = None if labels is None else label_column(labels, self.width)
        self.classes.add(rows, column, groups)
        if column is not None:
            self.impossible_labels += column.impossible
            self.labelled += int(column.is_labelled.sum())
            is_right = rows.predicted == column.values
            self.bins.add(rows.rest[column.is_labelled], is_right[column.is_labelled])

    def merge(self, other: "LogitRows") -> None:
        """Adds all rows of another accumulator of the same role."""
        if other.role != self.role:
            raise ValueError(f"rows of {self.role!r} and of {other.role!r} do not merge")
        self.width = max(self.width, other.width)
        self.count += other.count
        self.short_rows += other.short_rows
        self.masked += other.masked
        self.tied += other.tied
        self.labelled += other.labelled
        self.impossible_labels += other.impossible_labels
        self.largest_logit = max(self.largest_logit, other.largest_logit)
        self.smallest_logit = min(self.smallest_logit, other.smallest_logit)
        self.spread.merge(other.spread)
        self.margin.merge(other.margin)
        self.bins.merge(other.bins)
        self.classes.merge(other.classes)
        self._sums += other._sums.to(self._sums.device)

    def _mean(self, which: int) -> float:
        return float(self._sums[which]) / max(self.count, 1)

    @property
    def log_z_mean(self) -> float:
        """Mean of log Z."""
        return self._mean(_LOG_Z)

    @property
    def log_z_square(self) -> float:
        """Mean of log² Z."""
        return self._mean(_LOG_Z_SQUARE)

    @property
    def log_visible_mean(self) -> float:
        """Mean of log C, C the classes of a row that are not masked: log Z of logits that are all zero."""
        return self._mean(_LOG_VISIBLE)

    @property
    def log_visible_square(self) -> float:
        """Mean of log² C."""
        return self._mean(_LOG_VISIBLE_SQUARE)

    @property
    def entropy_mean(self) -> float:
        """Mean entropy of a row's softmax, nats."""
        return self._mean(_ENTROPY)

    @property
    def confidence_mean(self) -> float:
        """Mean of the largest probability."""
        return self._mean(_CONFIDENCE)
