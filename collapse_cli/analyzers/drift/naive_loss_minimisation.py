"""Naive loss minimisation: whether training only scales weights and logits up and moves no prediction."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, on, pair_analyzer, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.comparisons import Comparison, Model
    from collapse_cli.kernels.views import Activations

_LOGITS = "sample(logits,after.logits)"

UPDATE_ALIGNMENT = Metric(
    "update_alignment",
    "1",
    "The cosine between the last step and the weight that it starts from.",
    better="lower",
    warn=Limit(
        "above", 0.95, "definition: a cosine of .95 leaves a tenth of the energy of the step to more than length"
    ),
    null="a step in a random direction: 0, of size 1/√(number of entries)",
    message="The step points along the weight itself (cosine {value:.3g}): it scales by {factor:.4g} and little else.",
)
NORM_GROWTH = Metric(
    "norm_growth",
    "1",
    "The logarithm of the norm after the last step over the norm before it.",
    better="lower",
    null="the norm stays",
)
LOGIT_SCALE_GROWTH = Metric(
    "logit_scale_growth",
    "1",
    "The slope of the row-centred logits after on those before, minus one.",
    better="lower",
    null="the logits keep their scale",
)
LOGIT_SHAPE_R2 = Metric(
    "logit_shape_r2",
    "1",
    "The share of the row-centred logits after that a multiple of those before explains.",
    null="unrelated logits",
)
ARGMAX_AGREEMENT = Metric(
    "argmax_agreement",
    "1",
    "The share of the rows whose largest logit is that of the same class.",
    null="two independent predictors with these shares of predictions",
)


def _weights() -> dict[str, "Tensor"]:
    import torch

    generator = torch.Generator().manual_seed(0)
    return {f"layers.{place}.weight": torch.randn(32, 32, generator=generator) for place in range(2)}


def healthy() -> Example:
    """A step of a tenth in a direction of its own."""
    import torch

    before, generator = _weights(), torch.Generator().manual_seed(1)
    after = {name: old + 0.1 * torch.randn(*old.shape, generator=generator) for name, old in before.items()}
    return Example(before, others=(after,))


def collapsed() -> Example:
    """Every weight a tenth larger, and nothing else."""
    before = _weights()
    return Example(before, others=({name: 1.1 * old for name, old in before.items()},))


def grown_logits() -> Example:
    """Logits that are a tenth larger on the same rows."""
    import torch

    logits = torch.randn(200, 10, generator=torch.Generator().manual_seed(0))
    return Example({"head/logits": logits}, others=({"head/logits": 1.1 * logits},), metadata={})


@pair_analyzer(
    name="naive-loss-minimisation",
    family="drift",
    title="Naive loss minimisation",
    metrics=(UPDATE_ALIGNMENT, NORM_GROWTH, LOGIT_SCALE_GROWTH, LOGIT_SHAPE_R2, ARGMAX_AGREEMENT),
    accepts=on.matrices(1, min_entries=64),
    companions=on.points("logits", "after.logits", says="logits of the same rows in both dumps"),
    needs=(_LOGITS,),
    also=("series", "activation_pair"),
    sums_up=True,
    remedy="Compute the loss in float64, or with a softmax that does not absorb (StableMax); drop the component of the "
    "gradient along the weights; add weight decay or a penalty on the logits. Or stop: what is left to learn is scale.",
    references=(
        Reference(
            "Prieto et al. Grokking at the Edge of Numerical Stability. 2025", "https://arxiv.org/abs/2501.04697"
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed, "grown_logits": grown_logits},
    confidence="experimental",
    unmoved_by=("scaled",),
)
def naive_loss_minimisation(view: "Comparison | Model | Activations") -> Iterator[Measurement | Skip]:
    """Does training only scale the weights up, moving no prediction?

    ## Why it matters
    Once every training sample is classified, the cross entropy can still fall by making all logits larger. In a
    homogeneous network that is a step along the weights themselves: the loss improves, no prediction changes, and the
    softmax comes nearer to the point where float32 rounds its gradient to zero and learning ends.

    ## How to read it
    `update_alignment` near 1 with a positive `norm_growth` is pure scaling; −1 is pure weight decay; near 0 the step
    goes elsewhere. Of a run both are taken over its last interval, and the evidence holds every interval. Two dumps
    of logits on the same rows show the outcome: `logit_scale_growth` above 0 with `logit_shape_r2` and
    `argmax_agreement` near 1 means that the logits grew and said nothing new. Site `#model` takes all matrices as one.

    ## Limits
    The sum of many steps from a small start always points along the weight it made: compare neighbouring checkpoints
    late in training. Only in homogeneous networks does the scale of the weights become that of the logits; a norm
    behind a layer makes its scale mean nothing. Whether the softmax has collapsed is read from logits in the precision
    of the training. Logits are compared on a sample of rows where a dump is large.
    """
    kernel = kernels.scale_growth
    if isinstance(view, kernels.views.Activations):
        yield from _of_logits(view)
    elif isinstance(view, kernels.comparisons.Comparison):
        yield from _of_steps(view.site.name, view.get(kernel.matrix_steps), view.site.numel)
    elif parts := view.parts_with(kernel.matrix_steps):
        whole: Tensor = sum(gram for _, gram in parts)  # type: ignore[assignment]
        yield from _of_steps(view.site.name, whole, sum(part.site.numel for part, _ in parts))


def _of_steps(name: str, gram: "Tensor", entries: int) -> Iterator[Measurement | Skip]:
    found = kernels.scale_growth.growths(gram)
    last = found[-1]
    if last is None:
        yield skip(name, "unchanged, or all zero" + (" over the last interval" if len(found) > 1 else ""))
        return
    known = [one for one in found[-128:] if one is not None]
    by_chance, factor = entries**-0.5, math.exp(last.norm_growth)
    alignments = [round(one.alignment, 6) for one in known]
    yield UPDATE_ALIGNMENT.at(name, last.alignment, 0.0, by_chance=by_chance, factor=factor, intervals=alignments)
    yield NORM_GROWTH.at(name, last.norm_growth, 0.0, intervals=[round(one.norm_growth, 9) for one in known])


def _of_logits(point: "Activations") -> Iterator[Measurement | Skip]:
    name, sample = point.site.name, point.read(_LOGITS)
    if point.shapes["logits"][1:] != point.shapes["after.logits"][1:]:
        yield skip(name, "the two have other classes")
        return
    if not len(sample.indices) or 0 in point.shapes["logits"]:
        yield skip(name, "no logits")
        return
    before, after = (sample.rows(role).flatten(1) for role in ("logits", "after.logits"))
    found = kernels.scale_growth.logit_growth(before, after)
    facts = {"rows": before.shape[0], "classes": before.shape[1], "exact": sample.is_exact}
    if found.scale is None or found.fit is None:
        yield skip(name, "logit_scale_growth, logit_shape_r2: constant logits")
    else:
        yield LOGIT_SCALE_GROWTH.at(name, found.scale - 1.0, 0.0, **facts)
        yield LOGIT_SHAPE_R2.at(name, found.fit, 0.0, **facts)
    yield ARGMAX_AGREEMENT.at(name, found.agreement, found.chance, **facts)
