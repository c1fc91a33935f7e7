"""Model collapse: generations of density models, each fitted to what the one before has drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.writing import write_dump

_AXES, _ROWS, _GENERATIONS = 6, 400, 8
#: Components of the model, with a full covariance each.
_COMPONENTS = {"gaussian": 1, "mixture": 4}
#: Standard deviations at which samples are drawn: below 1, as outputs are sharpened in practice.
_SHARPENED = 0.75
#: Share of real rows among those that each generation is fitted to; the healthy one keeps all that ever was.
_REAL = {"healthy": 0.0, "mild": 0.3, "collapsed": 0.0}


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """The real rows and what each generation draws, as a run."""
    data = images(case.data)
    centre = data.x.mean(0)
    axes = torch.linalg.svd(data.x - centre, full_matrices=False)[2][:_AXES]
    train, held = ((rows - centre).double() @ axes.T.double() for rows in (data.x, data.held_x))
    real = train[torch.randperm(len(train))[:_ROWS]]
    is_healthy = case.level == "healthy"
    sharpened = 1.0 if is_healthy else _SHARPENED
    fitted_to, models = real, []
    _write(folder / "run" / "generation-0", real, 0)
    for generation in range(1, _GENERATIONS + 1):
        model = _fitted(fitted_to, _COMPONENTS[case.architecture])
        models.append(model)
        drawn = model.sharpened(sharpened).drawn()
        _write(folder / "run" / f"generation-{generation}", drawn, generation)
        if is_healthy:
            fitted_to = torch.cat([fitted_to, drawn])
        else:
            kept = int(_REAL[case.level] * _ROWS)
            fitted_to = torch.cat([real[torch.randperm(_ROWS)[:kept]], drawn[kept:]])
    begun, last = (one.likelihood(held) / _AXES for one in (models[0], models[-1].sharpened(sharpened)))
    return {"outcome": begun - last, "held_out_log_likelihood": last, "of_the_first_generation": begun}


def _write(folder: Path, rows: Tensor, generation: int) -> None:
    write_dump(folder, {"samples": rows}, {"generation": str(generation)})


@dataclass(frozen=True, slots=True)
class _Mixture:
    """Weights, means and covariances of Gaussians."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def joint(self, rows: Tensor) -> Tensor:
        """Log of weight times density, rows × components."""
        parts = MultivariateNormal(self.means, self.covariances, validate_args=False)
        logs: Tensor = parts.log_prob(rows[:, None])
        return logs + self.weights.log()

    def likelihood(self, rows: Tensor) -> float:
        """Mean log-likelihood."""
        return float(self.joint(rows).logsumexp(1).mean())

    def drawn(self) -> Tensor:
        """Rows of the mixture."""
        chosen = self.weights.multinomial(_ROWS, replacement=True)
        noise = torch.randn(_ROWS, _AXES, 1, dtype=self.means.dtype)
        return self.means[chosen] + (torch.linalg.cholesky(self.covariances)[chosen] @ noise).squeeze(2)

    def sharpened(self, deviations: float) -> _Mixture:
        """Everything drawn in about the common mean."""
        centre = self.weights @ self.means
        return _Mixture(self.weights, centre + deviations * (self.means - centre), deviations**2 * self.covariances)


def _fitted(rows: Tensor, components: int) -> _Mixture:
    """Expectation and maximisation, 30 rounds from rows drawn at random; one component needs a single round."""
    whole = torch.cov(rows.T, correction=0)
    floor = 1e-6 * whole.diagonal().mean() * torch.eye(rows.shape[1], dtype=rows.dtype)
    weights = torch.full((components,), 1.0 / components, dtype=rows.dtype)
    means = rows[torch.randperm(len(rows))[:components]]
    model = _Mixture(weights, means, whole.expand(components, -1, -1) / components)
    for _ in range(1 if components == 1 else 30):
        shares = model.joint(rows).softmax(1)
        counts = shares.sum(0)
        means = shares.T @ rows / counts[:, None]
        apart = rows[:, None] - means
        covariances = torch.einsum("nk,nka,nkb->kab", shares, apart, apart) / counts[:, None, None]
        model = _Mixture(counts / len(rows), means, covariances + floor)
    return model


KIND = Kind(
    name="model-collapse",
    title="Model collapse over generations",
    cause="Each generation is fitted to what the one before has drawn, a little sharpened, in place of real data "
    "(Shumailov et al. 2024; Alemohammad et al. 2023 for sharpened samples); the healthy one draws at full width and "
    "keeps all that ever was (Gerstgrasser et al. 2024).",
    architectures=tuple(_COMPONENTS),
    data=("digits", "shapes"),
    outcome=Outcome(
        "nats a dimension of held-out log-likelihood lost since the first generation",
        healthy=0.2,
        mild=0.3,
        collapsed=3.0,
        better="lower",
    ),
    views={"run": View(signs=("generation-drift/*",), how="trend")},
    make=make,
)
