"""Clusters without balance: self-labelled prototypes of which few are left."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.case import Case, Kind, Outcome, View
from zoo.data import images
from zoo.nets import perceptron
from zoo.training import batches, descend, kept
from zoo.writing import write_dump

_WIDTHS = {"perceptron": (96, 64), "deep": (96, 96, 64)}
#: Power of the division of targets by the mass of their cluster: 1 is a round of Sinkhorn and Knopp, 0 no balance.
_BALANCE = {
    "digits": {"healthy": 1.0, "mild": 0.38, "collapsed": 0.0},
    "shapes": {"healthy": 1.0, "mild": 0.43, "collapsed": 0.0},
}
#: What balanced clusters reach.
_SOUND = {"digits": 0.85, "shapes": 0.65}
_CLUSTERS, _ROWS = 20, 1000
#: Temperatures of predictions and of targets.
_WARM, _COLD = 0.1, 0.05


class _Prototypes(nn.Module):
    """Cosines of an embedding with twenty prototypes."""

    def __init__(self, pixels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = perceptron(pixels, widths=widths, classes=32, is_normed=True)
        self.prototypes = nn.Linear(32, _CLUSTERS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """N × clusters."""
        return functional.normalize(self.encoder(x)) @ functional.normalize(self.prototypes.weight).T


def _targets(cosines: Tensor, balance: float) -> Tensor:
    """Assignments to learn from, sharpened and balanced over the batch."""
    assigned = (cosines.detach() / _COLD).softmax(1)
    assigned = assigned / assigned.sum(0, keepdim=True) ** balance
    return assigned / assigned.sum(1, keepdim=True)


def _named(cosines: Tensor, labels: Tensor, held: Tensor, held_labels: Tensor) -> float:
    """Held-out accuracy if every cluster is called after the class that most of its training rows are of."""
    counts = torch.zeros(_CLUSTERS, 10).index_put_(
        (cosines.argmax(1), labels), torch.ones(len(labels)), accumulate=True
    )
    return (counts.argmax(1)[held.argmax(1)] == held_labels).double().mean().item()


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """Each of two noisy views predicts the cluster of the other."""
    from sklearn.metrics import normalized_mutual_info_score

    data, balance = images(case.data), _BALANCE[case.data][case.level]
    model, following = _Prototypes(data.pixels, _WIDTHS[case.architecture]), batches(len(data.x), 128)
    steering = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-4, foreach=True)

    def loss() -> Tensor:
        x = data.x[following()]
        a, b = (model(x + 0.2 * torch.randn_like(x)) for _ in "ab")
        pairs = ((a, _targets(b, balance)), (b, _targets(a, balance)))
        terms = [-(target * (view / _WARM).log_softmax(1)).sum(1).mean() for view, target in pairs]
        return torch.stack(terms).mean()

    model.train()
    descend(steering, loss, 200)
    model.eval()
    with torch.no_grad():
        cosines, held = model(data.x), model(data.held_x)
        features = model.encoder(data.x[:_ROWS])
    write_dump(folder / "dump", {"assignments": (cosines[:_ROWS] / _WARM).softmax(1), "features": features})
    right = _named(cosines, data.y, held, data.held_y)
    shared = normalized_mutual_info_score(data.held_y.numpy(), held.argmax(1).numpy())
    return {
        "outcome": kept(right, chance=0.1, sound=_SOUND[case.data]),
        "accuracy_of_named_clusters": right,
        "mutual_information": float(shared),
        "clusters": float(cosines.argmax(1).unique().numel()),
    }


KIND = Kind(
    name="cluster-collapse",
    title="Cluster collapse",
    cause="Two views predict each other's cluster and nothing, or too little, keeps the clusters of one size: what is "
    "largest takes all (Caron et al. 2020, SwAV: equipartition by Sinkhorn and Knopp against the trivial solution; "
    "Asano, Rupprecht & Vedaldi 2020, Self-labelling).",
    architectures=tuple(_WIDTHS),
    data=("digits", "shapes"),
    outcome=Outcome(
        "held-out accuracy of clusters named after their commonest class, the way from chance to balanced clusters'",
        healthy=0.8,
        mild=0.75,
        collapsed=0.2,
    ),
    views={"dump": View(signs=("cluster-collapse/*",), intent="representation")},
    make=make,
)
