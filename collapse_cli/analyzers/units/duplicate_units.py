"""Neurons that repeat one another: equal directions, opposite directions, and what could be merged."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Role, Skip, on, skip, weight_analyzer

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Weight

#: Two rows are copies from this cosine on (A Multi-Level Framework, 2024, where coalesced neurons are compared).
_COPY = 0.999
#: A merge needs a distance below this part of the median distance; the rule of feature complexity, its β our choice.
_BETA = 0.5
#: Rows up to which merging is attempted: 256 MiB of distances.
_MERGED_ROWS = 8192
_LIMIT_SOURCE = (
    "zoo: 0.7 and more in layers grown by copying without noise, 0 in healthy ones; no pair of random rows comes near "
    "cosine 0.999 from 16 columns on, trained layers of models in use hold a few copies"
)

DUPLICATE_SHARE = Metric(
    "duplicate_share",
    "1",
    "Share of living rows that have a partner at a cosine of 0.999 or more.",
    "lower",
    Limit("above", 0.05, _LIMIT_SOURCE),
    Limit("above", 0.25, _LIMIT_SOURCE),
    "0",
    "{duplicates} of {rows} units repeat another one (cosine ≥ 0.999; closest pair: rows {closest})",
)
OPPOSITE_SHARE = Metric(
    "opposite_share", "1", "Share of living rows that have a partner at a cosine of −0.999 or less.", null="0"
)
MAX_COSINE = Metric(
    "max_cosine",
    "1",
    "Largest cosine between two different living rows.",
    "lower",
    null="typical largest cosine of as many random directions, Beta(M, N)",
)
MERGEABLE_SHARE = Metric(
    "mergeable_share",
    "1",
    "Share of living rows that merge away when the closest two are replaced by their mean as long as they are closer "
    "than half the median distance. Experimental.",
    "lower",
    null="0",
)


def _llama_mlp(copies: int) -> Example:
    import torch

    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in {"gate_proj": (96, 32), "up_proj": (96, 32), "down_proj": (32, 96)}.items():
        matrix = torch.randn(shape, generator=generator) * 0.02
        if copies and name != "down_proj":
            noise = 1 + 1e-3 * torch.randn(copies, 32, generator=generator)
            matrix[48 : 48 + copies] = matrix[:copies] * noise
        tensors[f"model.layers.0.mlp.{name}.weight"] = matrix
    return Example(tensors, {"model_type": "llama", "hidden_size": 32, "intermediate_size": 96})


def healthy() -> Example:
    """A gated MLP of Gaussian weights."""
    return _llama_mlp(0)


def collapsed() -> Example:
    """The same grown from half its width by copying, with next to no noise."""
    return _llama_mlp(48)


@weight_analyzer(
    name="duplicate-units",
    family="units",
    title="Duplicate units",
    metrics=(DUPLICATE_SHARE, OPPOSITE_SHARE, MAX_COSINE, MERGEABLE_SHARE),
    accepts=on.matrices(16, but=frozenset({Role.EMBEDDING, Role.POSITION, Role.HEAD, Role.ROUTER, Role.CODEBOOK})),
    remedy=(
        "If the model was grown by copying, add noise to the copies (or give them different rates or dropout) so that "
        "they part. Else merge the copies, adding up their outgoing weights, and train the smaller layer; or "
        "decorrelate the units by dropout or an orthogonality penalty."
    ),
    references=(
        Reference(
            "Chen, Zhou & Yan. Going Beyond Neural Network Feature Similarity: The Network Feature Complexity and Its "
            "Interpretation Using Category Theory. 2023",
            "https://arxiv.org/abs/2310.06756",
        ),
        Reference(
            "Zou, Zhang & Deng. A Multi-Level Framework for Accelerating Training Transformer Models. 2024",
            "https://arxiv.org/abs/2404.07999",
        ),
        Reference(
            "Charikar. Similarity estimation techniques from rounding algorithms. STOC 2002",
            "https://doi.org/10.1145/509907.509965",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "rows_permuted"),
)
def duplicate_units(weight: "Weight") -> Iterator[Measurement | Skip]:
    """How many neurons repeat one another?

    ## Why it matters
    Two units with the same incoming weights compute the same thing and receive the same gradient, so they stay equal
    for ever: the layer is as narrow as the number of its different units, whatever its width says.

    ## How to read it
    `duplicate_share` counts the rows that point where another one points; scale does not matter, because a ReLU unit
    is the same up to scale. `opposite_share` is not judged, since mirrored pairs are a known way to keep both signs
    behind a ReLU. `max_cosine` well above its null says that the closest pair is no accident. `mergeable_share` looks
    at distances instead of directions, and therefore also finds copies that noise has driven below a cosine of 0.999.

    ## Limits
    Rows are compared without the bias and without a folded norm (evidence says so): units that differ in nothing but
    the bias count as copies. Copies made on purpose, to grow a model without changing its function, look the same as
    copies that training made. Rows with equal directions may have different outgoing weights: they are redundant, yet
    merging them loses nothing. Dead rows are left out (`dead-units`), as are filters with a single input channel.
    `mergeable_share` is experimental: its rule is stated here in full, the published code stops by a rule of its own,
    and rows of very different norms merge at the origin. Beyond 65,536 rows pairs are proposed by hashing, which
    misses a copy with a probability of 1e-11 but makes `max_cosine` a lower bound.
    """
    name, columns = weight.site.name, weight.matrix.shape[1]
    if len(weight.site.shape) > 2 and weight.site.shape[1] == 1:
        yield skip(name, "one input channel per filter (depthwise)")
        return
    rows = weight.get(_alive_rows)
    count = rows.shape[0]
    if count < 16:
        yield skip(name, f"{count} rows with any strength < 16")
        return
    extremes = kernels.neighbours.cosine_extremes(rows, thresholds=(_COPY, -_COPY))
    duplicates, opposites = int((extremes.nearest >= _COPY).sum()), int((extremes.opposite <= -_COPY).sum())
    evidence = {"rows": count, "dead_rows": weight.matrix.shape[0] - count, "bias": "not included"}
    closest = list(extremes.closest)
    yield DUPLICATE_SHARE.at(name, duplicates / count, 0.0, duplicates=duplicates, closest=closest, **evidence)
    yield OPPOSITE_SHARE.at(name, opposites / count, 0.0, opposites=opposites, minimum=extremes.minimum, **evidence)
    null = kernels.neighbours.largest_cosine_null(count, columns)
    yield MAX_COSINE.at(name, extremes.maximum, null, closest=closest, exhaustive=extremes.is_exhaustive, **evidence)
    if count > _MERGED_ROWS:
        yield skip(name, f"merging: {count} rows > {_MERGED_ROWS}")
        return
    median = kernels.neighbours.median_pair_distance(rows)
    merged = kernels.neighbours.mergeable_count(rows, extremes.nearest, limit=_BETA * median)
    yield MERGEABLE_SHARE.at(name, merged / count, 0.0, merged=merged, median_distance=median, beta=_BETA, **evidence)


def _alive_rows(weight: "Weight") -> "Tensor":
    """The rows that are not dead; the matrix itself if none is."""
    dead = weight.get(kernels.strength.dead_rows)
    return weight.matrix[~dead.to(weight.matrix.device)] if bool(dead.any()) else weight.matrix
