"""What the posteriors of a latent level say together: which dimensions are used, and how much of the input they hold.

C is the covariance of μ, s = e^logvar, s̄ its mean over the rows.
"""

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, not in the stubs' __all__

from collapse_cli.errors import NotConverged
from collapse_cli.kernels.categorical_posterior import CategoricalPosterior
from collapse_cli.kernels.gaussian_posterior import GaussianPosterior
from collapse_cli.kernels.spectrum import entropy_rank

__all__ = [
    "ACTIVE_VARIANCE",
    "LatentKinds",
    "active_units",
    "categorical_information_bound",
    "collapsed",
    "covariance_rank",
    "information_bound",
    "information_sampled",
    "latent_kinds",
    "mean_correlation",
    "sampled_covariance",
    "sampled_rows",
]

#: Burda et al. 2016: a unit is active when its mean varies by at least this over the inputs.
ACTIVE_VARIANCE = 0.01
#: Bonheme & Grzes 2023: a variance layer is constant below this variance, and equal to 0 or 1 within this.
_STEADY, _WITHIN = 0.1, 0.1
#: δ of (ε, δ)-collapse: the share of inputs that may still use a collapsed dimension.
_COLLAPSED_SHARE = 0.01
#: Entries of the M × M × Z table of one sampled estimate, and the most posteriors in it.
_PAIR_ENTRIES, _MOST_COMPONENTS = 1 << 26, 2048
#: Entries of one block of that table: 16 MiB in float64.
_BLOCK_ENTRIES = 1 << 21


@final
@dataclass(frozen=True, slots=True)
class LatentKinds:
    """Every dimension is one of three: active (its variance layer near 0), passive (near the prior's), or mixed."""

    is_active: Bool[Tensor, " latents"]
    is_passive: Bool[Tensor, " latents"]

    @property
    def is_mixed(self) -> Bool[Tensor, " latents"]:
        """Neither active nor passive."""
        return ~(self.is_active | self.is_passive)


def latent_kinds(posterior: GaussianPosterior) -> LatentKinds:
    """Active, passive and mixed dimensions by the mean and variance over the rows of s (over that of the prior).

    References: Bonheme & Grzes, Be More Active! (2023).
    """
    means = posterior.ratio_sum / posterior.count
    # a variance below 0.1 about a mean below 1.1 loses no digit that matters here
    variances = posterior.ratio_squares / posterior.count - means.square()
    is_steady = variances < _STEADY
    return LatentKinds(is_steady & (means <= _WITHIN), is_steady & ((means - 1.0).abs() <= _WITHIN))


def active_units(posterior: GaussianPosterior) -> Bool[Tensor, " latents"]:
    """Dimensions whose mean varies by at least 0.01 over the inputs, in standard deviations of the prior."""
    return posterior.offset_variance >= ACTIVE_VARIANCE


def collapsed(posterior: GaussianPosterior | CategoricalPosterior) -> Bool[Tensor, " latents"]:
    """(ε, δ)-collapsed dimensions or groups: at most one input in a hundred is 0.01 nats or more from the prior."""
    return posterior.near_prior >= (1.0 - _COLLAPSED_SHARE) * posterior.count


def information_bound(posterior: GaussianPosterior) -> float:
    """½ log det(C + diag s̄) − ½Σ mean log s ≥ I(x; z) in nats; never below 0.

    The entropy of the aggregate is at most that of the Gaussian with its covariance (Cover & Thomas 2006, theorem
    8.6.5). Taken as ½ log det(I + s̄^-½Cs̄^-½) + ½Σ(log s̄ − mean log s), two terms that are 0 when nothing varies.

    Raises:
        NotConverged: LAPACK gave up.
    """
    variances = posterior.variance_sum / posterior.count
    scales = variances.rsqrt()
    relative = posterior.covariance * scales[:, None] * scales
    spread = (variances.log() - posterior.log_variance_sum / posterior.count).clamp_min(0.0)
    sign, value = torch.linalg.slogdet(relative + torch.eye(scales.numel(), dtype=torch.float64))
    if not (float(sign) > 0.0 and math.isfinite(float(value))):
        # correlations so close to 1 that rounding has made the matrix indefinite
        try:
            value = torch.linalg.eigvalsh(relative).clamp_min(0.0).log1p().sum()
        except LinAlgError as error:
            raise NotConverged("the covariance of the posterior means has no spectrum", got=str(error)) from error
    return max(0.0, 0.5 * float(value) + 0.5 * float(spread.sum()))


def categorical_information_bound(posterior: CategoricalPosterior) -> float:
    """Σ over groups of H(mean q) − mean H(q) ≥ I(x; z) in nats: the entropy of all groups is at most the sum."""
    shares = posterior.probability_sum / posterior.count
    aggregate = -torch.special.xlogy(shares, shares).sum(-1)
    return max(0.0, float((aggregate - posterior.entropy_sum / posterior.count).sum()))


def sampled_rows(available: int, latents: int) -> int:
    """M, how many posteriors a sampled estimate compares with one another."""
    return max(2, min(available, _MOST_COMPONENTS, math.isqrt(_PAIR_ENTRIES // max(latents, 1))))


def information_sampled(
    means: Float[Tensor, "components latents"],
    log_variances: Float[Tensor, "components latents"],
    noise: Float[Tensor, "components latents"],
) -> float:
    """I(x; z) in nats with the aggregate of these M posteriors and one z = μ + σ·noise of each; about log M at most.

    References: He et al., Lagging Inference Networks and Posterior Collapse in Variational Autoencoders (2019).
    """
    count, latents = means.shape
    samples, precisions = means + (0.5 * log_variances).exp() * noise, (-log_variances).exp()
    constant = log_variances.sum(1) + latents * math.log(2.0 * math.pi)
    step = max(1, _BLOCK_ENTRIES // max(count * latents, 1))
    logs = []
    for first in range(0, count, step):
        distances = (samples[first : first + step, None] - means).square_().mul_(precisions).sum(-1)
        logs.append(torch.logsumexp(-0.5 * (distances + constant), 1) - math.log(count))
    # E log q(z|x) is known in closed form
    within = -0.5 * float((latents * (math.log(2.0 * math.pi) + 1.0) + log_variances.sum(1)).mean())
    return within - float(torch.cat(logs).mean())


def sampled_covariance(posterior: GaussianPosterior) -> Float[Tensor, "latents latents"]:
    """Covariance of z = μ + σε without drawing one: C + diag s̄."""
    return posterior.covariance + torch.diag(posterior.variance_sum / posterior.count)


def mean_correlation(covariance: Float[Tensor, "latents latents"]) -> float:
    """Mean of |correlation| over the pairs of different dimensions; none of them may be constant."""
    scales = covariance.diagonal().rsqrt()
    correlations = (covariance * scales[:, None] * scales).abs().clamp_max(1.0)
    side = correlations.shape[0]
    return float(correlations.sum() - correlations.diagonal().sum()) / (side * (side - 1))


def covariance_rank(covariance: Float[Tensor, "latents latents"]) -> float:
    """The exponential of the entropy of its eigenvalues.

    Raises:
        NotConverged: LAPACK gave up.
    """
    try:
        return entropy_rank(torch.linalg.eigvalsh(covariance).clamp_min(0.0))
    except LinAlgError as error:
        raise NotConverged("the covariance of the latents has no spectrum", got=str(error)) from error
