"""Dead latents: a top-k sparse auto-encoder without a remedy for latents that never win."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.nets import perceptron
from zoo.training import batches, descend, fit_classifier
from zoo.writing import write_dump

#: Width of the layer that is coded, and latents.
_SIZES = {"double": (48, 96), "fourfold": (32, 128)}
_ACTIVE, _STEPS, _EVERY = 2, 400, 20
#: Share of the latents that are set to rows that are badly rebuilt while they do not fire, and the rate.
_LEVELS = {"healthy": (1.0, 3e-3), "mild": (0.4, 1e-2), "collapsed": (0.0, 3e-1)}
#: Copies of the images with noise, so that the rows of the dump tell what is silent.
_COPIES = 5


class _Sparse(nn.Module):
    """Encoder and decoder about a common centre; the k largest numbers of each code are kept (Gao et al. 2024)."""

    def __init__(self, width: int, latents: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(width, latents), nn.Linear(latents, width)
        with torch.no_grad():
            self.decoder.weight.copy_(functional.normalize(torch.randn(width, latents), dim=0))
            self.encoder.weight.copy_(self.decoder.weight.T)
            self.encoder.bias.zero_()

    def coded(self, rows: Tensor) -> Tensor:
        """Rows × latents, at most k of them above 0 in a row."""
        every = functional.relu(self.encoder(rows - self.decoder.bias))
        best = every.topk(_ACTIVE, 1)
        return torch.zeros_like(every).scatter(1, best.indices, best.values)

    @torch.no_grad()
    def resample(self, silent: Tensor, rows: Tensor) -> None:
        """Silent latents start again as what is left of rows that are badly rebuilt (Bricken et al. 2023)."""
        if not bool(silent.any()):
            return
        left = rows - self.decoder(self.coded(rows))
        worst = left.square().sum(1).multinomial(min(int(silent.sum()), len(rows)))
        chosen = silent.nonzero().flatten()[: len(worst)]
        directions = functional.normalize(left[worst[: len(chosen)]], dim=1)
        self.decoder.weight[:, chosen] = directions.T
        self.encoder.weight[chosen], self.encoder.bias[chosen] = directions, 0.0


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """The codes of the hidden layer of a classifier, of all images and of copies with noise."""
    data = images(case.data)
    width, latents = _SIZES[case.architecture]
    classifier = perceptron(data.pixels, widths=(width,))
    steering = torch.optim.Adam(classifier.parameters(), lr=3e-3, weight_decay=1e-4, foreach=True)
    fit_classifier(classifier, data.x, data.y, steering, 150)
    with torch.no_grad():
        every = torch.cat([data.x, data.held_x])
        noisy = torch.cat([every, *(every + 0.02 * torch.randn_like(every) for _ in range(_COPIES))])
        hidden = classifier.features(noisy)
        hidden = (hidden - hidden[: len(data.x)].mean(0)) / hidden[: len(data.x)].std()
    model, share = _Sparse(width, latents), _LEVELS[case.level][0]
    steering = torch.optim.Adam(model.parameters(), lr=_LEVELS[case.level][1], foreach=True)
    following, step, fired = batches(len(data.x), 128), iter(range(_STEPS)), torch.zeros(latents)

    def loss() -> Tensor:
        x, now = hidden[following()], next(step)
        with torch.no_grad():
            model.decoder.weight.copy_(functional.normalize(model.decoder.weight, dim=0))
        if now % _EVERY == _EVERY - 1 and now < 0.75 * _STEPS:
            model.resample((fired == 0) & (torch.arange(latents) < share * latents), x)
            fired.zero_()
        code = model.coded(x)
        fired.add_(code.detach().gt(0).sum(0))
        return (model.decoder(code) - x).square().sum(1).mean()

    descend(steering, loss, _STEPS)
    with torch.no_grad():
        code, held = model.coded(hidden), slice(len(data.x), len(every))
        whole = hidden[held].square().sum()
        rebuilt = 1.0 - float((model.decoder(code[held]) - hidden[held]).square().sum() / whole)
        # without latent l the reconstruction of a row moves by its code times a column
        moved = (code[held] * torch.linalg.vector_norm(model.decoder.weight, dim=0)).square().sum(0) / whole
    write_dump(folder / "dump", {"sparse": code}, {"activation": "topk", "top_k": str(_ACTIVE)}, dtype=torch.float16)
    dead = float((code <= 0).all(0).double().mean())
    return {"outcome": float((moved > 1e-5).double().mean()), "rebuilt": rebuilt, "dead": dead}


KIND = Kind(
    name="dead-latents",
    title="Dead latents",
    cause="Only the k largest numbers of a code are kept, so that latents which never win get no gradient, without a "
    "remedy and at too large a rate (Gao et al. 2024; Bricken et al. 2023 for resampling).",
    architectures=tuple(_SIZES),
    data=("digits", "shapes"),
    outcome=Outcome(
        "share of latents without which held-out reconstructions change", healthy=0.7, mild=0.6, collapsed=0.22
    ),
    views={"dump": View(signs=("dead-latents/*", "activation-density/*"))},
    make=make,
)
