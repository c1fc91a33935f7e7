"""Entropies of the rows of attention, per head: their means, and how they grow with the keys that a row sees."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.attention_maps import LEAST_ROWS, attention_maps
from collapse_cli.kernels.attention_tally import AttentionTally
from collapse_cli.kernels.attention_visibility import Visibility
from collapse_cli.kernels.batches import Batch

__all__ = ["AttentionRows"]

#: float64 entries of the token matrices that are multiplied at once: 16 MiB.
_TOKEN_ENTRIES = 1 << 21


@final
class AttentionRows:
    """Per head, over the sequences with at least eight valid rows: sums of what row entropies say.

    Rows that see one key are left out. `sequences` counts per head, `share` is Σ of the mean of H/log v of a sequence.
    `regression` are n, Σx, Σy, Σxx and Σxy of x = log v, y = H over all rows. `smoothed` is Σ of the mean of
    −Σ A log(A + 10⁻⁶) over a few rows of a sequence, `smoothed_sequences` how many. `largest_tokens` is the largest
    ‖X‖₂² of the tokens of a sequence, where they are asked for (`with_tokens`).
    """

    def __init__(
        self,
        role: str = "attention",
        *,
        visibility: Visibility = Visibility(),  # noqa: B008 - frozen
        with_tokens: bool = False,
    ) -> None:
        self.role, self.visibility, self.with_tokens = role, visibility, with_tokens
        self.tally = AttentionTally()
        self.smoothed_sequences = 0
        self.largest_tokens = 0.0
        self.least_keys = self.most_keys = 0
        self._sequences = torch.zeros(0, dtype=torch.int64)
        self._sums = torch.zeros(7, 0, dtype=torch.float64)

    @property
    def sequences(self) -> Int[Tensor, " heads"]:
        """Sequences that count, per head."""
        return self._sequences.cpu()

    @property
    def share(self) -> Float[Tensor, " heads"]:
        """Σ over sequences of the mean of H/log v."""
        return self._sums[0].cpu()

    @property
    def regression(self) -> Float[Tensor, "sums heads"]:
        """n, Σx, Σy, Σxx, Σxy over rows."""
        return self._sums[1:6].cpu()

    @property
    def smoothed(self) -> Float[Tensor, " heads"]:
        """Σ over sequences of the mean smoothed entropy."""
        return self._sums[6].cpu()

    def update(self, batch: Batch) -> None:
        """Adds the sequences of a batch."""
        maps = attention_maps(batch, self.role, self.visibility)
        self.tally.add(maps)
        if self._sequences.numel() == 0:
            self._sequences = torch.zeros(maps.entropy.shape[1], dtype=torch.int64, device=batch.device)
            self._sums = torch.zeros(7, maps.entropy.shape[1], dtype=torch.float64, device=batch.device)
        is_long = maps.is_valid.sum(2) >= LEAST_ROWS
        is_used = maps.is_valid & (maps.visible > 1)[:, None] & is_long[..., None]
        number = is_used.sum(2)
        counts = number > 0
        scale = maps.visible.clamp(min=2).to(torch.float64).log()[:, None]
        entropy = torch.where(is_used, maps.entropy, 0.0)
        self._sequences += counts.sum(0)
        self._sums[0] += ((entropy / scale).sum(2) / number.clamp(min=1)).sum(0)
        weight = is_used.to(torch.float64)
        terms = (weight, weight * scale, entropy, weight * scale.square(), entropy * scale)
        for place, term in enumerate(terms, start=1):
            self._sums[place] += term.sum((0, 2))
        is_probed = maps.probes > 0
        self.smoothed_sequences += int(is_probed.sum())
        self._sums[6] += maps.smoothed[is_probed].sum(0)
        used_keys = maps.visible[is_used.any(1)]
        if used_keys.numel():
            self._widen(int(used_keys.min()), int(used_keys.max()))
        if self.with_tokens and "tokens" in batch.roles:
            self.largest_tokens = max(self.largest_tokens, _largest_token_norm(batch))

    def merge(self, other: "AttentionRows") -> None:
        """Adds the sequences of another one."""
        self.tally.merge(other.tally)
        self.smoothed_sequences += other.smoothed_sequences
        self.largest_tokens = max(self.largest_tokens, other.largest_tokens)
        if other.most_keys:
            self._widen(other.least_keys, other.most_keys)
        if other._sequences.numel() == 0:
            return
        if self._sequences.numel() == 0:
            self._sequences, self._sums = other._sequences.clone(), other._sums.clone()
            return
        self._sequences = self._sequences + other._sequences.to(self._sequences.device)
        self._sums = self._sums + other._sums.to(self._sums.device)

    def _widen(self, least: int, most: int) -> None:
        self.least_keys = min(self.least_keys or least, least)
        self.most_keys = max(self.most_keys, most)


def _largest_token_norm(batch: Batch) -> float:
    """The largest ‖X‖₂² of the real and finite tokens of one sequence."""
    tokens, mask = batch.selected("tokens"), batch.roles.get("mask")
    if tokens.numel() == 0:
        return 0.0
    largest = 0.0
    is_real = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
    if mask is not None and batch.selected("mask").shape[1] == tokens.shape[1]:
        is_real = batch.selected("mask").to(tokens.device) != 0
    together = max(1, _TOKEN_ENTRIES // (tokens.shape[1] * tokens.shape[2]))
    for first in range(0, tokens.shape[0], together):
        rows = tokens[first : first + together].to(torch.float64)
        is_used = is_real[first : first + together] & rows.isfinite().all(2)
        rows = torch.where(is_used[..., None], rows, 0.0)
        gram = rows @ rows.mT if rows.shape[1] <= rows.shape[2] else rows.mT @ rows
        if bool(gram.isfinite().all()):
            largest = max(largest, float(torch.linalg.eigvalsh(gram)[:, -1].max()))
    return largest
