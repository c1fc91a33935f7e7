"""Which layers change nothing on their way."""

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Skip, layers_analyzer, on, skip

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Activations, Layers

__all__ = ["layer_redundancy"]

#: Fewer rows leave the standard error of a debiased CKA above .03.
MIN_ROWS = 50
#: What hook points on the two arms of a residual block end with, and that of a predictor, which is no layer.
SKIP, MAIN, BESIDE = ".skip", ".main", (".skip", ".main", ".predictor")

ADJACENT_CKA = Metric(
    "adjacent_cka",
    "1",
    "Debiased linear CKA between a layer and the one before it, on the same rows.",
    better="lower",
    null="0: unrelated layers",
)
BLOCK_INFLUENCE = Metric(
    "block_influence",
    "1",
    "1 − the mean cosine between what enters a block and what leaves it.",
    better="higher",
    warn=Limit(
        "below",
        1e-12,
        "definition: the rows that leave are those that entered; rounding in float32 makes 1e-15 of it",
    ),
    null="1: unrelated layers",
    message="Rows leave this layer as they left {previous}: the mean cosine is 1 − {value:.2g} over {rows} rows.",
)
SKIP_RATIO = Metric(
    "skip_ratio", "1", "The median length of what passes over a block relative to what comes out of its main path."
)
ADJACENT_WEIGHT_COSINE = Metric(
    "adjacent_weight_cosine",
    "1",
    "The cosine between the weights of one role in neighbouring layers.",
    better="lower",
    null="0 ± 1/√numel: unrelated weights",
)


def healthy() -> Example:
    """Three layers with nothing in common, the last with both arms of its block."""
    import torch

    generator = torch.Generator().manual_seed(0)
    arrays = {f"layers.{layer}/features": torch.randn(200, 16, generator=generator) for layer in range(3)}
    arms = {f"layers.2.{arm}/features": torch.randn(200, 16, generator=generator) for arm in ("skip", "main")}
    return Example(arrays | arms, metadata={})


def collapsed() -> Example:
    """The second block is the identity."""
    import torch

    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 200, 16, generator=generator)
    arrays = {"layers.0/features": x, "layers.1/features": x.clone(), "layers.2/features": y}
    return Example(arrays, metadata={})


@layers_analyzer(
    name="layer-redundancy",
    family="similarity",
    title="Layer redundancy",
    metrics=(ADJACENT_CKA, BLOCK_INFLUENCE, SKIP_RATIO, ADJACENT_WEIGHT_COSINE),
    accepts=on.points("features", says="at least 2 hook points with layer numbers, with features of the same rows"),
    remedy="Drop or share the layers that change nothing and distil afterwards, train with stochastic depth, undo a "
    "start from copied layers with noise, or weaken skips that dominate their block.",
    references=(
        Reference(
            "Men et al. ShortGPT: Layers in Large Language Models are More Redundant Than You Expect. 2024",
            "https://arxiv.org/abs/2403.03853",
        ),
        Reference(
            "Sieberling et al. EvoPress: Towards Optimal Dynamic Model Compression via Evolutionary Search. 2024",
            "https://arxiv.org/abs/2410.14649",
        ),
        Reference(
            "Ma et al. The Surprising Effectiveness of Skip-Tuning in Diffusion Sampling. 2024",
            "https://arxiv.org/abs/2402.15170",
        ),
        Reference(
            "Kornblith et al. Similarity of Neural Network Representations Revisited. 2019",
            "https://arxiv.org/abs/1905.00414",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    needs=("sample",),
    unmoved_by=("scaled", "features_rotated", "samples_permuted"),
)
def layer_redundancy(layers: "Layers") -> Iterator[Measurement | Skip]:
    """Which layers change nothing on their way through the network?

    ## Why it matters
    A block whose output is its input costs time and memory and learns nothing. Blocks grown from copies, residual
    branches that were initialised near zero and never left it, and skips that drown their block end there.

    ## How to read it
    Every number stands at the later of two neighbouring layers; the evidence names the earlier one. `adjacent_cka`
    near 1 means that both see the same similarities, up to rotation and scale. `block_influence` compares the rows
    themselves and is 0 for the identity. `skip_ratio` is there where the arms of a block were dumped as `<site>.skip`
    and `<site>.main`; far above 1, the block hardly matters.

    ## Limits
    Residual streams share a large common direction, so that `block_influence` is small in healthy deep models: compare
    the layers of one model. Only a block that is the identity up to rounding is judged. Influences must not be
    added up: which layers can be dropped together is not the sum of what each loses. Hook points without a layer
    number are left out, and two of one layer are not compared. Layers of different width have no influence. Rows are
    those that both samples kept. `adjacent_weight_cosine` needs the weights, which a dump does not hold.
    """
    points = [p for p in layers.points if p.site.layer is not None and not p.site.name.endswith(BESIDE)]
    pairs = [(a, b) for a, b in pairwise(points) if a.site.layer != b.site.layer]
    by_name = {point.site.name: point for point in layers.points}
    arms = [name.removesuffix(SKIP) for name in by_name if name.endswith(SKIP)]
    blocks = [site for site in arms if f"{site}{MAIN}" in by_name]
    lacking = [] if pairs else [f"adjacent_cka, block_influence: fewer than 2 layers: {len(points)} numbered sites"]
    lacking += [] if blocks else [f"skip_ratio: no site has both <site>{SKIP} and <site>{MAIN}"]
    yield skip(layers.site.name, "; ".join((*lacking, "adjacent_weight_cosine: a dump holds no weights")))
    for before, after in pairs:
        yield from _between(before, after)
    for site in blocks:
        yield from _arms(by_name[f"{site}{SKIP}"], by_name[f"{site}{MAIN}"])


def _between(before: "Activations", after: "Activations") -> Iterator[Measurement | Skip]:
    name = after.site.name
    if before.rows != after.rows:
        yield skip(name, f"rows not paired: {before.rows:,} of {before.site.name} against {after.rows:,}")
        return
    found = kernels.adjacent_layers.neighbours(before, after)
    if found.rows < MIN_ROWS:
        yield skip(name, f"adjacent_cka, block_influence: {found.rows} common rows < {MIN_ROWS}")
        return
    facts = kernels.feature_spectrum.facts(after)
    facts |= {"previous": before.site.name, "sampled": found.rows, "exact": found.rows == after.rows}
    if found.alignment is None:
        yield skip(name, f"adjacent_cka: all rows of {before.site.name} or of this layer are equal")
    else:
        yield ADJACENT_CKA.at(name, found.alignment, 0.0, **facts)
    if found.cosine is None:
        yield skip(name, f"block_influence: width differs from that of {before.site.name}, or all rows are zero")
    else:
        yield BLOCK_INFLUENCE.at(name, 1.0 - found.cosine, 1.0, **facts)


def _arms(passing: "Activations", main: "Activations") -> Iterator[Measurement | Skip]:
    found = kernels.adjacent_layers.median_length_ratio(passing, main) if passing.rows == main.rows else None
    if found is None:
        yield skip(main.site.name, "skip_ratio: rows not paired, or no main path that is not zero")
        return
    yield SKIP_RATIO.at(main.site.name, found[0], rows=found[1], skip=passing.site.name)
