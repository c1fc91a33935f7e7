"""Router collapse: nothing balances the experts, and the tokens share a component."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from zoo.case import Case, Kind, Outcome, View
from zoo.data import Images, images
from zoo.kinds.mixtures import Mixture, Size, fit, right_share
from zoo.writing import write_dump

_SIZES = {"two-of-eight": Size(8, 2), "one-of-six": Size(6, 1, width=24, hidden=48)}
#: What is added to every number of every token before training: a direction that all tokens share.
_MILD = {"two-of-eight": 0.8, "one-of-six": 0.6}
_COLLAPSED = {"two-of-eight": 4.0, "one-of-six": 5.0}
#: Share of held-out predictions that may change when an expert is deleted.
_SPARED = 0.01


def make(case: Case, folder: Path) -> Mapping[str, float]:
    """A mixture; the outcome is the share of the experts that cannot be deleted without changing predictions."""
    data, size = images(case.data), _SIZES[case.architecture]
    common = {"healthy": 0.0, "mild": _MILD[case.architecture], "collapsed": _COLLAPSED[case.architecture]}
    model = Mixture(data, size, common=common[case.level])
    fit(model, data, 150, rate=5e-3, balance=0.1 if case.level == "healthy" else 0.0)
    with torch.no_grad():
        logits = model.sparse.gate(model.rows(data.held_x[:150]))
    gate = "layers.0.block_sparse_moe.gate"
    arrays = {f"{gate}/router_logits": logits, f"{gate}/expert_index": logits.topk(size.chosen).indices}
    write_dump(folder / "dump", arrays, {"top_k": str(size.chosen)})
    needed = experts_needed(model, data)
    return {"outcome": needed / size.experts, "experts_needed": needed, "accuracy": right_share(model, data)}


@torch.no_grad()
def experts_needed(model: Mixture, data: Images) -> int:
    """How many experts are left when those that matter least are deleted one by one, as long as predictions stand."""
    before, block, open_ = model(data.held_x).argmax(1), model.sparse, list(range(model.sparse.size.experts))
    closed: tuple[int, ...] = ()
    while len(open_) > block.size.chosen:
        changes = {}
        for expert in open_:
            block.closed = (*closed, expert)
            changes[expert] = (model(data.held_x).argmax(1) != before).double().mean().item()
        least = min(changes, key=lambda expert: changes[expert])
        if changes[least] > _SPARED:
            break
        closed = (*closed, least)
        open_.remove(least)
    block.closed = ()
    return len(open_)


KIND = Kind(
    name="router-collapse",
    title="Router collapse",
    cause="No load-balancing loss, and a component that all tokens share: the router prefers the same experts for "
    "every token, and the preferred learn faster (Shazeer et al. 2017, Outrageously Large Neural Networks; Chi et al. "
    "2022, On the Representation Collapse of Sparse Mixture of Experts).",
    architectures=tuple(_SIZES),
    data=("digits", "shapes"),
    outcome=Outcome(
        "experts that cannot be deleted without changing held-out predictions, share of all",
        healthy=0.8,
        mild=0.76,
        collapsed=0.35,
    ),
    views={"dump": View(signs=("expert-load/*", "router-confidence/*"))},
    make=make,
)
