"""Sums over the Gaussian posteriors q(z|x) of a latent level: how far each is from its prior, and how they spread."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.batches import Batch

__all__ = ["NEAR_PRIOR", "GaussianPosterior", "divergence"]

#: Nats below which one input does not use a dimension: the ε of (ε, δ)-collapse.
NEAR_PRIOR = 0.01
_PRIOR = ("prior_mu", "prior_logvar")
#: Log variances beyond ±230 count as ±230: e²³⁰ = 1e100, whose square float64 still holds.
_LARGEST_LOG = 230.0


@final
class GaussianPosterior:
    """Sums over rows of `mu` and `logvar`, all float64; the prior is N(0, I) or `prior_mu` and `prior_logvar`.

    With s = e^logvar, r = s over the variance of the prior, δ = (μ − μ_p)/σ_p (μ itself for N(0, I)), per dimension:
    `variance_sum` Σs, `log_variance_sum` Σ log s, `ratio_sum` Σr, `ratio_squares` Σr², `kl_sum` ΣKL, `near_prior` the
    number of rows with KL < 0.01, and the covariance of μ. μ and δ are summed about the first batch. A width that does
    not fit that of `mu` (or 1, the same for all dimensions) is remembered in `is_consistent` and nothing is added.
    What is read is on the CPU.
    """

    def __init__(self, mean: str = "mu", log_variance: str = "logvar") -> None:
        self.mean_role, self.log_variance_role = mean, log_variance
        self.count = 0
        self.is_consistent, self.has_prior = True, False
        empty = torch.zeros(0, dtype=torch.float64)
        self._shift = self._sum = self._offset_shift = empty
        self._scatter = empty.reshape(0, 0)
        # rows: Σs, Σ log s, Σr, Σr², ΣKL, Σ(δ − d), Σ(δ − d)²
        self._sums = empty.reshape(7, 0)
        self._near = torch.zeros(0, dtype=torch.int64)

    def update(self, batch: Batch) -> None:
        """Adds the finite rows of a batch."""
        means = batch.rows(self.mean_role)
        if means.shape[0] == 0:
            return
        prior = _PRIOR if set(_PRIOR) <= batch.roles.keys() else ()
        given = tuple(batch.rows(role) for role in (self.log_variance_role, *prior))
        self.has_prior |= bool(prior)
        if any(rows.shape[1] not in (1, means.shape[1]) for rows in given):
            self.is_consistent = False
            return
        log_variances, ratios, offsets = _against_prior(means, given)
        if self.count == 0:
            self._begin(batch.mean(self.mean_role), offsets.mean(0))
        self.count += means.shape[0]
        self._sum += batch.shifted(self.mean_role, self._shift).sum(0)
        self._scatter += batch.scatter(self.mean_role, self._shift)
        divergences = divergence(offsets, ratios)
        self._near += (divergences < NEAR_PRIOR).sum(0)
        relative, about = ratios.exp(), offsets - self._offset_shift
        parts = (log_variances.exp(), log_variances, relative, relative.square(), divergences, about, about.square())
        self._sums += torch.stack([part.sum(0) for part in parts])

    def merge(self, other: "GaussianPosterior") -> None:
        """Adds all rows of another accumulator of the same roles."""
        self.is_consistent &= other.is_consistent
        self.has_prior |= other.has_prior
        if other.count == 0:
            return
        device = self._shift.device if self.count else other._shift.device
        if self.count == 0:
            self._begin(other._shift, other._offset_shift)
        n, step = other.count, other._shift.to(device) - self._shift
        total, scatter, sums = other._sum.to(device), other._scatter.to(device), other._sums.to(device).clone()
        drift = other._offset_shift.to(device) - self._offset_shift
        sums[6] += 2.0 * drift * sums[5] + n * drift.square()
        sums[5] += n * drift
        self.count += n
        self._sum += total + n * step
        self._scatter += scatter + torch.outer(total, step) + torch.outer(step, total) + n * torch.outer(step, step)
        self._sums += sums
        self._near += other._near.to(device)

    def _begin(self, shift: Float[Tensor, " latents"], offset_shift: Float[Tensor, " latents"]) -> None:
        self._shift, self._offset_shift, self._sum = shift.clone(), offset_shift.clone(), torch.zeros_like(shift)
        self._scatter = shift.new_zeros(shift.numel(), shift.numel())
        self._sums = shift.new_zeros(7, shift.numel())
        self._near = torch.zeros(shift.numel(), dtype=torch.int64, device=shift.device)

    @property
    def mean(self) -> Float[Tensor, " latents"]:
        """Mean of μ over the rows."""
        return (self._shift + self._sum / max(self.count, 1)).cpu()

    @property
    def covariance(self) -> Float[Tensor, "latents latents"]:
        """Covariance of μ over the rows, N − 1 below the line."""
        centred = self._scatter - torch.outer(self._sum, self._sum) / max(self.count, 1)
        return (centred / max(self.count - 1, 1)).cpu()

    @property
    def offset_variance(self) -> Float[Tensor, " latents"]:
        """Variance of δ over the rows, N − 1 below the line."""
        squares = self._sums[6] - self._sums[5].square() / max(self.count, 1)
        return (squares / max(self.count - 1, 1)).clamp_min(0.0).cpu()

    @property
    def variance_sum(self) -> Float[Tensor, " latents"]:
        """Σs."""
        return self._sums[0].cpu()

    @property
    def log_variance_sum(self) -> Float[Tensor, " latents"]:
        """Σ log s."""
        return self._sums[1].cpu()

    @property
    def ratio_sum(self) -> Float[Tensor, " latents"]:
        """Σr."""
        return self._sums[2].cpu()

    @property
    def ratio_squares(self) -> Float[Tensor, " latents"]:
        """Σr²."""
        return self._sums[3].cpu()

    @property
    def kl_sum(self) -> Float[Tensor, " latents"]:
        """ΣKL in nats."""
        return self._sums[4].cpu()

    @property
    def near_prior(self) -> Int[Tensor, " latents"]:
        """Rows with KL below 0.01 nats."""
        return self._near.cpu()


def divergence(
    offsets: Float[Tensor, "samples latents"], log_ratios: Float[Tensor, "samples latents"]
) -> Float[Tensor, "samples latents"]:
    """KL of two Gaussians in nats, ½(δ² + r − 1 − log r); never below 0."""
    return (0.5 * (offsets.square() + (log_ratios.expm1() - log_ratios))).clamp_min(0.0)


def _against_prior(means: Tensor, given: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """What is summed, log s, log r and δ, each as wide as the means."""
    log_variances = given[0].clamp(-_LARGEST_LOG, _LARGEST_LOG).expand_as(means)
    if len(given) == 1:
        return log_variances, log_variances, means
    prior_means, prior_logs = given[1], given[2].clamp(-_LARGEST_LOG, _LARGEST_LOG)
    return (
        log_variances,
        (log_variances - prior_logs).clamp_max(_LARGEST_LOG),
        (means - prior_means) * (-0.5 * prior_logs).exp(),
    )
