"""Which keys a query may look at: causal or not, in a window, and how many leading tokens stand for no content."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from collapse_cli.kernels.token_layout import leading_tokens

__all__ = ["Visibility", "VisibleKeys", "visible_keys"]


@final
@dataclass(frozen=True, slots=True)
class Visibility:
    """What metadata says: `causal`, `window` (keys at a distance below it), `cls` (`leading` tokens are left out)."""

    is_causal: bool = False
    window: int | None = None
    leading: int = 0

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> "Visibility":
        """The visibility that the metadata of a dump declares; what cannot be read is as if it were not there."""
        window = metadata.get("window", "").strip()
        return cls(
            metadata.get("causal", "").strip().lower() in ("true", "yes", "1"),
            int(window) if window.isdecimal() and int(window) > 0 else None,
            leading_tokens(metadata),
        )


@final
@dataclass(frozen=True, slots=True)
class VisibleKeys:
    """For sequences of one shape: query i sees the real keys from `lower[i]` up to, not including, `upper[i]`.

    `keys` are the positions that are real and no leading tokens (`None`: all), `padded` those that are not real.
    `counts` is the number of keys that a query sees, 0 where the query itself is padding or a leading token.
    """

    lower: Int[Tensor, " queries"]
    upper: Int[Tensor, " queries"]
    padded: Bool[Tensor, "samples keys"] | None
    keys: Bool[Tensor, "samples keys"]
    counts: Int[Tensor, "samples queries"]
    leading: int


def visible_keys(visibility: Visibility, attention: Tensor, mask: Tensor | None) -> VisibleKeys:
    """What every query of samples × heads × queries × keys sees.

    Where there are fewer queries than keys the queries of a causal map are the last positions. A mask is of the keys
    when it is as long as they are, and of the queries when it is as long as those. Leading tokens are those of a map
    of a sequence onto itself.
    """
    samples, _heads, queries, keys = attention.shape
    device = attention.device
    lower, upper = _edges(visibility, queries, keys)
    real_keys = torch.ones(samples, keys, dtype=torch.bool, device=device)
    real_queries = torch.ones(samples, queries, dtype=torch.bool, device=device)
    padded = None
    if mask is not None:
        is_real = mask.to(device) != 0
        if mask.shape[1] == keys:
            real_keys = is_real.clone()
            padded = None if bool(is_real.all()) else ~is_real
        if mask.shape[1] == queries:
            real_queries = is_real.clone()
    leading = min(visibility.leading, keys) if queries == keys else 0
    real_keys[:, :leading] = False
    real_queries[:, :leading] = False
    before = torch.nn.functional.pad(real_keys.long().cumsum(1), (1, 0))
    counts = (before[:, upper.to(device)] - before[:, lower.to(device)]) * real_queries
    return VisibleKeys(lower, upper, padded, real_keys, counts, leading)


def _edges(visibility: Visibility, queries: int, keys: int) -> tuple[Tensor, Tensor]:
    place = torch.arange(queries) + (keys - queries if visibility.is_causal else 0)
    window = visibility.window if visibility.window is not None else queries + keys
    lower = (place - window + 1).clamp(0, keys)
    upper = (place + (1 if visibility.is_causal else window)).clamp(0, keys)
    return lower, torch.maximum(lower, upper)
