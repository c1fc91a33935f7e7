"""Mode collapse: a generator that is tuned on those of its own samples that a reward prefers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from zoo.case import Case, Kind, Outcome, View
from zoo.training import descend
from zoo.writing import write_dump

_SPREAD, _KINDS, _ROWS = 0.15, 32, 600
#: Hidden widths.
_NETWORKS = {"two": (64, 64), "three": (48, 48, 48)}
#: Rounds of tuning, and the share of the samples that is kept in each.
_ROUNDS: dict[str, tuple[int, float]] = {"healthy": (0, 1.0), "mild": (1, 0.45), "collapsed": (2, 0.25)}


def _ring() -> Tensor:
    angles = torch.arange(8) * (2 * math.pi / 8)
    return 1.5 * torch.stack([angles.cos(), angles.sin()], 1)


def _grid() -> Tensor:
    axis = torch.linspace(-1.5, 1.5, 4)
    return torch.cartesian_prod(axis, axis)


_CENTRES = {"ring": _ring, "grid": _grid}


def _noise(count: int) -> Tensor:
    """One of 32 kinds and two normal numbers: what is apart need not be torn apart."""
    kinds = nn.functional.one_hot(torch.randint(_KINDS, (count,)), _KINDS)
    return torch.cat([kinds.float(), torch.randn(count, 2)], 1)


def _sliced_distance(made: Tensor, real: Tensor) -> Tensor:
    """Mean squared distance of sorted projections, the sliced Wasserstein distance (Deshpande et al. 2018)."""
    angles = math.pi * torch.rand(24)
    slices = torch.stack([angles.cos(), angles.sin()])
    return ((made @ slices).sort(0).values - (real @ slices).sort(0).values).square().mean()


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """A generator fitted by sliced distance, then tuned by rejection: each round fits what was kept of its output."""
    centres = _CENTRES[case.data]()
    widths = (_KINDS + 2, *_NETWORKS[case.architecture])
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    generator = nn.Sequential(*layers, nn.Linear(widths[-1], 2))

    def real(count: int) -> Tensor:
        return centres[torch.randint(len(centres), (count,))] + _SPREAD * torch.randn(count, 2)

    def fit(target: Tensor, steps: int) -> None:
        steering = torch.optim.Adam(generator.parameters(), lr=4e-3, foreach=True)

        def loss() -> Tensor:
            rows = target[torch.randint(len(target), (256,))]
            return _sliced_distance(generator(_noise(256)), rows)

        descend(steering, loss, steps)

    fit(real(20_000), 400)
    rounds, share = _ROUNDS[case.level]
    preferred = centres[torch.randint(len(centres), (1,))]
    for _ in range(rounds):
        with torch.no_grad():
            samples = generator(_noise(4000))
        reward = -torch.linalg.vector_norm(samples - preferred, dim=1)
        kept = reward.topk(int(share * len(samples))).indices
        fit(samples[kept], 120)
    with torch.no_grad():
        samples = generator(_noise(4000))
    write_dump(folder / "dump", {"samples": samples[:_ROWS], "reference": real(_ROWS)})
    distances, nearest = torch.cdist(samples, centres).min(1)
    near = distances < 3 * _SPREAD
    counts = nearest[near].bincount(minlength=len(centres))
    covered = (counts > 0.1 * len(samples) / len(centres)).double().mean()
    return {"outcome": float(covered), "near_a_mode": float(near.double().mean()), "modes": float(len(centres))}


KIND = Kind(
    name="mode-collapse",
    title="Mode collapse",
    cause="Tuning by rejection without a term that holds the generator: each round is fitted to those of its own "
    "samples that a reward prefers (Dong et al. 2023, RAFT; Kirk et al. 2024, on the loss of diversity).",
    architectures=tuple(_NETWORKS),
    data=tuple(_CENTRES),
    outcome=Outcome(
        "share of the known modes with at least a tenth of their samples", healthy=0.9, mild=0.75, collapsed=0.3
    ),
    views={
        "dump": View(signs=("mode-coverage/*", "precision-recall/*", "sample-diversity/*", "distribution-distance/*"))
    },
    make=make,
)
