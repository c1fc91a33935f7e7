"""Sums over categorical posteriors q(z|x) of a world model, group by group, against their learned prior."""

from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collapse_cli.kernels.batches import Batch
from collapse_cli.kernels.gaussian_posterior import NEAR_PRIOR

__all__ = ["CategoricalPosterior"]

#: A class that the prior excludes has this log probability (1e-100): the divergence is then large, and finite.
_LEAST_LOG = -230.0


@final
class CategoricalPosterior:
    """Sums over rows of `latent_logits` and `prior_logits` (groups × classes), all float64.

    Per group: `kl_sum` ΣKL(q‖p), `entropy_sum` ΣH(q), `near_prior` rows with KL < 0.01 nats; `probability_sum` is Σq of
    every class. −∞ is a class that is masked; rows with a group that is masked as a whole are counted in `masked_rows`
    and in nothing else. Different shapes of the two roles are remembered in `is_consistent` and nothing is added.
    """

    def __init__(self, posterior: str = "latent_logits", prior: str = "prior_logits") -> None:
        self.posterior_role, self.prior_role = posterior, prior
        self.count = self.masked_rows = 0
        self.is_consistent = True
        empty = torch.zeros(0, dtype=torch.float64)
        self._kl, self._entropy, self._probability = empty, empty, empty.reshape(0, 0)
        self._near = torch.zeros(0, dtype=torch.int64)

    def update(self, batch: Batch) -> None:
        """Adds the finite rows of a batch."""
        posterior, prior = (batch.selected(role).double() for role in (self.posterior_role, self.prior_role))
        if posterior.shape != prior.shape:
            self.is_consistent = False
            return
        is_open = ((posterior > -torch.inf).any(-1) & (prior > -torch.inf).any(-1)).all(-1)
        self.masked_rows += int((~is_open).sum())
        posterior, prior = posterior[is_open], prior[is_open]
        if posterior.shape[0] == 0:
            return
        logs, probabilities = posterior.log_softmax(-1).clamp_min(_LEAST_LOG), posterior.softmax(-1)
        gaps = logs - prior.log_softmax(-1).clamp_min(_LEAST_LOG)
        divergences = (probabilities * gaps).sum(-1).clamp_min(0.0)
        self._add(
            posterior.shape[0],
            (divergences.sum(0), -(probabilities * logs).sum((0, 2)), probabilities.sum(0)),
            (divergences < NEAR_PRIOR).sum(0),
        )

    def merge(self, other: "CategoricalPosterior") -> None:
        """Adds all rows of another accumulator of the same roles."""
        self.is_consistent &= other.is_consistent
        self.masked_rows += other.masked_rows
        if other.count:
            self._add(other.count, (other._kl, other._entropy, other._probability), other._near)

    def _add(self, count: int, sums: tuple[Tensor, Tensor, Tensor], near: Int[Tensor, " groups"]) -> None:
        if self.count == 0:
            self._kl, self._entropy, self._probability, self._near = (torch.zeros_like(part) for part in (*sums, near))
        self.count += count
        device = self._kl.device
        self._kl += sums[0].to(device)
        self._entropy += sums[1].to(device)
        self._probability += sums[2].to(device)
        self._near += near.to(device)

    @property
    def kl_sum(self) -> Float[Tensor, " groups"]:
        """ΣKL(q‖p) in nats."""
        return self._kl.cpu()

    @property
    def entropy_sum(self) -> Float[Tensor, " groups"]:
        """ΣH(q) in nats."""
        return self._entropy.cpu()

    @property
    def probability_sum(self) -> Float[Tensor, "groups classes"]:
        """Σq."""
        return self._probability.cpu()

    @property
    def near_prior(self) -> Int[Tensor, " groups"]:
        """Rows with KL below 0.01 nats."""
        return self._near.cpu()
