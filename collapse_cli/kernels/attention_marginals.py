"""What all queries of a head share: where their attention goes on average, and what remains of each query itself."""

import functools
import math
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.attention_maps import LEAST_ROWS, AttentionMaps, attention_maps
from collapse_cli.kernels.attention_tally import AttentionTally
from collapse_cli.kernels.attention_visibility import Visibility
from collapse_cli.kernels.batches import Batch

__all__ = ["SINK", "AttentionMarginals", "uniform_information", "uniform_prefix"]

#: Share of the attention of a prefix from which on its first token is a sink: ε of Gu et al. 2025, section 3.
SINK = 0.3
#: Entropy of the keys, as a share of log T, below which a map is one key: convention of this tool.
_ONE_KEY = 1e-3
#: Nats below which a map is uniform and cannot be split.
_UNIFORM = 1e-6


@final
class AttentionMarginals:
    """Per head, sums over the sequences of a map onto itself with at least eight valid rows.

    With p(q) equal and p(k) the mean row, I = H(k) − mean H(row) and KL = log S − H(k): `nmi` sums I/√(log T·H(k)),
    `query_share` I/(I + KL) over the `split` sequences that are not uniform, `popularity` KL/log S, `independent`
    (I + KL)/log S, `uniform` the nmi of the uniform causal map of as many tokens. `one_key` counts maps onto one key.
    `prefix_mass` sums α_k over the `prefixes`, `sinks` counts α₁ > .3.
    """

    def __init__(
        self,
        role: str = "attention",
        *,
        visibility: Visibility = Visibility(),  # noqa: B008 - frozen
    ) -> None:
        self.role, self.visibility = role, visibility
        self.tally = AttentionTally()
        self._counts = torch.zeros(5, 0, dtype=torch.int64)
        self._sums = torch.zeros(5, 0, dtype=torch.float64)
        self._prefix_mass = torch.zeros(0, 0, dtype=torch.float64)

    @property
    def sequences(self) -> Int[Tensor, " heads"]:
        """Sequences that count, per head."""
        return self._counts[0].cpu()

    @property
    def split(self) -> Int[Tensor, " heads"]:
        """Sequences of which `query_share` is defined."""
        return self._counts[1].cpu()

    @property
    def one_key(self) -> Int[Tensor, " heads"]:
        """Sequences whose attention goes to one key."""
        return self._counts[2].cpu()

    @property
    def prefixes(self) -> Int[Tensor, " heads"]:
        """Sequences whose prefix is whole."""
        return self._counts[3].cpu()

    @property
    def sinks(self) -> Int[Tensor, " heads"]:
        """Prefixes with α₁ > .3."""
        return self._counts[4].cpu()

    @property
    def nmi(self) -> Float[Tensor, " heads"]:
        """Σ of the normalised information."""
        return self._sums[0].cpu()

    @property
    def query_share(self) -> Float[Tensor, " heads"]:
        """Σ of the share that follows the query."""
        return self._sums[1].cpu()

    @property
    def popularity(self) -> Float[Tensor, " heads"]:
        """Σ of the divergence of the keys from uniform, over log S."""
        return self._sums[2].cpu()

    @property
    def independent(self) -> Float[Tensor, " heads"]:
        """Σ of the nmi of independent rows as sharp as these."""
        return self._sums[3].cpu()

    @property
    def uniform(self) -> Float[Tensor, " heads"]:
        """Σ of the nmi of uniform causal maps."""
        return self._sums[4].cpu()

    @property
    def prefix_mass(self) -> Float[Tensor, "heads prefix"]:
        """Σ of α_k."""
        return self._prefix_mass.cpu()

    def update(self, batch: Batch) -> None:
        """Adds the sequences of a batch; those of attention to another sequence say nothing here."""
        maps = attention_maps(batch, self.role, self.visibility)
        self.tally.add(maps)
        _samples, heads, queries = maps.entropy.shape
        if queries != maps.key_mass.shape[2]:
            return
        if self._counts.shape[1] == 0:
            side = maps.prefix_mass.shape[2]
            self._counts = torch.zeros(5, heads, dtype=torch.int64, device=batch.device)
            self._sums = torch.zeros(5, heads, dtype=torch.float64, device=batch.device)
            self._prefix_mass = torch.zeros(heads, side, dtype=torch.float64, device=batch.device)
        self._add_information(maps)
        self._add_prefixes(maps)

    def _add_information(self, maps: AttentionMaps) -> None:
        number = maps.is_valid.sum(2)
        counts = (number >= LEAST_ROWS) & (maps.keys > 1)[:, None]
        queries = number.clamp(min=2).to(torch.float64)
        probability = maps.key_mass / queries[..., None]
        of_keys = -torch.special.xlogy(probability, probability).sum(2)
        of_rows = maps.entropy.sum(2) / queries
        information = (of_keys - of_rows).clamp(min=0.0)
        all_keys = maps.keys.clamp(min=2).to(torch.float64).log()[:, None]
        divergence = (all_keys - of_keys).clamp(min=0.0)
        is_one_key = of_keys < _ONE_KEY * queries.log()
        is_split = counts & (information + divergence >= _UNIFORM)
        shares = (
            torch.where(is_one_key, 0.0, information / (queries.log() * of_keys.clamp(min=1e-12)).sqrt()),
            torch.where(is_split, information / (information + divergence).clamp(min=_UNIFORM), 0.0),
            divergence / all_keys,
            (information + divergence) / all_keys,
            self._uniform(maps)[:, None].expand_as(queries),
        )
        for place, share in enumerate(shares):
            self._sums[place] += torch.where(counts, share, 0.0).sum(0)
        self._counts[:3] += torch.stack((counts, is_split, counts & is_one_key)).sum(1)

    def _uniform(self, maps: AttentionMaps) -> Float[Tensor, " samples"]:
        tokens, place = torch.unique((maps.visible > 0).sum(1), return_inverse=True)
        if not self.visibility.is_causal:
            return torch.zeros(place.shape, dtype=torch.float64, device=place.device)
        known = [uniform_information(length, self.visibility.window) for length in tokens.tolist()]
        return torch.tensor(known, dtype=torch.float64, device=place.device)[place]

    def _add_prefixes(self, maps: AttentionMaps) -> None:
        side = maps.prefix_mass.shape[2]
        seen_by = torch.arange(side, 0, -1, dtype=torch.float64, device=maps.prefix_mass.device)
        mass = maps.prefix_mass / seen_by
        self._prefix_mass += torch.where(maps.has_prefix[..., None], mass, 0.0).sum(0)
        if side:
            self._counts[3] += maps.has_prefix.sum(0)
            self._counts[4] += (maps.has_prefix & (mass[..., 0] > SINK)).sum(0)

    def merge(self, other: "AttentionMarginals") -> None:
        """Adds the sequences of another one."""
        self.tally.merge(other.tally)
        if other._counts.shape[1] == 0:
            return
        if self._counts.shape[1] == 0:
            self._counts, self._sums = other._counts.clone(), other._sums.clone()
            self._prefix_mass = other._prefix_mass.clone()
            return
        self._counts = self._counts + other._counts.to(self._counts.device)
        self._sums = self._sums + other._sums.to(self._sums.device)
        self._prefix_mass = self._prefix_mass + other._prefix_mass.to(self._prefix_mass.device)


