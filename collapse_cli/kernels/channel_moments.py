"""Mean and central moments of every channel up to the fourth: no pairs of channels, so any width will do."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from collapse_cli.kernels.batches import Batch
from collapse_cli.kernels.real_rows import real_rows

__all__ = ["ChannelMoments"]


@final
class ChannelMoments:
    """Σ(x − x̄)², Σ(x − x̄)³ and Σ(x − x̄)⁴ of every channel over the finite rows of a role, or over its real tokens.

    Parts are joined by the formulas of Pébay (2008, equations 3.1 to 3.4), so that an offset costs no digits.
    """

    def __init__(self, role: str = "features") -> None:
        self.role, self.count = role, 0
        self._mean = self._second = self._third = self._fourth = torch.zeros(0, dtype=torch.float64)

    def update(self, batch: Batch) -> None:
        """Adds the vectors of a batch."""
        rows = real_rows(batch, self.role).rows.to(torch.float64)
        if rows.shape[0] == 0:
            return
        mean = rows.mean(0)
        centred = rows - mean
        squares = centred.square()
        self._join(rows.shape[0], mean, squares.sum(0), (squares * centred).sum(0), squares.square().sum(0))

    def merge(self, other: "ChannelMoments") -> None:
        """Adds all vectors of another accumulator of the same role."""
        if other.role != self.role:
            raise ValueError(f"channel moments of {self.role!r} and of {other.role!r} do not merge")
        if other.count:
            self._join(other.count, other._mean, other._second, other._third, other._fourth)

    def _join(self, count: int, mean: Tensor, second: Tensor, third: Tensor, fourth: Tensor) -> None:
        if self.count == 0:
            self.count, self._mean = count, mean
            self._second, self._third, self._fourth = second, third, fourth
            return
        n = self.count + count
        # shares and not counts: the cube of a count soon leaves 64 bits
        a, b, step = self.count / n, count / n, mean.to(self._mean.device) - self._mean
        second, third, fourth = (part.to(step.device) for part in (second, third, fourth))
        both = n * a * b
        self._fourth = (
            self._fourth
            + fourth
            + step**4 * (both * (a * a - a * b + b * b))
            + 6.0 * step**2 * (a * a * second + b * b * self._second)
            + 4.0 * step * (a * third - b * self._third)
        )
        self._third = self._third + third + step**3 * (both * (a - b)) + 3.0 * step * (a * second - b * self._second)
        self._second = self._second + second + step**2 * both
        self._mean = self._mean + step * b
        self.count = n

    @property
    def mean(self) -> Float[Tensor, " channels"]:
        """The mean of every channel."""
        return self._mean.cpu()

    @property
    def variance(self) -> Float[Tensor, " channels"]:
        """The variance of every channel, Σ(x − x̄)²/n."""
        return (self._second / max(self.count, 1)).cpu()

    @property
    def fourth_moment(self) -> Float[Tensor, " channels"]:
        """Σ(x − x̄)⁴/n of every channel."""
        return (self._fourth / max(self.count, 1)).cpu()

    @property
    def energy(self) -> float:
        """Σx² over all channels."""
        return float(self._second.sum() + self.count * self._mean.square().sum())

    def excess_kurtosis(self) -> Float[Tensor, " varying"]:
        """m₄/m₂² − 3 of the channels that vary by more than rounding."""
        variance = self.variance
        # rounding of a constant channel leaves 2⁻⁵² of its mean
        varies = variance > torch.finfo(torch.float64).eps ** 2 * self.mean.square() * 4.0
        return self.fourth_moment[varies] / variance[varies] / variance[varies] - 3.0
