"""Whether softmax still sees the other classes at the precision of training."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip
from collapse_cli.errors import BadValues

if TYPE_CHECKING:
    from collapse_cli.kernels.accumulators import SoftmaxAbsorption
    from collapse_cli.kernels.views import Activations

NEED = "softmax_absorption"
#: Below it a share of 1 is no evidence of a state.
MIN_ROWS = 100

ABSORBED_SHARE = Metric(
    "absorbed_share",
    "1",
    "Share of rows in which 1 + Σ_{j≠max} e^{z_j − max z} rounds to 1 in the dtype of the loss.",
    better="lower",
    null="0: equal logits",
)
LOST_GRADIENT_SHARE = Metric(
    "lost_gradient_share",
    "1",
    "Share of labelled rows that are absorbed and right: the gradient of the correct logit is exactly 0.",
    better="lower",
    null="0: equal logits",
    warn=Limit("above", 0.5, "definition: most rows have no gradient on their own class, and the median none to spare"),
    error=Limit("above", 0.95, "zoo: healthy models reach 0.07, those that never generalise begin at 0.98"),
    message="Softmax in {dtype} rounds {value:.3g} of {labelled} labelled rows to one-hot (median headroom "
    "{headroom:.3g} nats): their correct class gets no gradient at all, so training can only scale the logits further.",
)
ZERO_LOSS_SHARE = Metric(
    "zero_loss_share",
    "1",
    "Share of labelled rows whose cross entropy, computed in the dtype of the loss, is exactly 0.",
    better="lower",
    null="0: equal logits",
)
HEADROOM = Metric(
    "headroom",
    "nats",
    "Median of log Σ_{j≠max} e^{z_j − max z} − log u, u half the step of the loss's dtype at 1; absorbed below 0.",
    better="higher",
    null="equal logits: log(C − 1) − log u",
)
NORMALISED_MARGIN = Metric(
    "normalised_margin",
    "1",
    "5th percentile of (z_y − max_{k≠y} z_k)/(‖h‖·‖W‖): the margin without the scale of features and head.",
    better="higher",
)


def healthy() -> Example:
    """Two classes, margin 10: fp32 has 6.6 nats left."""
    return _example(margin=10.0)


def collapsed() -> Example:
    """The same decisions at margin 20: e⁻²⁰ is below the rounding of 1 in fp32."""
    return _example(margin=20.0)


def _example(margin: float) -> Example:
    import torch

    labels = torch.arange(128) % 2
    directions = torch.nn.functional.one_hot(labels, 2).float()
    arrays = {
        "head/logits": margin * directions,
        "head/labels": labels,
        "head/features": directions,
        "head/head_weight": margin * torch.eye(2),
    }
    return Example(arrays, metadata={"training_dtype": "float32"})


@activation_analyzer(
    name="softmax-collapse",
    family="logits",
    title="Softmax collapse",
    metrics=(ABSORBED_SHARE, LOST_GRADIENT_SHARE, ZERO_LOSS_SHARE, HEADROOM, NORMALISED_MARGIN),
    accepts=on.points("logits", says="hook points with logits"),
    remedy="Compute softmax and loss in fp32 or fp64, or hold the logits back: label smoothing, weight decay on the "
    "head, a logit cap, StableMax instead of softmax, or a gradient projected off the weights (⊥Grad).",
    references=(
        Reference(
            "Prieto, Barsbey, Mediano & Birdal. Grokking at the Edge of Numerical Stability. 2025",
            "https://arxiv.org/abs/2501.04697",
        ),
        Reference(
            "Tyurin. From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step "
            "Sizes. 2024",
            "https://arxiv.org/abs/2412.08424",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=(NEED,),
    uses=("labels", "features", "head_weight"),
    unmoved_by=("samples_permuted", "shifted"),
    unmoved_metrics=("absorbed_share", "lost_gradient_share", "zero_loss_share", "headroom"),
)
def softmax_collapse(point: "Activations") -> Iterator[Measurement | Skip]:
    """Does softmax absorb the tail at training precision, so that the correct class gets no gradient?

    ## Why it matters
    Once the largest term is so far ahead that adding all others to it changes nothing, the computed probability is
    exactly 1, the gradient of the correct logit exactly 0 and the loss often exactly 0. What is left only scales the
    logits. Training that had not generalised yet stops there, long before the loss of exact arithmetic is 0.

    ## How to read it
    A row is absorbed when the sum of all other terms is at most u, half the distance from 1 to the next number (2⁻²⁴ in
    fp32, 2⁻¹¹ in fp16, 2⁻⁸ in bf16): the rule of rounding, whatever order a device adds in. `headroom` is how far, in
    nats, the median row is from that, and needs no row to be absorbed yet. `lost_gradient_share` counts rows that are
    absorbed and right. `zero_loss_share` and the evidence `operational_share` (the dtype's own sum is 1) depend on the
    order of the additions. `normalised_margin` grows with better separation but not with larger weights.

    ## Limits
    The dtype that counts is the one in which the loss took its softmax (metadata `training_dtype`): autocast computes
    it in fp32 on bf16 logits, and a dump saved as fp32 hides a bf16 loss. Without that key the stored dtype is assumed
    and lost gradients are not judged. Absorbed rows that are wrong keep their gradient; absorbed rows that are right
    still push the other classes by e^−margin. Where many classes share the tail, Σe = 1 can hold in fp32 and the loss
    still be 10⁻⁷. The bias of a head is part of the margin but not of ‖W‖.
    """
    site, found = point.site.name, point.read(NEED)
    named = point.metadata.get("training_dtype")
    if named is not None and kernels.softmax_absorption.training_dtype(named) is None:
        raise BadValues(
            "metadata training_dtype",
            expected="should be float64, float32, float16 or bfloat16",
            got=f"it is {named!r}",
            hint="write the dtype in which the loss computed its softmax",
        )
    if found.impossible_labels:
        classes = point.shapes["logits"][1]
        raise BadValues(
            "labels",
            expected=f"should be classes of the logits (0 to {classes - 1}), or -1 or -100 for no class",
            got=f"{found.impossible_labels:,} are neither",
            hint="labels count from 0 in the order of the logits",
        )
    if found.count < MIN_ROWS:
        yield skip(site, f"{found.count:,} rows with finite logits < {MIN_ROWS}")
        return
    facts = _facts(point, found)
    yield ABSORBED_SHARE.at(site, found.absorbed / found.count, 0.0, **facts)
    yield HEADROOM.at(site, facts["headroom"], found.equal_headroom, **facts)
    if found.labelled < MIN_ROWS:
        reason = f"{found.labelled:,} labelled rows < {MIN_ROWS}" if "labels" in point.shapes else "no labels"
        yield skip(site, f"lost_gradient_share, zero_loss_share, normalised_margin: {reason}")
        return
    lost = found.lost / found.labelled
    if named is None:
        reason = f"no training_dtype in the metadata; it would be {lost:.3g} if the loss was in {facts['dtype']}"
        yield skip(site, f"lost_gradient_share: {reason}")
    else:
        yield LOST_GRADIENT_SHARE.at(site, lost, 0.0, **facts)
    yield ZERO_LOSS_SHARE.at(site, found.zero_loss / found.labelled, 0.0, **facts)
    yield _margin(point, found, facts)


def _facts(point: "Activations", found: "SoftmaxAbsorption") -> dict[str, Any]:
    """What the shares are taken of, and the dtype they are judged in."""
    return {
        "rows": found.count,
        "classes": point.shapes["logits"][1],
        "labelled": found.labelled,
        "dtype": str(found.dtype).removeprefix("torch."),
        "stored_dtype": point.dtypes["logits"],
        "is_training_dtype_known": "training_dtype" in point.metadata,
        "headroom": found.headroom.quantile(0.5),
        "headroom_least": found.headroom.minimum,
        "operational_share": found.operational / found.count,
        "overflowing_rows": found.overflowing,
    }


def _margin(point: "Activations", found: "SoftmaxAbsorption", facts: dict[str, Any]) -> Measurement | Skip:
    site, weight = point.site.name, point.arrays.get("head_weight")
    missing = [role for role in ("features", "head_weight") if role not in point.shapes]
    if missing or weight is None:
        return skip(site, f"normalised_margin: no {' and no '.join(missing)}")
    norm = float(weight.double().norm())
    if not (math.isfinite(norm) and norm > 0.0):
        return skip(site, "normalised_margin: head_weight is zero or not finite")
    if found.margin.count < MIN_ROWS:
        return skip(site, f"normalised_margin: {found.margin.count:,} labelled rows with features other than 0")
    facts = facts | {"zero_features": found.zero_features, "head_norm": norm}
    return NORMALISED_MARGIN.at(site, found.margin.quantile(0.05) / norm, **facts)
