"""How well the entries of a weight fit a Gaussian of their own scale."""

import math

import torch

from collapse_cli.kernels.spectrum import root_mean_square
from collapse_cli.kernels.views import Weight

__all__ = ["gaussian_likeness"]


def gaussian_likeness(weight: Weight) -> tuple[float, float]:
    """Kolmogorov-Smirnov distance of the entries from N(0, rms²), and its p-value; (1, 0) for a weight of zeros.

    The p-value is asymptotic with the correction of Stephens 1970. It is too large by a little, because the rms is
    estimated from the same entries.
    """
    from scipy.special import kolmogorov

    count, scale = weight.matrix.numel(), weight.get(root_mean_square)
    if count == 0 or scale == 0.0:
        return 1.0, 0.0
    entries = (weight.tensor.reshape(-1).double() / scale).sort().values
    expected = torch.special.ndtr(entries)
    steps = torch.arange(count + 1, dtype=torch.float64, device=entries.device) / count
    distance = float(torch.maximum((steps[1:] - expected).max(), (expected - steps[:-1]).max()))
    root = math.sqrt(count)
    return distance, float(kolmogorov((root + 0.12 + 0.11 / root) * distance))
