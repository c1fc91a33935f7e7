"""How many different rows there are: exactly by their hashes, beyond ten million by HyperLogLog."""

from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["DistinctRows", "content_hash"]

#: Hashes kept, 80 MB; with more different rows than that the number is estimated.
LARGEST_SET = 10_000_000
#: 2¹⁴ registers: relative standard error 1.04/√16384 = .0081 (Flajolet et al. 2007).
_REGISTER_BITS = 14
_REMAINING_BITS = 64 - _REGISTER_BITS
_WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int32}
_FACTOR_SEED = 20


def content_hash(rows: Tensor) -> Int[Tensor, " rows"]:
    """A 64-bit hash of each row: Σ wordⱼ·fⱼ mod 2⁶⁴ with fixed random odd fⱼ, then mixed; −0 and 0 are the same.

    Two different rows collide with 2⁻⁶⁴ times the largest power of two that divides all differences of their words.
    """
    flat = rows.reshape(rows.shape[0], -1)
    flat = (flat + 0.0 if flat.is_floating_point() else flat.long()).contiguous()
    words = flat.view(_WORDS[flat.element_size()])
    generator = torch.Generator().manual_seed(_FACTOR_SEED)
    factors = torch.randint(-(2**62), 2**62, (words.shape[1],), generator=generator) * 2 + 1
    hashes = (words * factors.to(rows.device)).sum(1)
    return _mixed(_mixed(hashes))


def _mixed(words: Int[Tensor, " rows"]) -> Int[Tensor, " rows"]:
    """The 64-bit finaliser of MurmurHash3 (Appleby 2011), a bijection."""
    for multiplier in (-0x00AE502812AA7333, -0x3B314601E57A13AD):
        words = (words ^ ((words >> 33) & 0x7FFFFFFF)) * multiplier
    return words ^ ((words >> 33) & 0x7FFFFFFF)


@final
class DistinctRows:
    """A set of hashes that becomes a HyperLogLog sketch when it outgrows ten million; union is its merge."""

    def __init__(self, largest: int = LARGEST_SET) -> None:
        self._largest = largest
        self._known: Tensor | None = None
        self._waiting: list[Tensor] = []
        self._registers: Tensor | None = None

    def add(self, hashes: Int[Tensor, " rows"]) -> None:
        """Adds rows by their hashes."""
        self._waiting.append(hashes)
        known = 0 if self._known is None else self._known.numel()
        # sorting again only when as much is waiting as is known keeps the cost per row constant
        if sum(part.numel() for part in self._waiting) > max(known, 1 << 20):
            self._settle()

    def merge(self, other: "DistinctRows") -> None:
        """Adds the rows of another set."""
        if other._registers is not None:
            self._settle()
            self._sketch(other._registers)
        for part in [*([] if other._known is None else [other._known]), *other._waiting]:
            self.add(part if self._known is None else part.to(self._known.device))

    def _settle(self) -> None:
        parts = [*([] if self._known is None else [self._known]), *self._waiting]
        if not parts:
            return
        self._known, self._waiting = torch.unique(torch.cat(parts)), []
        if self._registers is not None or self._known.numel() > self._largest:
            self._sketch(torch.zeros(1 << _REGISTER_BITS, dtype=torch.int64))

    def _sketch(self, registers: Int[Tensor, " registers"]) -> None:
        """Turns what is known into registers and joins them with others."""
        known = torch.zeros(0, dtype=torch.int64) if self._known is None else self._known
        if self._registers is None:
            self._registers = torch.zeros(1 << _REGISTER_BITS, dtype=torch.int64, device=known.device)
        places = (known >> _REMAINING_BITS) & ((1 << _REGISTER_BITS) - 1)
        remaining = (known & ((1 << _REMAINING_BITS) - 1)).double()
        leading = _REMAINING_BITS + 1 - torch.frexp(remaining).exponent.long()
        self._registers.scatter_reduce_(
            0, places.to(self._registers.device), leading.to(self._registers.device), "amax"
        )
        self._registers = torch.maximum(self._registers, registers.to(self._registers.device))
        self._known = None

    @property
    def is_exact(self) -> bool:
        """Whether the number is a count."""
        self._settle()
        return self._registers is None

    @property
    def number(self) -> int:
        """How many different rows there are, or an estimate with a relative standard error of .8 %."""
        self._settle()
        if self._registers is None:
            return 0 if self._known is None else self._known.numel()
        registers = self._registers.double()
        count = registers.numel()
        # α of Flajolet et al. 2007, figure 3; no small-range correction: the sketch begins at ten million
        return round(0.7213 / (1.0 + 1.079 / count) * count**2 / float(torch.exp2(-registers).sum()))