@functools.lru_cache(maxsize=4096)
def uniform_information(tokens: int, window: int | None = None) -> float:
    """I/√(log T·H(k)) of a causal map that spreads every row evenly over the keys it sees, at most `window` of them."""
    if tokens < 2:
        return 0.0
    seen = torch.arange(1, tokens + 1, dtype=torch.float64).clamp(max=float(window or tokens))
    keys = _uniform_mass(tokens, window) / tokens
    of_keys = -float(torch.special.xlogy(keys, keys).sum())
    information = of_keys - float(seen.log().mean())
    return max(0.0, information) / math.sqrt(math.log(tokens) * of_keys)


def uniform_prefix(side: int, window: int | None = None) -> Float[Tensor, " prefix"]:
    """α_k of a causal map that spreads every row evenly: the mean weight of key k in the rows from k to the last."""
    return _uniform_mass(side, window) / torch.arange(side, 0, -1, dtype=torch.float64)


def _uniform_mass(tokens: int, window: int | None) -> Float[Tensor, " tokens"]:
    """Σ_i 1/v_i over the rows i that see key k: from k to k + window − 1."""
    seen = torch.arange(1, tokens + 1, dtype=torch.float64).clamp(max=float(window or tokens))
    before = torch.nn.functional.pad(seen.reciprocal().cumsum(0), (1, 0))
    first = torch.arange(tokens)
    return before[(first + (window or tokens)).clamp(max=tokens)] - before[first]
