"""Whether an embedding may be cut."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Measurement, Metric, Reference, Skip, layers_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.prefixes import Judge
    from collapse_cli.kernels.views import Activations, Layers

__all__ = ["matryoshka_prefix"]

MIN_WIDTH, MIN_ROWS = 16, 100
#: Rows whose neighbours are compared: seven sweeps over them take a second, and a share is known to .016.
MOST_ROWS = 1024
RANDOM = "m features drawn at random, mean of five draws"

PREFIX_ENERGY = Metric(
    "prefix_energy",
    "1",
    "The share of the variance in the first m features; one value per m, at `<site>#prefix=<m>`.",
    better="higher",
    null="m/D: variance spread evenly",
)
PREFIX_QUALITY = Metric(
    "prefix_quality",
    "1",
    "The quality of the first m features over that of all; one value per m, at `<site>#prefix=<m>`.",
    better="higher",
    null=RANDOM,
)
NESTEDNESS = Metric(
    "nestedness",
    "1",
    "The quality of prefixes less that of as many random features, mean over the widths.",
    better="higher",
    null="0: the order of the features means nothing",
)
NESTEDNESS_Z = Metric(
    "nestedness_z",
    "standard errors",
    "Nestedness over the standard deviation that a random order of the features would give it.",
    better="higher",
    null="0: the order of the features means nothing",
    message="Prefixes are no better than random features: nestedness {nestedness:.3g}, {value:.3g} standard errors.",
)
PCA_GAP = Metric(
    "pca_gap",
    "1",
    "The quality of m principal components less that of the prefix, mean over the widths.",
    better="lower",
)
SUFFICIENT_WIDTH = Metric(
    "sufficient_width",
    "features",
    "The least width whose prefix has 99 % of the full quality.",
    better="lower",
)
GRID_GAP = Metric(
    "grid_gap",
    "1",
    "The full quality less that of the worst cell on the diagonal from the first layer's shortest prefix to the whole.",
    better="lower",
)


def _example(strengths: "Tensor", *, is_rotated: bool) -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    width = strengths.numel()
    last = strengths * torch.randn(300, width, generator=generator)
    first = last + 0.3 * strengths * torch.randn(300, width, generator=generator)
    if is_rotated:
        turn = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
        first, last = first @ turn, last @ turn
    return Example({"layers.0/features": first, "layers.1/features": last}, metadata={})


def healthy() -> Example:
    """Features in falling order of strength, in an early exit and in the last layer."""
    import torch

    return _example(0.8 ** torch.arange(32), is_rotated=False)


def collapsed() -> Example:
    """The same rows in turned axes: no prefix is better than other features."""
    import torch

    return _example(0.8 ** torch.arange(32), is_rotated=True)


@layers_analyzer(
    name="matryoshka-prefix",
    family="nested",
    title="Nested prefixes",
    metrics=(PREFIX_ENERGY, PREFIX_QUALITY, NESTEDNESS, NESTEDNESS_Z, PCA_GAP, SUFFICIENT_WIDTH, GRID_GAP),
    accepts=on.points("features", says="the deepest hook point with features, and earlier exits of equal width"),
    remedy="Train nested: a loss on several prefixes (Matryoshka), on fixed pairs of layer and width (Starbucks), or "
    "nested dropout. An embedding that was not trained so is shortened by its principal components instead.",
    references=(
        Reference("Kusupati et al. Matryoshka Representation Learning. 2022", "https://arxiv.org/abs/2205.13147"),
        Reference(
            "Zhuang et al. Starbucks: Improved Training for 2D Matryoshka Embeddings. 2024",
            "https://arxiv.org/abs/2410.13230",
        ),
        Reference(
            "Lin et al. MatryoshkaKV: Adaptive KV Compression via Trainable Orthogonal Projection. 2024",
            "https://arxiv.org/abs/2410.14731",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=("moments", "sample"),
    uses=("labels",),
    unmoved_by=("samples_permuted", "scaled", "shifted"),
)
def matryoshka_prefix(layers: "Layers") -> Iterator[Measurement | Skip]:
    """Do prefixes of the embedding (and early exits) keep the quality, i.e. is it trained nested?

    ## Why it matters
    A nested embedding can be cut to its first 64 numbers for a fast first search and be used whole for the second.
    Cut an embedding that was not trained so, and the prefix is as bad as any other choice of 64 features: nothing warns
    of it, the neighbours are simply worse.

    ## How to read it
    Quality is the accuracy of ten nearest neighbours (leave-one-out, Euclidean) where the dump has labels, else the
    share of the ten nearest rows of the full code that the prefix finds too. `prefix_quality` of each width stands
    beside that of as many random features, its null: only what lies above it is nestedness. `nestedness_z` counts the
    difference in standard deviations; a policy for a model that was trained nested should set its warning at 3.
    `pca_gap` is what principal components would give beyond the prefix, `sufficient_width` the width to cut to.
    `grid_gap` is the loss on pairs of earlier layer and shorter prefix, for models with early exits.

    ## Limits
    Energy in the first features proves nothing without the random control. The deepest hook point alone is measured
    prefix by prefix. Principal components are those of the very rows that are judged, which flatters them where there
    are few rows per feature. Neighbours do not say what an attention cache loses when it is cut: judge that by the
    error of the attention. Nothing is judged by default, because most embeddings are not meant to be cut.
    """
    point = layers.points[-1]
    name, width = point.site.name, point.shapes["features"][-1]
    if width < MIN_WIDTH:
        yield skip(name, f"width {width} < {MIN_WIDTH}")
        return
    if point.finite_rows < MIN_ROWS:
        yield skip(name, f"{point.finite_rows} rows < {MIN_ROWS}")
        return
    variances = point.read("moments").centred_scatter.diagonal().clamp_min(0.0)
    rows, labels = _rows(point)
    if float(variances.sum()) <= 0.0 or bool((rows == rows[:1]).all()):
        yield skip(name, "all rows are equal")
        return
    profile, judge = kernels.prefixes.prefix_profile(rows, labels)
    facts: dict[str, Any] = {
        "rows": point.finite_rows,
        "features": width,
        "dtype": point.dtypes.get("features", ""),
        "sampled": rows.shape[0],
        "quality": "10-NN accuracy" if labels is not None else "mutual 10-NN",
        "full_quality": profile.full,
    }
    if profile.full <= 0.0:
        yield skip(name, "prefix_quality and all that follows: the full code has no neighbour of the same class")
        return
    energies = variances.cumsum(0) / variances.sum()
    drawn = profile.random.mean(0)
    for place, m in enumerate(profile.widths):
        site = f"{name}#prefix={m}"
        yield PREFIX_ENERGY.at(site, float(energies[m - 1]), m / width, **facts)
        quality, null = profile.prefix[place] / profile.full, float(drawn[place]) / profile.full
        yield PREFIX_QUALITY.at(site, quality, null, **facts, principal=profile.principal[place] / profile.full)
    value, deviation = profile.nestedness
    # qualities that agree in every order still count whole rows
    deviation = max(deviation, 0.5 / rows.shape[0])
    facts = facts | {"widths": list(profile.widths), "prefix": list(profile.prefix), "random": drawn.tolist()}
    yield NESTEDNESS.at(name, value, 0.0, **facts, standard_deviation=deviation)
    yield NESTEDNESS_Z.at(name, value / deviation, 0.0, **facts, nestedness=value)
    yield PCA_GAP.at(name, profile.principal_gap, **facts, principal=list(profile.principal))
    yield SUFFICIENT_WIDTH.at(name, profile.sufficient_width(width), **facts)
    yield from _grid(layers, judge, profile.full, facts)


def _rows(point: "Activations") -> tuple["Tensor", "Tensor | None"]:
    """Rows of the uniform sample and, where two classes are labelled, their labels; then labelled rows only."""
    sample, unlabelled = point.read("sample"), kernels.batches.UNLABELLED
    chosen = kernels.nearest_rows.uniform_rows
    rows = chosen(sample, "features", MOST_ROWS)
    if "labels" not in point.shapes:
        return rows, None
    labels = chosen(sample, "labels", MOST_ROWS).flatten().long()
    is_labelled = (labels != unlabelled[0]) & (labels != unlabelled[1])
    kept = labels[is_labelled]
    if kept.numel() < MIN_ROWS or bool((kept == kept[:1]).all()):
        return rows, None
    return rows[is_labelled], kept


def _grid(layers: "Layers", judge: "Judge", full: float, facts: dict[str, Any]) -> Iterator[Measurement | Skip]:
    last = layers.points[-1]
    points = [point for point in layers.points if _matches(point, last)]
    if len(points) < 2:
        yield skip(layers.site.name, "grid_gap: no earlier hook point of the same rows and width")
        return
    widths = (*kernels.prefixes.prefix_widths(last.shapes["features"][-1]), last.shapes["features"][-1])
    steps = min(len(points), len(widths))
    cells, qualities = [], []
    for step in range(1, steps + 1):
        point, m = points[step * len(points) // steps - 1], widths[step * len(widths) // steps - 1]
        rows, _ = _rows(point)
        (near,) = kernels.prefixes.prefix_neighbours(rows, (m,))
        cells.append(f"{point.site.name}[:{m}]")
        qualities.append(judge.quality(near))
    worst = min(range(steps), key=qualities.__getitem__)
    yield GRID_GAP.at(
        layers.site.name, full - qualities[worst], **facts, cells=cells, qualities=qualities, worst_cell=cells[worst]
    )


def _matches(point: "Activations", last: "Activations") -> bool:
    mine, theirs = point.read("sample").indices, last.read("sample").indices
    is_same = mine.shape == theirs.shape and bool((mine == theirs).all())
    return is_same and point.shapes["features"] == last.shapes["features"]
