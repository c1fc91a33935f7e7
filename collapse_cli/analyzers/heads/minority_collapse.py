"""Whether rare classes still have their own direction in the head."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Role, Skip, block_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Block, Weight

#: Cosine from which two class vectors count as merged: the angle is below 8.2 degrees.
MERGED = 0.99
#: Share of the median length below which a class vector has vanished.
VANISHED = 1e-3
#: Rows beyond which a language-model head is left to `embedding-table`: tokens are no classes.
MAX_LANGUAGE_CLASSES = 4096

MINORITY_COSINE = Metric(
    "minority_cosine",
    "1",
    "Mean cosine among the class vectors of the rarer half of the classes.",
    better="lower",
    null="a balanced head: −1/(K−1) with a bias, 0 without",
    warn=Limit(
        "above", 0.5, "zoo: beyond every healthy model, which stay below 0; a common direction of all rows adds to it"
    ),
    error=Limit("above", 0.75, "zoo: healthy heads reach −0.05, those that lost all rare classes begin at 0.77"),
    message="the {rare} rarest classes share one direction: mean cosine {value:.3g} (limit {bound}, "
    "balanced {null:.3g})",
)
COSINE_GAP = Metric(
    "cosine_gap",
    "1",
    "Mean cosine among the rarer half of the classes minus that among the more frequent half.",
    better="lower",
    null="equal halves: 0",
    warn=Limit(
        "above", 0.25, "zoo: healthy heads reach 0.06, those that lost three of five rare classes begin at 0.24"
    ),
    error=Limit("above", 0.7, "zoo: heads that lost all rare classes begin at 0.95"),
    message="class vectors of rare classes lie closer together than those of frequent ones by {value:.3g} in mean "
    "cosine (limit {bound})",
)
MERGED_ROW_SHARE = Metric(
    "merged_row_share",
    "1",
    "Share of class vectors that have another one at a cosine of at least 0.99.",
    better="lower",
    null="uniform directions: 0",
    warn=Limit("above", 0.1, "zoo: beyond every healthy model, which has none; a few classes may be synonyms"),
    message="{merged} of {classes} class vectors have a twin at cosine ≥ 0.99 ({value:.3g}, limit {bound})",
)
VANISHED_ROW_SHARE = Metric(
    "vanished_row_share",
    "1",
    "Share of class vectors shorter than a thousandth of the median length.",
    better="lower",
    null="Gaussian rows: 0",
    warn=Limit("above", 0.0, "definition: the class has no score of its own"),
    message="{vanished} of {classes} class vectors have vanished ({value:.3g}, limit {bound}), first row {first}",
)
FRAME_FIT = Metric(
    "frame_fit",
    "1",
    "R² of the straight line of squared class vector lengths on the square root of class counts, live classes only.",
)
CRITICAL_COUNT = Metric(
    "critical_count",
    "samples",
    "Class size at which the fitted line reaches length zero: classes below it are predicted to vanish.",
    better="lower",
)


def healthy() -> Example:
    """Ten simplex vertices in 64 dimensions."""
    import torch

    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 10, generator=generator, dtype=torch.float64)).Q
    simplex = (torch.eye(10, dtype=torch.float64) - 0.1) / math.sqrt(0.9)
    return Example({"classifier.weight": (simplex @ basis.T).float(), "classifier.bias": torch.zeros(10)})


def collapsed() -> Example:
    """Ten classes in 64 dimensions: the rarer four identical, two vanished."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(10, 64, generator=generator)
    rows[4:8] = rows[4]
    rows[8:] *= 1e-5
    counts = torch.tensor([100] * 4 + [2] * 6)
    return Example({"classifier.weight": rows, "classifier.bias": torch.zeros(10), "classifier.class_counts": counts})


