"""How the class vectors of a head stand to each other."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Role, Skip, block_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Block, Weight

ETF_ERROR = Metric(
    "etf_error",
    "1",
    "Distance of the normalised Gram matrix of the centred class vectors from that of a simplex; 0 to √2.",
    better="lower",
    null="Gaussian rows: √(2 − 2√(d/(d+K−1)))",
)
EQUINORM_CV = Metric(
    "equinorm_cv",
    "1",
    "Standard deviation over mean of the lengths of the class vectors.",
    better="lower",
    null="Gaussian rows: 1/√(2d)",
)
EQUIANGULARITY = Metric(
    "equiangularity",
    "1",
    "Mean distance of the cosines between class vectors from the −1/(K−1) of a simplex.",
    better="lower",
    null="Gaussian rows: √(2/(πd))",
)
COHERENCE = Metric(
    "coherence",
    "1",
    "Largest absolute cosine between two class vectors.",
    better="lower",
    null="largest cosine of K uniform directions in d dimensions (quantile of a Beta distribution)",
)
MEAN_COSINE = Metric(
    "mean_cosine",
    "1",
    "Mean cosine between two different class vectors; −1/(K−1) for a simplex, 1 when all are one direction.",
    better="lower",
    null="uniform directions: 0",
    warn=Limit("above", 0.7, "zoo: beyond every healthy model; less than a third of each row tells classes apart"),
    message="the {classes} class vectors point almost the same way: mean cosine {value:.3g} (limit {bound}, chance 0)",
)
CENTRING = Metric(
    "centring",
    "1",
    "Length of the mean of the unit class vectors; 0 for a simplex, 1 when all are one direction.",
    better="lower",
    null="uniform directions: 1/√K",
    warn=Limit("above", 0.85, "zoo: beyond every healthy model; for many classes its square is mean_cosine"),
    message="the unit class vectors of {classes} classes share a mean of length {value:.3g} (limit {bound}, "
    "chance {null:.3g})",
)
NORM_COUNT_CORRELATION = Metric(
    "norm_count_correlation",
    "1",
    "Spearman's rank correlation between the length of a class vector and the number of training samples of its class.",
    null="independent ranks: 0, with a spread of 1/√(K−1)",
)


def healthy() -> Example:
    """Ten simplex vertices in 64 dimensions, each of length 1."""
    import torch

    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 10, generator=generator, dtype=torch.float64)).Q
    simplex = (torch.eye(10, dtype=torch.float64) - 0.1) / math.sqrt(0.9)
    return Example({"classifier.weight": (simplex @ basis.T).float(), "classifier.bias": torch.zeros(10)})


def collapsed() -> Example:
    """Ten copies of one row with noise of 1e-3."""
    import torch

    generator = torch.Generator().manual_seed(0)
    row = torch.randn(1, 64, generator=generator)
    noise = 1e-3 * torch.randn(10, 64, generator=generator)
    return Example({"classifier.weight": row + noise, "classifier.bias": torch.zeros(10)})


@block_analyzer(
    name="head-geometry",
    family="heads",
    title="Geometry of the class vectors",
    metrics=(ETF_ERROR, EQUINORM_CV, EQUIANGULARITY, COHERENCE, MEAN_COSINE, CENTRING, NORM_COUNT_CORRELATION),
    accepts=on.block("head", Role.HEAD, says="classification and vocabulary heads with at least 3 rows"),
    remedy="If the class vectors have merged, use a balanced or logit-adjusted loss, a head with a norm "
    "constraint or a "
    "fixed simplex head, and separate heads for losses that pull against each other; a diversity loss for queries.",
    references=(
        Reference(
            "Papyan, Han & Donoho. Prevalence of Neural Collapse during the terminal phase of deep learning training. "
            "2020",
            "https://arxiv.org/abs/2008.08186",
        ),
        Reference(
            "Dang et al. Neural Collapse in Deep Linear Networks: From Balanced to Imbalanced Data. 2023",
            "https://arxiv.org/abs/2301.00437",
        ),
        Reference("Shen, Sun & Wei. Equiangular Basis Vectors. 2023", "https://arxiv.org/abs/2303.11637"),
        Reference(
            "Welch. Lower bounds on the maximum cross correlation of signals. IEEE Transactions on Information Theory "
            "1974",
            "https://doi.org/10.1109/TIT.1974.1055219",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "rows_permuted"),
)
def head_geometry(block: "Block") -> Iterator[Measurement | Skip]:
    """How do the class vectors stand to each other, and is that a known design?

    ## Why it matters
    A head can only tell classes apart along directions in which their vectors differ. Late in the training of a
    balanced classifier the class vectors approach a simplex, all at the same obtuse angle; when the features collapse
    or the classes are very unequal, the vectors merge instead, and the loss hides it behind the bias.

    ## How to read it
    `mean_cosine` and `centring` say whether all rows share one direction: near 1 the head has one opinion.
    `etf_error`, `equinorm_cv` and `equiangularity` say how near the head is to a simplex; compare them with chance,
    because few classes in many dimensions are nearly orthogonal anyway. `coherence` is the closest pair; with more
    classes than dimensions it cannot go below the Welch bound given beside it. If the rows follow a known design its
    name stands in the evidence: `simplex`, `d-simplex`, `orthonormal` or `welch`.

    ## Limits
    The centred simplex error cannot see a merged head: ten copies of one row with a little noise score 0.33, random
    rows 0.34, and orthonormal rows exactly 0, so read `mean_cosine` beside it. With far more classes than dimensions
    it is ruled by its floor, which is in the evidence. In a cosine classifier lengths mean nothing. A fixed simplex
    head is a design and looks perfect whatever the features do. In a vocabulary head a common direction of moderate
    size is usual; beyond 2,048 rows the angles are those of a sample, beyond 8,192 the closest pair is not searched.
    """
    site = block.site.name
    head = block.get(kernels.frames.class_vectors)
    if head is None:
        yield skip(site, "several head weights that do not follow one another")
        return
    count, features = head.matrix.shape
    norms = head.get(kernels.spectrum.row_norms)
    live = int((norms > 0).sum())
    if min(count, live) < 3:
        yield skip(site, f"{live} non-zero class vectors < 3")
        return
    size = {"classes": count, "features": features, "layers": len(block.all(Role.HEAD))}
    null, floor = kernels.frames.etf_error_null(count, features)
    yield ETF_ERROR.at(site, head.get(kernels.frames.etf_error), null, floor=floor, **size)
    spread = float(norms.std(correction=0) / norms.mean())
    yield EQUINORM_CV.at(site, spread, 1.0 / math.sqrt(2.0 * features), zero_rows=count - live, **size)
    yield from _angles(site, head, live)
    directions = kernels.frames.direction_sum(head)
    mean_cosine = kernels.frames.mean_cosine(directions, live)
    yield MEAN_COSINE.at(site, mean_cosine, 0.0, simplex=-1.0 / (live - 1), classes=live, features=features)
    yield CENTRING.at(site, float(directions.norm()) / live, 1.0 / math.sqrt(live), classes=live, features=features)
    counts = block.one(Role.CLASS_COUNTS)
    if counts is None or counts.tensor.numel() != count:
        yield skip(site, "norm_count_correlation: class counts missing")
        return
    correlation = kernels.rank_correlation.spearman(norms, counts.tensor.double().reshape(-1))
    if correlation is None:
        yield skip(site, "norm_count_correlation: all lengths or all class counts are equal")
        return
    yield NORM_COUNT_CORRELATION.at(site, correlation, 0.0, spread=1.0 / math.sqrt(count - 1), classes=count)


def _angles(site: str, head: "Weight", live: int) -> Iterator[Measurement | Skip]:
    features = head.matrix.shape[1]
    angles = head.get(kernels.frames.frame_angles)
    yield EQUIANGULARITY.at(
        site, angles.deviation, math.sqrt(2.0 / (math.pi * features)), rows_compared=angles.compared, rows=live
    )
    if angles.coherence is None:
        yield skip(site, f"coherence: {live} rows > {kernels.frames.MAX_EXTREME_ROWS}, not all pairs are compared")
        return
    yield COHERENCE.at(
        site,
        angles.coherence,
        kernels.neighbours.largest_cosine_null(live, features),
        welch_bound=kernels.frames.welch_bound(live, features),
        design=kernels.frames.recognised_design(head) or "none",
        smallest=angles.smallest,
        largest=angles.largest,
        rows=live,
    )
