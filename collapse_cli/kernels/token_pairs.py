"""Pairs of tokens of one sequence: are those of one object closer than those of two?"""

from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collapse_cli.kernels.batches import UNLABELLED, row_hash

__all__ = ["TokenPairs"]

#: Pairs of tokens offered by one sequence, and kept of all: a share estimated on them has a standard error of .0011.
_PAIRS_PER_SEQUENCE, _PAIRS = 512, 200_000


@final
class TokenPairs:
    """Cosines of pairs of labelled tokens of one sequence, and whether both have the same label.

    Up to 512 pairs a sequence (all, in both orders, where there are no more), of which the 200,000 with the smallest
    hashes stay: which do depends on the data and the seed alone.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.seed = seed
        self._keys = torch.zeros(0, dtype=torch.int64)
        self._cosines = torch.zeros(0, dtype=torch.float64)
        self._is_same = torch.zeros(0, dtype=torch.bool)

    def offer(
        self,
        units: Float[Tensor, "sequences tokens features"],
        labels: Int[Tensor, "sequences tokens"],
        valid: Bool[Tensor, "sequences tokens"],
        *,
        index: Int[Tensor, " sequences"],
    ) -> None:
        """Offers pairs of the sequences; `index` are their rows in the whole dump."""
        named = valid & (labels != UNLABELLED[0]) & (labels != UNLABELLED[1])
        count = named.sum(1, keepdim=True)
        order = (~named).to(torch.int8).argsort(dim=1, stable=True)
        pairs = count * (count - 1)
        number = torch.arange(_PAIRS_PER_SEQUENCE, device=units.device)[None, :]
        name = index[:, None] * _PAIRS_PER_SEQUENCE + number
        keys = row_hash(name, self.seed)
        drawn = (row_hash(name, self.seed + 1) & 0x7FFFFFFFFFFFFFFF) % pairs.clamp_min(1)
        which = torch.where(pairs <= _PAIRS_PER_SEQUENCE, number, drawn)
        is_pair = (which < pairs) & (keys <= self._bound())
        row, column = is_pair.nonzero(as_tuple=True)
        left = which[row, column] // (count[row, 0] - 1)
        right = (left + 1 + which[row, column] % (count[row, 0] - 1)) % count[row, 0]
        left, right = order[row, left], order[row, right]
        cosines = (units[row, left] * units[row, right]).sum(1)
        self._keep(keys[row, column].cpu(), cosines.cpu(), (labels[row, left] == labels[row, right]).cpu())

    def _bound(self) -> int:
        return int(self._keys[-1]) if self._keys.numel() == _PAIRS else torch.iinfo(torch.int64).max

    def _keep(self, keys: Int[Tensor, " pairs"], cosines: Tensor, is_same: Bool[Tensor, " pairs"]) -> None:
        if keys.numel() == 0:
            return
        keys = torch.cat((self._keys, keys))
        order = keys.argsort()[:_PAIRS]
        self._keys = keys[order]
        self._cosines = torch.cat((self._cosines, cosines))[order]
        self._is_same = torch.cat((self._is_same, is_same))[order]

    def merge(self, other: "TokenPairs") -> None:
        """Offers the pairs that another accumulator with the same seed has kept."""
        if other.seed != self.seed:
            raise ValueError("pairs of different seeds do not merge")
        self._keep(other._keys, other._cosines, other._is_same)

    def counts(self) -> tuple[int, int]:
        """Pairs of one label and pairs of two that are kept."""
        same = int(self._is_same.sum())
        return same, self._is_same.numel() - same

    def auc(self) -> float | None:
        """P(the cosine of a same pair > that of a different pair), ties half; None without both kinds."""
        same, different = self._cosines[self._is_same], self._cosines[~self._is_same].sort().values
        if not same.numel() or not different.numel():
            return None
        below = torch.searchsorted(different, same) + torch.searchsorted(different, same, right=True)
        return float(below.sum()) / (2.0 * same.numel() * different.numel())
