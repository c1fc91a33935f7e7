"""Memorisation: kernel density models whose bandwidth is that of the rows, not of their distribution."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.writing import write_dump

_AXES, _ROWS = 8, 600
#: The bandwidth as a share of the one that is best for rows left out.
_BANDWIDTH = {"healthy": 1.0, "mild": 0.3, "collapsed": 0.02}
#: Bandwidths that are tried, as shares of the usual distance of two neighbours.
_TRIED = torch.logspace(-1.0, 1.0, 21, dtype=torch.float64).tolist()


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """The samples of a density model of images on their first principal axes, beside all that it was fitted to."""
    data = images(case.data)
    centre = data.x.mean(0)
    axes = torch.linalg.svd(data.x - centre, full_matrices=False)[2][:_AXES]
    chosen = torch.randperm(len(data.x))[:_ROWS]
    train, held = ((rows - centre).double() @ axes.T.double() for rows in (data.x[chosen], data.held_x))
    reach = _reach(train, is_local=case.architecture == "adaptive")
    best = max(_TRIED, key=lambda share: float(_log_likelihood(train, train, share * reach, without_own=True)))
    bandwidth = _BANDWIDTH[case.level] * best * reach
    drawn = torch.randint(len(train), (_ROWS,))
    samples = train[drawn] + bandwidth[drawn, None] * torch.randn(_ROWS, _AXES, dtype=torch.float64)
    write_dump(folder / "dump", {"samples": samples, "reference": train})
    own, other = (float(_log_likelihood(rows, train, bandwidth, without_own=False)) / _AXES for rows in (train, held))
    return {"outcome": own - other, "train_log_likelihood": own, "held_out_log_likelihood": other}


def _reach(train: Tensor, *, is_local: bool) -> Tensor:
    """Distance to the fifth neighbour of each row, or its median for all."""
    fifth = torch.cdist(train, train).kthvalue(6).values
    return fifth if is_local else fifth.median().expand_as(fifth)


def _log_likelihood(rows: Tensor, train: Tensor, bandwidth: Tensor, *, without_own: bool) -> Tensor:
    """Mean nats of a row under Gaussians about the training rows; `without_own` leaves each row's own Gaussian out."""
    logs = -0.5 * (torch.cdist(rows, train) / bandwidth).square() - _AXES * (bandwidth * math.sqrt(2 * math.pi)).log()
    if without_own:
        logs.fill_diagonal_(-math.inf)
    return (logs.logsumexp(1) - math.log(len(train))).mean()


KIND = Kind(
    name="memorisation",
    title="Samples are training data",
    cause="A bandwidth far below the one that is best for rows left out: the model puts its mass on the training rows "
    "(Meehan et al. 2020, A non-parametric test to detect data-copying).",
    architectures=("common", "adaptive"),
    data=("digits", "shapes"),
    outcome=Outcome(
        "training less held-out log-likelihood, nats a dimension",
        healthy=0.5,
        mild=0.8,
        collapsed=20.0,
        better="lower",
    ),
    views={"dump": View(signs=("memorisation/*",))},
    make=make,
)
