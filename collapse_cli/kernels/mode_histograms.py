"""Two histograms over the same modes: which modes are missing, and how far the proportions differ."""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Histograms", "differing_share", "divergences", "expected_cover", "missing_modes", "of_reference_modes"]

#: Chance that any of the missing modes is missing by chance.
_CHANCE = 1e-3
#: Two-sided 5 % quantile of the normal distribution, the level of Richardson & Weiss 2018.
_Z = 1.959963984540054


@final
@dataclass(frozen=True, slots=True)
class Histograms:
    """Counts of samples and of reference rows in every mode that the reference has, and the samples in no such mode."""

    samples: Int[Tensor, " modes"]
    reference: Int[Tensor, " modes"]
    elsewhere: int

    @property
    def modes(self) -> int:
        """How many modes the reference has."""
        return self.reference.numel()

    @property
    def shares(self) -> tuple[Float[Tensor, " modes"], Float[Tensor, " modes"]]:
        """Proportions p of the samples among these modes, and q of the reference."""
        made, real = self.samples.double(), self.reference.double()
        return made / made.sum().clamp_min(1.0), real / real.sum()


def of_reference_modes(samples: Int[Tensor, " categories"], reference: Int[Tensor, " categories"]) -> Histograms:
    """The histograms over the categories that occur in the reference, of counts that may end at different ones."""
    width = max(samples.numel(), reference.numel())
    made = torch.nn.functional.pad(samples, (0, width - samples.numel()))
    real = torch.nn.functional.pad(reference, (0, width - reference.numel()))
    return Histograms(made[real > 0], real[real > 0], int(made[real == 0].sum()))


def missing_modes(found: Histograms) -> Int[Tensor, " missing"]:
    """Modes without a sample that chance leaves out so rarely that any is with less than 1e-3: (1−q)^M < 1e-3/K."""
    left_out = int(found.samples.sum()) * torch.log1p(-found.shares[1])
    return ((found.samples == 0) & (left_out < math.log(_CHANCE / found.modes))).nonzero().flatten()


def expected_cover(found: Histograms) -> float:
    """The share of modes that as many samples with the proportions of the reference reach: mean of 1 − (1−q)^M."""
    return float(-torch.expm1(int(found.samples.sum()) * torch.log1p(-found.shares[1])).mean())


def divergences(found: Histograms) -> tuple[float, float]:
    """Kullback–Leibler divergence of the samples from the reference, and Jensen–Shannon between them, in nats."""
    made, real = found.shares
    middle = (made + real) / 2.0
    return max(0.0, _divergence(made, real)), max(0.0, (_divergence(made, middle) + _divergence(real, middle)) / 2.0)


def _divergence(left: Tensor, right: Tensor) -> float:
    return float(torch.special.xlogy(left, left / right).sum())


def differing_share(found: Histograms) -> float:
    """Share of modes whose proportion differs by a two-proportion z-test at 5 %; equal where both hold everything.

    Reference: Richardson & Weiss, On GANs and GMMs (2018), section 3.
    """
    made, real = found.shares
    counts = found.samples.sum().double(), found.reference.sum().double()
    pooled = (found.samples + found.reference).double() / (counts[0] + counts[1])
    error = (pooled * (1.0 - pooled) * (1.0 / counts[0] + 1.0 / counts[1])).sqrt()
    return float(((made - real).abs() > _Z * error).double().mean())
