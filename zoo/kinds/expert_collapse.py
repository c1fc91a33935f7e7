"""Expert collapse: a mixture grown from a model with fewer experts, whose copies never part."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch

from zoo.case import Case, Kind, Outcome, View
from zoo.data import Images, images
from zoo.kinds.mixtures import Mixture, Size, config, fit, right_share
from zoo.writing import write_weights

_SIZES = {"two-of-eight": Size(8, 2), "one-of-six": Size(6, 1, width=24, hidden=48)}
#: How many experts the model had that was grown; the healthy one is trained as it is.
_ANCESTORS = {"two-of-eight": {"mild": 4, "collapsed": 1}, "one-of-six": {"mild": 3, "collapsed": 1}}
_FINE_RATE = 2e-5
#: Share of held-out predictions that may change when an expert takes the place of another.
_SPARED = 0.01


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """A mixture; the outcome is the share of the experts that no other one can replace."""
    data, size = images(case.data), _SIZES[case.architecture]
    model = Mixture(data, size)
    if case.level == "healthy":
        fit(model, data, 150, rate=5e-3, balance=0.1)
    else:
        _grow(model, data, _ANCESTORS[case.architecture][case.level])
    write_weights(folder / "weights", model.state_dict(), config(size))
    distinct = distinct_experts(model, data)
    return {"outcome": distinct / size.experts, "distinct_experts": distinct, "accuracy": right_share(model, data)}


def _grow(model: Mixture, data: Images, ancestors: int) -> None:
    """Trains with experts shared by several places, then copies them without noise and trains on at a small rate."""
    experts = model.sparse.experts
    for place in range(len(experts)):
        experts[place] = experts[place % ancestors]
    fit(model, data, 150, rate=5e-3, balance=0.1)
    for place in range(ancestors, len(experts)):
        experts[place] = copy.deepcopy(experts[place])
    fit(model, data, 30, rate=_FINE_RATE, balance=0.1)


@torch.no_grad()
def distinct_experts(model: Mixture, data: Images) -> int:
    """How many different experts are left when each is replaced by an earlier one wherever predictions stand."""
    before, experts, kept = model(data.held_x).argmax(1), model.sparse.experts, [0]
    for place in range(1, len(experts)):
        own = experts[place]
        for other in kept:
            experts[place] = experts[other]
            if (model(data.held_x).argmax(1) != before).double().mean().item() <= _SPARED:
                break
        else:
            experts[place] = own
            kept.append(place)
    return len(kept)


KIND = Kind(
    name="expert-collapse",
    title="Expert collapse",
    cause="A mixture grown by copying experts without noise and then trained at a small rate: nothing tells the copies "
    "apart (Komatsuzaki et al. 2023, Sparse Upcycling).",
    architectures=tuple(_SIZES),
    data=("digits", "shapes"),
    outcome=Outcome(
        "experts that no other can replace without changing held-out predictions, share of all",
        healthy=0.8,
        mild=0.76,
        collapsed=0.25,
    ),
    views={"weights": View(signs=("expert-similarity/*",))},
    make=make,
)
