"""The softmax of rows of logits, a bounded number of rows at a time, in float64."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collapse_cli.kernels.batches import UNLABELLED

__all__ = ["LabelColumn", "SoftmaxRows", "label_column", "pieces", "softmax_rows"]

#: Entries of the rows that are prepared together: 2 MiB in float64; one row where a vocabulary is larger.
_PIECE_ENTRIES = 1 << 18


@final
@dataclass(frozen=True, slots=True)
class SoftmaxRows:
    """Rows of logits z with at least two classes that are not masked by −∞, and what their softmax is made of.

    `predicted` is the first class of the largest logit, `weights` are e^{z − max z} but 0 for it, `rest` is their sum
    S; hence log Z = max z + log(1 + S), the confidence is 1/(1 + S) and its log odds are −log S. `margin` is the
    largest logit less the second. `is_visible` marks what is not masked; None where nothing is.
    """

    logits: Float[Tensor, "rows classes"]
    is_visible: Bool[Tensor, "rows classes"] | None
    largest: Float[Tensor, " rows"]
    predicted: Int[Tensor, " rows"]
    below: Float[Tensor, "rows classes"]
    weights: Float[Tensor, "rows classes"]
    rest: Float[Tensor, " rows"]
    margin: Float[Tensor, " rows"]

    @property
    def visible(self) -> Int[Tensor, " rows"]:
        """How many classes of each row are not masked."""
        if self.is_visible is None:
            return torch.full_like(self.predicted, self.logits.shape[1])
        return self.is_visible.sum(1)

    @property
    def smallest(self) -> float:
        """The least logit that is not masked."""
        seen = self.logits if self.is_visible is None else self.logits[self.is_visible]
        return float(seen.min())

    @property
    def log_z(self) -> Float[Tensor, " rows"]:
        """The logarithm of Σe^z."""
        return self.largest + self.rest.log1p()

    @property
    def confidence(self) -> Float[Tensor, " rows"]:
        """The largest probability."""
        return (1.0 + self.rest).reciprocal()

    @property
    def entropy(self) -> Float[Tensor, " rows"]:
        """Entropy of the softmax, nats: log(1 + S) + Σ e^{z − max z}(max z − z)/(1 + S), no term of it negative."""
        # what is masked adds 0·∞, which is no number
        below = self.below if self.is_visible is None else self.below.where(self.is_visible, 0.0)
        surprise: Tensor = torch.linalg.vecdot(self.weights, below).neg_()
        return self.rest.log1p() + surprise / (1.0 + self.rest)

    @property
    def probabilities(self) -> Float[Tensor, "rows classes"]:
        """The softmax."""
        terms = self.weights.scatter(1, self.predicted[:, None], 1.0)
        return terms.div_((1.0 + self.rest)[:, None])

    @property
    def spread(self) -> Float[Tensor, " rows"]:
        """The standard deviation of the logits of each row over the classes that are not masked."""
        if self.is_visible is None:
            deviation: Tensor = self.below.std(1, correction=0)
            return deviation
        count = self.is_visible.sum(1).double()
        mean = self.below.where(self.is_visible, 0.0).sum(1) / count
        return (self.below - mean[:, None]).where(self.is_visible, 0.0).square().sum(1).div(count).sqrt()


def softmax_rows(logits: Float[Tensor, "rows classes"]) -> SoftmaxRows:
    """The softmax of rows that have at least two classes above −∞ each, and neither NaN nor +∞."""
    rows = logits.to(torch.float64)
    largest, predicted = rows.max(1)
    below = rows - largest[:, None]
    is_visible = None if bool(below.amin() > -torch.inf) else below > -torch.inf
    weights = below.exp().scatter_(1, predicted[:, None], 0.0)
    margin = -below.scatter(1, predicted[:, None], -torch.inf).amax(1)
    return SoftmaxRows(rows, is_visible, largest, predicted, below, weights, weights.sum(1), margin)


def pieces(logits: Float[Tensor, "rows classes"]) -> Iterator[Int[Tensor, " kept"]]:
    """Which rows to prepare together: those with two classes or more above −∞, a bounded number of entries at once."""
    rows, classes = logits.shape
    if classes < 2:
        return
    step = max(1, _PIECE_ENTRIES // classes)
    for first in range(0, rows, step):
        piece = logits[first : first + step]
        is_kept = piece.amin(1) > -torch.inf
        if not bool(is_kept.all()):
            is_kept = (piece > -torch.inf).sum(1) > 1
        kept = is_kept.nonzero().flatten() + first
        if kept.numel():
            yield kept


@final
@dataclass(frozen=True, slots=True)
class LabelColumn:
    """The classes of some rows: 0 where there is none, which rows have one, and how many are none of the classes."""

    values: Int[Tensor, " rows"]
    is_labelled: Bool[Tensor, " rows"]
    impossible: int


def label_column(labels: Tensor, classes: int) -> LabelColumn:
    """Labels of rows with so many classes; −1 and −100 mark a row without one."""
    values = labels.reshape(-1).long()
    is_unlabelled = (values == UNLABELLED[0]) | (values == UNLABELLED[1])
    is_class = (values >= 0) & (values < classes)
    return LabelColumn(torch.where(is_class, values, 0), is_class, int((~is_class & ~is_unlabelled).sum()))
