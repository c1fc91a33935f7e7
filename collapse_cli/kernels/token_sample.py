"""A uniform sample of single tokens out of all sequences, which depends on the data and a seed alone."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.batches import Batch
from collapse_cli.kernels.real_rows import real_rows
from collapse_cli.kernels.reservoir import Sample

__all__ = ["TokenSample"]

#: Tokens kept: the mean of as many is known to a 1/16,384 of their variance. 128 MiB in half precision at width 4,096.
_TOKENS = 16384


@final
class TokenSample:
    """The real and finite tokens with the 16,384 smallest hashes of (seed, row, position), in the stored dtype."""

    def __init__(self, role: str = "tokens", *, seed: int = 0, tokens: int = _TOKENS) -> None:
        self.role = role
        self._sample = Sample(seed=seed, rows=tokens)

    def update(self, batch: Batch) -> None:
        """Offers the tokens of a batch."""
        vectors = real_rows(batch, self.role)
        if vectors.rows.shape[0]:
            place = vectors.sample * batch.roles[self.role].shape[1] + vectors.position
            self._sample.update(Batch({"token": vectors.rows}, indices=place))

    def merge(self, other: "TokenSample") -> None:
        """Offers the tokens that another accumulator with the same seed has kept."""
        if other.role != self.role:
            raise ValueError(f"samples of {self.role!r} and of {other.role!r} do not merge")
        self._sample.merge(other._sample)

    @property
    def count(self) -> int:
        """Tokens that were offered."""
        return self._sample.count

    @property
    def is_exact(self) -> bool:
        """Whether every token was kept."""
        return self._sample.is_exact

    @property
    def rows(self) -> Float[Tensor, "kept features"]:
        """The tokens kept, in order of row and position."""
        return self._sample.rows("token")
