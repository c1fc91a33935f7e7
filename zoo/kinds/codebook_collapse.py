"""Codebook collapse: a vector-quantised auto-encoder most of whose codes are never chosen."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.training import batches, descend
from zoo.writing import write_dump, write_weights

_CODES, _WIDTH = 64, 16
#: Codes that make up one image, and the hidden width.
_NETWORKS = {"whole": (1, 96), "halves": (2, 64)}
#: Codes that may be restarted from encodings while they are unused; the others stay where the initialiser put them.
_RESTARTED = {"healthy": _CODES, "mild": 8, "collapsed": 0}
_STEPS, _FORGETTING = 400, 0.95


class _Quantizer(nn.Module):
    """A codebook that follows the mean of what it is assigned (van den Oord et al. 2017, appendix A.1)."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = torch.empty(_CODES, _WIDTH).uniform_(-1 / _CODES, 1 / _CODES)
        self.counts, self.sums = torch.zeros(_CODES), self.codes.clone()

    def nearest(self, z: Tensor) -> Tensor:
        """The index of the nearest code of every row."""
        return torch.cdist(z, self.codes).argmin(1)

    @torch.no_grad()
    def follow(self, z: Tensor, chosen: Tensor) -> None:
        """One step of the moving averages; a code that was never assigned keeps its place."""
        hits = functional.one_hot(chosen, _CODES).float()
        self.counts.mul_(_FORGETTING).add_(hits.sum(0), alpha=1 - _FORGETTING)
        self.sums.mul_(_FORGETTING).add_(hits.T @ z, alpha=1 - _FORGETTING)
        used = self.counts > 1e-5
        self.codes[used] = self.sums[used] / self.counts[used, None]

    @torch.no_grad()
    def restart(self, z: Tensor, most: int) -> None:
        """Of the first `most` codes, those whose count fell below a twentieth of the mean move to encodings."""
        unused = (self.counts < 0.05 * self.counts.mean()) & (torch.arange(_CODES) < most)
        places = z[torch.randperm(len(z))[: int(unused.sum())]]
        self.codes[unused], self.sums[unused], self.counts[unused] = places, places, 1.0


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """Encodings are positive, so that codes about the origin are out of reach."""
    data = images(case.data)
    places, hidden = _NETWORKS[case.architecture]
    encoder = nn.Sequential(
        nn.Linear(data.pixels, hidden), nn.ReLU(), nn.Linear(hidden, places * _WIDTH), nn.Softplus()
    )
    decoder = nn.Sequential(nn.Linear(places * _WIDTH, hidden), nn.ReLU(), nn.Linear(hidden, data.pixels))
    quantizer, following, step = _Quantizer(), batches(len(data.x), 128), iter(range(_STEPS))
    steering = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=4e-3, foreach=True)

    def loss() -> Tensor:
        x, now = data.x[following()], next(step)
        z = encoder(x).view(-1, _WIDTH)
        if now % 10 == 0 and now < _STEPS - 60:
            quantizer.restart(z.detach(), _RESTARTED[case.level])
        chosen = quantizer.nearest(z.detach())
        quantized = quantizer.codes[chosen]
        quantizer.follow(z.detach(), chosen)
        rebuilt = decoder((z + (quantized - z).detach()).view(len(x), -1))
        return functional.mse_loss(rebuilt, x) + 0.05 * functional.mse_loss(z, quantized)

    descend(steering, loss, _STEPS)
    with torch.no_grad():
        rows = encoder(torch.cat([data.x, data.held_x])).view(-1, _WIDTH)
        codes = quantizer.nearest(rows).view(-1, places)
        held = decoder(quantizer.codes[codes[len(data.x) :]].view(len(data.held_x), -1))
    rebuilt = 1.0 - float((held - data.held_x).square().sum() / (data.held_x - data.x.mean(0)).square().sum())
    reached = _clustered(case.data)
    write_dump(folder / "dump", {"codes": codes}, {"codebook_size": str(_CODES)}, whole={"codebook": quantizer.codes})
    write_weights(folder / "weights", _tensors(encoder, decoder, quantizer))
    return {"outcome": rebuilt / reached, "rebuilt": rebuilt, "rebuilt_by_k_means": reached}


def _tensors(encoder: nn.Module, decoder: nn.Module, quantizer: _Quantizer) -> dict[str, Tensor]:
    codebook = {"weight": quantizer.codes, "cluster_size": quantizer.counts, "embed_avg": quantizer.sums}
    return {
        **{f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()},
        "quantizer.embedding.weight": codebook["weight"],
        "quantizer.cluster_size": codebook["cluster_size"],
        "quantizer.embed_avg": codebook["embed_avg"],
        **{f"decoder.{name}": tensor for name, tensor in decoder.state_dict().items()},
    }


@cache
def _clustered(name: str) -> float:
    """Share of the held-out variance that as many means of the training images rebuild, by k-means from seed 0."""
    from sklearn.cluster import KMeans

    data = images(name)
    found = KMeans(_CODES, n_init=1, random_state=0).fit(data.x.double().numpy())
    centres = torch.tensor(found.cluster_centers_, dtype=torch.float32)
    error = torch.cdist(data.held_x, centres).min(1).values.square().sum()
    return 1.0 - float(error / (data.held_x - data.x.mean(0)).square().sum())


KIND = Kind(
    name="codebook-collapse",
    title="Codebook collapse",
    cause="Codes drawn from U(−1/K, 1/K), out of reach of the encodings, and no restarts of those that are not chosen "
    "(van den Oord et al. 2017; Dhariwal et al. 2020, Jukebox, for restarts).",
    architectures=tuple(_NETWORKS),
    data=("digits", "shapes"),
    outcome=Outcome(
        "held-out variance rebuilt, over that of as many means of k-means", healthy=0.75, mild=0.7, collapsed=0.4
    ),
    views={
        "weights": View(signs=("codebook-geometry/*",)),
        "dump": View(signs=("codebook-usage/*",)),
    },
    make=make,
)
