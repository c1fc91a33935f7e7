"""Posterior collapse: a variational auto-encoder whose divergence outweighs what its decoder could gain."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.case import Case, Kind, Outcome, View
from zoo.data import Images, images
from zoo.training import batches, descend
from zoo.writing import write_dump

#: Latents and hidden layers of each.
_NETWORKS = {"shallow": (8, (96,)), "deep": (6, (64, 64))}
#: Weight of the divergence beside a likelihood of standard deviation 0.1 a pixel; depth gives in sooner.
_BETA = {
    "shallow": {"healthy": 1.0, "mild": 30.0, "collapsed": 300.0},
    "deep": {"healthy": 1.0, "mild": 18.0, "collapsed": 300.0},
}
_STEPS, _NOISE = 450, 0.1


def _network(*widths: int) -> nn.Sequential:
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """A Gaussian posterior and a Gaussian likelihood; the dump holds what the encoder says of all images."""
    data = images(case.data)
    latents, hidden = _NETWORKS[case.architecture]
    encoder = _network(data.pixels, *hidden, 2 * latents)
    decoder = _network(latents, *reversed(hidden), data.pixels)
    steering = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=4e-3, foreach=True)
    following, beta = batches(len(data.x), 128), _BETA[case.architecture][case.level]

    def loss() -> Tensor:
        x = data.x[following()]
        mean, log_variance = encoder(x).chunk(2, 1)
        rebuilt = decoder(mean + torch.randn_like(mean) * (log_variance / 2).exp())
        divergence = 0.5 * (mean.square() + log_variance.expm1() - log_variance).sum(1).mean()
        return (rebuilt - x).square().sum(1).mean() / (2 * _NOISE**2) + beta * divergence

    descend(steering, loss, _STEPS)
    with torch.no_grad():
        mean, log_variance = encoder(torch.cat([data.x, data.held_x])).chunk(2, 1)
        error = (decoder(mean[len(data.x) :]) - data.held_x).square().sum()
    rebuilt = 1.0 - float(error / (data.held_x - data.x.mean(0)).square().sum())
    linear = _linear(data, latents)
    write_dump(folder / "dump", {"mu": mean, "logvar": log_variance, "labels": torch.cat([data.y, data.held_y])})
    return {"outcome": rebuilt / linear, "rebuilt": rebuilt, "rebuilt_by_principal_components": linear}


def _linear(data: Images, latents: int) -> float:
    """Share of the held-out variance that as many principal components of the training images rebuild."""
    centre = data.x.mean(0)
    axes = torch.linalg.svd(data.x - centre, full_matrices=False)[2][:latents]
    held = data.held_x - centre
    return 1.0 - float((held - held @ axes.T @ axes).square().sum() / held.square().sum())


KIND = Kind(
    name="posterior-collapse",
    title="Posterior collapse",
    cause="A weight β of the divergence above what a dimension gains in reconstruction (Lucas et al. 2019, Don't Blame "
    "the ELBO; Bowman et al. 2016).",
    architectures=tuple(_NETWORKS),
    data=("digits", "shapes"),
    outcome=Outcome(
        "held-out variance rebuilt from the posterior mean, over that of as many principal components",
        healthy=0.8,
        mild=0.7,
        collapsed=0.1,
    ),
    views={"dump": View(signs=("posterior-collapse/*",))},
    make=make,
)