@block_analyzer(
    name="minority-collapse",
    family="heads",
    title="Minority collapse",
    metrics=(MINORITY_COSINE, COSINE_GAP, MERGED_ROW_SHARE, VANISHED_ROW_SHARE, FRAME_FIT, CRITICAL_COUNT),
    accepts=on.block("head", Role.HEAD, says="classification heads with at least 4 classes"),
    remedy="Sample classes evenly or adjust the logits by class frequency, weaken weight decay on the head, fix "
    "the head "
    "to a simplex, and add samples to the classes below the critical count.",
    references=(
        Reference(
            "Fang et al. Exploring Deep Neural Networks via Layer-Peeled Model: Minority Collapse in Imbalanced "
            "Training. 2021",
            "https://arxiv.org/abs/2101.12699",
        ),
        Reference(
            "Dang et al. Neural Collapse in Deep Linear Networks: From Balanced to Imbalanced Data. 2023",
            "https://arxiv.org/abs/2301.00437",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "rows_permuted"),
    # rows are permuted without their class counts
    unmoved_metrics=(MERGED_ROW_SHARE.name, VANISHED_ROW_SHARE.name),
)
def minority_collapse(block: "Block") -> Iterator[Measurement | Skip]:
    """Have rare classes lost their own direction in the head?

    ## Why it matters
    When some classes have far fewer samples than others, the optimum of the usual loss with weight decay gives them
    the same class vector, and below a critical size none at all. Such a class can then no longer be predicted for what
    it is, however good the features are, and accuracy over all samples hardly shows it.

    ## How to read it
    `merged_row_share` and `vanished_row_share` need nothing but the head: rows with a twin, and rows without length.
    With class counts, `minority_cosine` compares the rare classes among themselves (about 0 or slightly negative is
    healthy, 1 is complete collapse) and `cosine_gap` with the frequent ones. `frame_fit` near 1 says that lengths
    follow the law of one linear layer, and then `critical_count` is the class size at which a class vanishes.

    ## Limits
    Without class counts it cannot know which classes are rare, and synonyms look merged as well. Under imbalance the
    ideal is an orthogonal frame with lengths that depend on class size, not a simplex, so a different length alone is
    no fault. The length law holds for one bias-free layer; with several trailing layers, which are multiplied,
    collapse is a jump and the fit is left out. A head of all zeros is a true local minimum and is reported as totally
    vanished. Vocabularies of language models are left to `embedding-table`.
    """
    site = block.site.name
    head = block.get(kernels.frames.class_vectors)
    if head is None:
        yield skip(site, "several head weights that do not follow one another")
        return
    count = head.matrix.shape[0]
    if count < 4:
        yield skip(site, f"{count} classes < 4")
        return
    if count > MAX_LANGUAGE_CLASSES and block.facts.get("is_language_model"):
        yield skip(site, "vocabulary head: see embedding-table")
        return
    norms = head.get(kernels.spectrum.row_norms)
    middle = float(norms.median())
    gone = norms < VANISHED * middle if middle > 0.0 else norms == 0.0
    rows = gone.nonzero().flatten().tolist()
    yield VANISHED_ROW_SHARE.at(
        site,
        len(rows) / count,
        0.0,
        vanished=len(rows),
        classes=count,
        first=rows[0] if rows else None,
        median_length=middle,
        total_collapse=len(rows) == count,
    )
    yield _merged(site, head, ~gone)
    counts = block.one(Role.CLASS_COUNTS)
    if counts is None or counts.tensor.numel() != count:
        yield skip(site, "minority_cosine, cosine_gap, frame_fit, critical_count: class counts missing")
        return
    sizes = counts.tensor.double().reshape(-1).cpu()
    has_bias = block.one(Role.HEAD_BIAS) is not None
    yield from _halves(site, head, sizes, ~gone, null=-1.0 / (count - 1) if has_bias else 0.0)
    if len(block.all(Role.HEAD)) > 1:
        yield skip(site, "frame_fit, critical_count: the law holds for one layer, the head has several")
        return
    yield from _length_law(site, norms[~gone], sizes[~gone])


def _merged(site: str, head: "Weight", live: "Tensor") -> Measurement:
    rows = head.matrix if bool(live.all()) else head.matrix[live.to(head.matrix.device)]
    extremes = kernels.neighbours.cosine_extremes(rows, thresholds=(MERGED,))
    merged = int((extremes.nearest >= MERGED).sum())
    count = head.matrix.shape[0]
    first, second = (int(live.nonzero()[row]) for row in extremes.closest) if merged else (None, None)
    return MERGED_ROW_SHARE.at(
        site, merged / count, 0.0, merged=merged, classes=count, largest=extremes.maximum, closest=[first, second]
    )


def _halves(site: str, head: "Weight", sizes: "Tensor", live: "Tensor", *, null: float) -> Iterator[Measurement | Skip]:
    """Mean cosines inside the rarer and the more frequent half of the classes, vanished rows left out."""
    order = sizes.argsort(stable=True)
    half = sizes.numel() // 2
    means: list[float] = []
    kept: list[int] = []
    for part in (order[:half], order[sizes.numel() - half :]):
        chosen = live.clone()
        chosen[:] = False
        chosen[part] = live[part]
        kept.append(int(chosen.sum()))
        if kept[-1] > 1:
            directions = kernels.frames.direction_sum(head, chosen)
            means.append(kernels.frames.mean_cosine(directions, kept[-1]))
    if kept[0] < 2:
        yield skip(site, f"minority_cosine, cosine_gap: {kept[0]} live class vectors among the rarer half < 2")
        return
    largest = float(sizes[order[half - 1]])
    yield MINORITY_COSINE.at(site, means[0], null, rare=half, live=kept[0], largest_rare_count=largest)
    if kept[1] < 2:
        yield skip(site, f"cosine_gap: {kept[1]} live class vectors among the more frequent half < 2")
        return
    yield COSINE_GAP.at(site, means[0] - means[1], 0.0, minority=means[0], majority=means[1])


def _length_law(site: str, norms: "Tensor", sizes: "Tensor") -> Iterator[Measurement | Skip]:
    if norms.numel() < 3 or float(sizes.min()) == float(sizes.max()) or float(sizes.min()) < 0.0:
        yield skip(site, "frame_fit, critical_count: fewer than 3 live classes, or all of one size")
        return
    slope, offset, fit = kernels.frames.length_fit(norms, sizes)
    yield FRAME_FIT.at(site, fit, slope=slope, offset=offset, live=norms.numel())
    if slope <= 0.0:
        yield skip(site, "critical_count: lengths do not grow with class size")
        return
    yield CRITICAL_COUNT.at(site, (max(offset, 0.0) / slope) ** 2, slope=slope, offset=offset, fit=fit)
