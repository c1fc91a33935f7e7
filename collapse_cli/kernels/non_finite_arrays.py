"""NaN and infinities in the arrays of a dump, counted while its rows go by."""

from dataclasses import dataclass, field
from typing import Final, final

import torch
from torch import Tensor

from collapse_cli.kernels.batches import STRUCTURED, Batch

__all__ = ["ArrayCount", "NonFiniteArrays"]

#: Attention is looked at by its own analyzers: rows of padding may hold NaN, and only they know which these are.
_ELSEWHERE: Final = frozenset({"attention"})


@final
@dataclass(slots=True)
class ArrayCount:
    """Of one array: rows and entries seen, NaN, infinities of each sign, rows that hold any, and the first of them."""

    rows: int = 0
    entries: int = 0
    nan: int = 0
    positive: int = 0
    negative: int = 0
    affected: int = 0
    first: int | None = None


@final
@dataclass(slots=True)
class NonFiniteArrays:
    """The counts of every floating array by its role. Tokens that are masked may hold anything and are not counted."""

    counts: dict[str, ArrayCount] = field(default_factory=dict)

    def add(self, batch: Batch) -> None:
        """Adds the rows of a batch."""
        mask = batch.roles.get("mask")
        # the accumulators had to know already: only rows that are sequences, and −∞ among logits, say nothing there
        is_finite = batch.finite_count() == batch.count
        for role, tensor in batch.roles.items():
            if tensor.is_floating_point() and role not in _ELSEWHERE:
                is_masked = role == "tokens" and mask is not None and mask.shape == tensor.shape[:2]
                is_known = is_finite and role not in STRUCTURED and not role.endswith("logits")
                self._add(role, tensor, batch, mask if is_masked else None, is_finite=is_known)

    def _add(self, role: str, tensor: Tensor, batch: Batch, mask: Tensor | None, *, is_finite: bool) -> None:
        count = self.counts.setdefault(role, ArrayCount())
        count.rows += tensor.shape[0]
        count.entries += tensor.numel()
        # a sum that is finite has finite terms only; one that is not may have overflowed
        if is_finite or tensor.numel() == 0 or bool(tensor.sum(dtype=torch.float64).isfinite()):
            return
        is_real = torch.ones_like(tensor, dtype=torch.bool) if mask is None else mask.bool()[..., None]
        nan, positive = tensor.isnan() & is_real, tensor.isposinf() & is_real
        negative = tensor.isneginf() & is_real
        count.nan += int(nan.sum())
        count.positive += int(positive.sum())
        count.negative += int(negative.sum())
        # −∞ is a legitimate logit: that of a class that is masked
        bad = nan | positive if role.endswith("logits") else nan | positive | negative
        rows = bad.reshape(tensor.shape[0], -1).any(1)
        count.affected += int(rows.sum())
        if count.first is None and bool(rows.any()):
            count.first = int(batch.indices[rows][0])
