"""Inner products of the attention maps of a layer's heads: cosines of every pair, about uniform and as they are."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.attention_maps import LEAST_ROWS, attention_maps
from collapse_cli.kernels.attention_tally import AttentionTally
from collapse_cli.kernels.attention_visibility import Visibility
from collapse_cli.kernels.batches import Batch

__all__ = ["HeadGram"]

#: ‖A − 1/v‖_F below which a map is uniform and has no direction: definition in the analyzer's manual.
_UNIFORM = 1e-6


@final
class HeadGram:
    """Per pair of heads, sums over sequences with at least eight rows that are valid in every head.

    `correlations` sums ⟨A_h − 1/v, A_g − 1/v⟩ over the norms, of the `pairs` of maps that are both not uniform;
    `cosines` the same of A, `overlaps` Σmin(A_h, A_g)/Σmax over a few rows of each of the `probed` sequences.
    `sequences` counts.
    """

    def __init__(
        self,
        role: str = "attention",
        *,
        visibility: Visibility = Visibility(),  # noqa: B008 - frozen
    ) -> None:
        self.role, self.visibility = role, visibility
        self.tally = AttentionTally()
        self.sequences = self.probed = 0
        self._pairs = torch.zeros(0, 0, dtype=torch.int64)
        self._sums = torch.zeros(3, 0, 0, dtype=torch.float64)

    @property
    def pairs(self) -> Int[Tensor, "heads heads"]:
        """Sequences in which both maps are not uniform."""
        return self._pairs.cpu()

    @property
    def correlations(self) -> Float[Tensor, "heads heads"]:
        """Σ of cosines about uniform."""
        return self._sums[0].cpu()

    @property
    def cosines(self) -> Float[Tensor, "heads heads"]:
        """Σ of cosines."""
        return self._sums[1].cpu()

    @property
    def overlaps(self) -> Float[Tensor, "heads heads"]:
        """Σ of soft intersections over unions."""
        return self._sums[2].cpu()

    def update(self, batch: Batch) -> None:
        """Adds the sequences of a batch."""
        maps = attention_maps(batch, self.role, self.visibility)
        self.tally.add(maps)
        heads = maps.products.shape[1]
        if self._pairs.numel() == 0:
            self._pairs = torch.zeros(heads, heads, dtype=torch.int64, device=batch.device)
            self._sums = torch.zeros(3, heads, heads, dtype=torch.float64, device=batch.device)
        is_used = maps.common & (maps.visible > 1)
        counts = (maps.common.sum(1) >= LEAST_ROWS) & is_used.any(1)
        # a row that sees one key holds a one in every head, and 1/v is orthogonal to what a row is beyond it
        single = (maps.common & (maps.visible == 1)).sum(1)
        uniform = torch.where(is_used, maps.visible.clamp(min=1).to(torch.float64).reciprocal(), 0.0).sum(1)
        raw = (maps.products - single[:, None, None])[counts]
        centred = raw - uniform[counts][:, None, None]
        norms = centred.diagonal(dim1=1, dim2=2).clamp(min=0.0).sqrt()
        is_pair = (norms[:, :, None] >= _UNIFORM) & (norms[:, None, :] >= _UNIFORM)
        scale = norms[:, :, None] * norms[:, None, :]
        self.sequences += int(counts.sum())
        self._pairs += is_pair.sum(0)
        self._sums[0] += torch.where(is_pair, centred / torch.where(is_pair, scale, 1.0), 0.0).sum(0)
        lengths = raw.diagonal(dim1=1, dim2=2).sqrt()
        self._sums[1] += (raw / (lengths[:, :, None] * lengths[:, None, :])).sum(0)
        probes = maps.probes[counts].to(torch.float64)
        distances = maps.distances[counts][probes > 0]
        probes = probes[probes > 0][:, None, None]
        self.probed += distances.shape[0]
        # rows sum to one: Σmin + Σmax is twice their number, Σmax − Σmin the distance
        self._sums[2] += ((2.0 * probes - distances) / (2.0 * probes + distances)).sum(0)

    def merge(self, other: "HeadGram") -> None:
        """Adds the sequences of another one."""
        self.tally.merge(other.tally)
        self.sequences += other.sequences
        self.probed += other.probed
        if other._pairs.numel() == 0:
            return
        if self._pairs.numel() == 0:
            self._pairs, self._sums = other._pairs.clone(), other._sums.clone()
            return
        self._pairs = self._pairs + other._pairs.to(self._pairs.device)
        self._sums = self._sums + other._sums.to(self._sums.device)
