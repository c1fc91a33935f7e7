"""Class means and class vectors when classes differ in size."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, activation_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Activations

#: Largest over smallest class from which the balanced simplex is no longer the ideal to compare with.
MIN_IMBALANCE = 1.5

ORTHOGONAL_FRAME_ERROR = Metric(
    "orthogonal_frame_error",
    "1",
    "Mean absolute cosine between class means about the origin; 0 for an orthogonal frame.",
    null="random directions: √(2/(πD))",
)
LENGTH_SLOPE = Metric(
    "length_slope",
    "1",
    "Slope of ln(‖w_k‖²/‖m_k‖²) on ln n_k over the live classes; 1 at the optimum of one linear layer.",
    null="lengths unrelated to class size: 0",
)
SHRINK_SLOPE = Metric(
    "shrink_slope",
    "1",
    "Slope of ln(1 − w_kᵀm_k) on ln n_k over the live classes; −½ at the optimum of one linear layer.",
)
GOF_ERROR = Metric(
    "gof_error",
    "1",
    "Distance of the normalised WWᵀ from the diagonal of optimal squared lengths under the stated weight decay.",
)
MINORITY_COSINE = Metric(
    "minority_cosine",
    "1",
    "Mean cosine between the class vectors of the rarest fifth of the classes.",
    better="lower",
    null="orthogonal class vectors: 0 (simplex: −1/(K−1))",
    warn=Limit("above", 0.7, "zoo: the two most similar of ten class vectors of healthy heads reach 0.6"),
    error=Limit(
        "above", 0.8, "zoo: healthy heads reach 0.1, most that lost their rare classes lie beyond, all above 0.7"
    ),
    message="The class vectors of the {rare} rarest of {classes} classes have merged: mean cosine {value:.3g}.",
)
HEAD_NORM_COUNT_SPEARMAN = Metric(
    "head_norm_count_spearman",
    "1",
    "Rank correlation between the length of a class vector and the size of its class.",
    null="unrelated: 0, with a spread of 1/√(K−1)",
)
VANISHED_CLASSES = Metric(
    "vanished_classes",
    "classes",
    "Classes whose class vector is a thousandth of the longest, or whose mean cannot be told from the origin.",
    better="lower",
    null="classes of at most N²λ_Wλ_H rows where the weight decay of one layer is stated, else 0",
    warn=Limit("above", 0.0, "closed form: a class vector or class mean of zero decides nothing"),
    message="{value:.0f} of {classes} classes have vanished from head or features, first labels {labels}.",
)


def healthy() -> Example:
    """The optimum of one linear layer with the squared error."""
    return _example(merged=False)


def collapsed() -> Example:
    """The same with the class vectors of the rarer half merged, and one of them gone."""
    return _example(merged=True)


def _example(*, merged: bool) -> Example:
    import torch

    decay, sizes = 0.002, torch.tensor([400, 300, 250, 200, 150, 120, 100, 80, 60, 40])
    total, labels = int(sizes.sum()), torch.arange(200) % 10
    squares = sizes.double().sqrt() - total * decay
    products = 1.0 - total * decay / sizes.double().sqrt()
    head = torch.nn.functional.pad(torch.diag(squares.sqrt()), (0, 6))
    means = torch.nn.functional.pad(torch.diag(products / squares.sqrt()), (0, 6))
    if merged:
        head[6:] = head[6]
        head[5] = 0.0
    return Example(
        {
            "encoder.layer.0/features": means[labels].float(),
            "encoder.layer.0/labels": labels,
            "encoder.layer.0/head_weight": head.float(),
            "encoder.layer.0/class_counts": sizes,
        },
        metadata={"weight_decay": f"{decay}, {decay}, 1"},
    )


@activation_analyzer(
    name="imbalanced-geometry",
    family="neural-collapse",
    title="Geometry under class imbalance",
    metrics=(
        ORTHOGONAL_FRAME_ERROR,
        LENGTH_SLOPE,
        SHRINK_SLOPE,
        GOF_ERROR,
        MINORITY_COSINE,
        HEAD_NORM_COUNT_SPEARMAN,
        VANISHED_CLASSES,
    ),
    accepts=on.points("features", "labels", "head_weight", says="hook points with features, labels and head_weight"),
    needs=("class_moments",),
    uses=("class_counts",),
    remedy="Lower the weight decay until every class has more than N²λ_Wλ_H rows, sample classes evenly, adjust the "
    "logits by class frequency, or fix the head to a simplex.",
    references=(
        Reference(
            "Dang et al. Neural Collapse in Deep Linear Networks: From Balanced to Imbalanced Data. 2023",
            "https://arxiv.org/abs/2301.00437",
        ),
        Reference(
            "Fang et al. Exploring Deep Neural Networks via Layer-Peeled Model: Minority Collapse in Imbalanced "
            "Training. 2021",
            "https://arxiv.org/abs/2101.12699",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "features_rotated"),
    unmoved_metrics=("orthogonal_frame_error", "length_slope", "minority_cosine", "vanished_classes"),
)
def imbalanced_geometry(point: "Activations") -> Iterator[Measurement | Skip]:
    """Under class imbalance, do lengths and angles follow class size, and which classes vanished?

    ## Why it matters
    When classes differ in size the simplex is no longer the optimum. Class vectors and means then stand at right
    angles, and their lengths grow with the size of the class; below a critical size the optimum for a class is zero, or
    one vector that it shares with the other rare ones. Such classes are never predicted, and accuracy over all rows
    hardly shows it.

    ## How to read it
    At the optimum of one bias-free linear layer with the squared error `length_slope` is 1, `shrink_slope` −½ and both
    errors are 0. `minority_cosine` near 1 is minority collapse. `vanished_classes` lists the labels, beside the number
    that theory predicts. For `gof_error` and that number the metadata `weight_decay` has to give λ_W and λ_H (and the
    number of linear layers), the decay of the last layers and of the features as the sum over all N rows has it.

    ## Limits
    The slopes are those of one layer; with several, or with cross-entropy and a bias, compare runs and not with the
    numbers above. `head_weight` has to be the product of all trailing linear layers. Class sizes are the training
    counts in `class_counts`, without which those of this dump are used, and these may have been balanced. A head that
    was fixed to a simplex is a design. Lengths that grow with class size are no fault by themselves. Classes with fewer
    than 5 rows in the dump are left out, and a mean is only called zero from 20 rows on.
    """
    site, found = point.site.name, point.get(kernels.neural_collapse.classes)
    if found.count < 2:
        yield skip(site, f"{found.count} classes with {kernels.neural_collapse.MIN_ROWS} rows < 2")
        return
    head = point.get(kernels.neural_collapse.head_of_classes)
    if head is None:
        yield skip(site, point.get(kernels.neural_collapse.head_mismatch))
        return
    trained = point.get(kernels.imbalanced_frame.training_sizes)
    if trained is None:
        yield skip(site, "class_counts does not give one positive number for every row of head_weight")
        return
    sizes, total = trained
    ratio = float(sizes.max() / sizes.min())
    if ratio < MIN_IMBALANCE:
        yield skip(site, f"max n_k/min n_k = {ratio:.3g} < {MIN_IMBALANCE}: see class-means")
        return
    facts = point.get(kernels.neural_collapse.sizes)
    facts = facts | {"imbalance": ratio, "training_rows": total, "has_counts": "class_counts" in point.arrays}
    gone = point.get(kernels.imbalanced_frame.vanished)
    facts = facts | {"live": int((~gone).sum())}
    yield _vanished(point, sizes, total, facts)
    yield from _lengths(point, head, sizes, facts)
    decay = kernels.imbalanced_frame.decay_of(point.metadata)
    yield from _rare(site, head[~gone], sizes[~gone], facts)
    if decay is None:
        yield skip(site, "gof_error: the metadata weight_decay does not give λ_W and λ_H")
        return
    energies, _ = kernels.imbalanced_frame.optimal_energies(sizes, total, decay)
    error = kernels.imbalanced_frame.frame_distance(head, energies)
    if error is None:
        yield skip(site, "gof_error: the head is zero, or should be under this weight decay")
        return
    yield GOF_ERROR.at(site, error, layers=decay.layers, **facts)


def _vanished(point: "Activations", sizes: "Tensor", total: float, facts: dict[str, Any]) -> Measurement:
    found, gone = point.get(kernels.neural_collapse.classes), point.get(kernels.imbalanced_frame.vanished)
    decay = kernels.imbalanced_frame.decay_of(point.metadata)
    predicted = 0
    if decay is not None and decay.layers == 1:
        predicted = int((sizes <= total**2 * decay.weights * decay.features).sum())
    labels = found.labels[gone][:8].tolist()
    return VANISHED_CLASSES.at(point.site.name, int(gone.sum()), predicted, labels=labels, **facts)


def _lengths(
    point: "Activations", head: "Tensor", sizes: "Tensor", facts: dict[str, Any]
) -> Iterator[Measurement | Skip]:
    """Angles and lengths of the classes that have not vanished."""
    site, found = point.site.name, point.get(kernels.neural_collapse.classes)
    live = ~point.get(kernels.imbalanced_frame.vanished)
    means, vectors, sizes = found.means[live], head[live], sizes[live]
    if means.shape[0] < 2:
        yield skip(site, "orthogonal_frame_error, length_slope, shrink_slope: fewer than 2 live classes")
        return
    lengths = means.norm(dim=1)
    units = means / lengths[:, None]
    pairs = kernels.class_pairs.frame_pairs(units, cosine=0.0, generator=point.generator())
    null = kernels.neural_collapse.equiangularity_null(found.width)
    yield ORTHOGONAL_FRAME_ERROR.at(site, pairs.deviation, null, pairs=pairs.compared, **facts)
    slope = kernels.imbalanced_frame.log_slope((vectors.norm(dim=1) / lengths).square(), sizes)
    if slope is None:
        yield skip(site, "length_slope, shrink_slope: the live classes are of one size")
        return
    yield LENGTH_SLOPE.at(site, slope, 0.0, **facts)
    shrunk = 1.0 - (vectors * means).sum(1)
    # 1 − wᵀm of a class without shrinkage is rounding
    chosen = shrunk > 1e-12
    slope = kernels.imbalanced_frame.log_slope(shrunk[chosen], sizes[chosen])
    if slope is None:
        yield skip(site, "shrink_slope: fewer than 2 sizes of classes with w_kᵀm_k < 1")
        return
    yield SHRINK_SLOPE.at(site, slope, shrunk_classes=int(chosen.sum()), **facts)


def _rare(site: str, head: "Tensor", sizes: "Tensor", facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    """Class vectors of the live classes against class size."""
    rare = math.ceil(sizes.numel() / 5)
    if rare < 2:
        yield skip(site, f"minority_cosine: {sizes.numel()} live classes < 6")
    else:
        chosen = head[sizes.argsort(stable=True)[:rare]]
        directions = (chosen / chosen.norm(dim=1, keepdim=True)).sum(0)
        cosine = kernels.frames.mean_cosine(directions, rare)
        largest = float(sizes.sort().values[rare - 1])
        yield MINORITY_COSINE.at(site, cosine, 0.0, rare=rare, largest_rare=largest, **facts)
    correlation = kernels.rank_correlation.spearman(head.norm(dim=1), sizes)
    if correlation is None:
        yield skip(site, "head_norm_count_spearman: the live classes have one size, or one length")
        return
    yield HEAD_NORM_COUNT_SPEARMAN.at(site, correlation, 0.0, **facts)
