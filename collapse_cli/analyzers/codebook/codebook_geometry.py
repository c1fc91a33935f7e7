"""Whether the codes of a vector-quantised model fill their space."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Role, Skip, block_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Block, Weight

#: Two codes nearer than this part of the median distance answer to the same inputs.
_DUPLICATE = 1e-3
#: An exponential moving count below this part of the mean count: not chosen in the last few thousand batches.
_UNUSED = 1e-3
#: Codes up to which all distances are taken.
_COMPARED_CODES = 65536

EFFECTIVE_RANK = Metric(
    "codebook_effective_rank",
    "1",
    "Entropy rank of the variances along the principal axes of the codes.",
    "higher",
    Limit(
        "below",
        0.05,
        "zoo: beyond every healthy model, 0.4 and more; trained image codebooks use a tenth of their dimensions",
        of="null",
    ),
    null="D·exp(−D/2K), the entropy rank of K Gaussian codes in D dimensions (Page 1993)",
    message="{codes} codes of {dimension} dimensions vary along {value:.3g} of them (random codes: {null:.3g})",
)
DUPLICATE_CODE_SHARE = Metric(
    "duplicate_code_share",
    "1",
    "Share of codes with another one nearer than a thousandth of the median distance.",
    "lower",
    Limit("above", 0.05, "zoo: beyond every healthy model, which has none"),
    Limit("above", 0.5, "definition: most codes can be merged and no reconstruction changes by a thousandth"),
    "0",
    "{duplicates} of {codes} codes stand on another one",
)
NEIGHBOUR_RATIO = Metric(
    "neighbour_ratio",
    "1",
    "Median distance to the nearest code over the median distance of two codes.",
    null="the same of seeded Gaussian codes",
)
INIT_BOX_SHARE = Metric(
    "init_box_share",
    "1",
    "Share of codes with no coordinate beyond 1/K, where the common initialiser puts all of them. Experimental.",
    "lower",
    Limit("above", 0.5, "zoo: most codes lie where the initialiser put them; healthy 0, without restarts 0.85 to 1"),
    null="0",
    message="{boxed} of {codes} codes lie inside ±1/K, where the common initialiser puts them: never trained?",
)
UNUSED_CODE_SHARE = Metric(
    "unused_code_share",
    "1",
    "Share of codes whose stored moving count is below a thousandth of the mean count.",
    "lower",
    Limit("above", 0.25, "zoo: with restarts 0, with restarts of an eighth of the codes 0.8 to 0.9"),
    Limit("above", 0.9, "zoo: without restarts 0.93 to 1; one code in ten is left"),
    message="{unused} of {codes} codes are not chosen any more (moving count below a thousandth of the mean)",
)
NORM_CV = Metric(
    "norm_cv",
    "1",
    "Standard deviation over mean of the norms of the codes.",
    null="1/√(2D) of Gaussian codes; 0 for unit codes",
)


def _vq(codes: "Tensor", counts: "Tensor") -> Example:
    return Example({"quantize.embedding.weight": codes, "quantize.cluster_size": counts}, {})


def healthy() -> Example:
    """Gaussian codes that are all in use."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return _vq(torch.randn(256, 64, generator=generator), 1.0 + torch.rand(256, generator=generator))


def collapsed() -> Example:
    """Codes on one line, all but 16 of them on top of others and out of use."""
    import torch

    generator = torch.Generator().manual_seed(0)
    places = torch.randn(16, 1, generator=generator)
    codes = places[torch.arange(256) % 16] * torch.randn(1, 64, generator=generator)
    codes[:16] += 0.01 * torch.randn(16, 64, generator=generator)
    return _vq(codes, (torch.arange(256) < 16).float())


@block_analyzer(
    name="codebook-geometry",
    family="codebook",
    title="Codebook geometry",
    metrics=(EFFECTIVE_RANK, DUPLICATE_CODE_SHARE, NEIGHBOUR_RATIO, INIT_BOX_SHARE, UNUSED_CODE_SHARE, NORM_CV),
    accepts=on.block("codebook", says="codebooks with at least 16 codes, as the model uses them"),
    remedy=(
        "Put one linear layer over the table (SimVQ), so that every code moves with each step; restart dead codes from "
        "encoder outputs; lower the dimension of the codes or normalise them; update by exponential moving averages; "
        "or take fewer codes."
    ),
    references=(
        Reference(
            "Zhu et al. Addressing Representation Collapse in Vector Quantized Models with One Linear Layer. 2024",
            "https://arxiv.org/abs/2411.02038",
        ),
        Reference(
            "Bachmann et al. 4M-21: An Any-to-Any Vision Model for Tens of Tasks and Modalities. 2024",
            "https://arxiv.org/abs/2406.09406",
        ),
        Reference("Chan et al. Analyzing The Language of Visual Tokens. 2024", "https://arxiv.org/abs/2411.05001"),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("rows_permuted", "scaled"),
    unmoved_metrics=("codebook_effective_rank", "duplicate_code_share", "neighbour_ratio", "norm_cv"),
)
def codebook_geometry(block: "Block") -> Iterator[Measurement | Skip]:
    """Do the codes fill their space, and were they all trained?

    ## Why it matters
    A quantiser can only say as much as its codes differ. When gradients reach few codes, the rest stay where they were
    initialised or drift onto one another, and a codebook of thousands works like one of dozens.

    ## How to read it
    `codebook_effective_rank` against its null says along how many directions the codes differ.
    `duplicate_code_share` counts codes that stand on another one, `neighbour_ratio` says how crowded the rest are
    (lower than its null: clusters). `init_box_share` counts codes that still lie where the initialiser U(−1/K, 1/K)
    puts them, and `unused_code_share` those that the stored moving counts show out of use. `norm_cv` is for reading.

    ## Limits
    The stored table is not always the codebook: a projected one is multiplied out first and unit codebooks are
    normalised (evidence says which). Whether codes are used on data, only a dump of codes tells. The initialiser's box
    is a custom, not a law: a model with another one scores 0, and `init_box_share` never gives more than a warning. A
    codebook that lies inside it as a whole is untrained or of very small scale, which is skipped, as are counts that
    are all zero. In fewer than 20 dimensions the rank cannot fall
    below its limit. Quantisers without a table (FSQ, LFQ) have no codebook to look at. Beyond 65,536 codes distances
    are not taken.
    """
    if "skip" in block.facts:
        yield skip(block.site.name, str(block.facts["skip"]))
        return
    codebooks = block.all(Role.CODEBOOK)
    if not codebooks:
        yield skip(block.site.name, "companion tensor missing: codebook")
    usages = block.all(Role.CODEBOOK_USAGE)
    for level, codebook in enumerate(codebooks):
        codes, dimension = codebook.matrix.shape
        if len(codebook.site.shape) != 2 or codes < 16 or dimension < 1:
            yield skip(codebook.site.name, f"{codes} codes < 16" if codes < 16 else "codes are not vectors")
            continue
        evidence = {
            "codes": codes,
            "dimension": dimension,
            "level": int(block.facts.get("level", level)),
            "projected": bool(block.facts.get("projected", False)),
        }
        yield from _spread(codebook, is_unit=bool(block.facts.get("cosine", False)), evidence=evidence)
        yield from _distances(codebook, evidence=evidence)
        usage = usages[level] if level < len(usages) else None
        if usage is None or usage.tensor.numel() != codes:
            yield skip(codebook.site.name, "companion tensor missing: codebook.usage")
        else:
            yield _unused(codebook.site.name, usage, evidence=evidence)


def _spread(codebook: "Weight", *, is_unit: bool, evidence: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, (codes, dimension) = codebook.site.name, codebook.matrix.shape
    rank = kernels.spectrum.entropy_rank(codebook.get(kernels.codebooks.code_energies))
    yield EFFECTIVE_RANK.at(name, rank, kernels.codebooks.code_rank_null(codes, dimension), **evidence)
    boxed, fill = kernels.codebooks.boxed_codes(codebook)
    if boxed == codes:
        yield skip(
            name, f"init_box_share: all codes lie inside ±1/{codes}: an untrained codebook, or one of small scale"
        )
    else:
        yield INIT_BOX_SHARE.at(name, boxed / codes, 0.0, boxed=boxed, box=1 / codes, box_fill=fill, **evidence)
    norms = codebook.get(kernels.spectrum.row_norms)
    mean = float(norms.mean())
    variation = float(norms.std(correction=0)) / mean if mean > 0.0 else 0.0
    null = 0.0 if is_unit else 1.0 / math.sqrt(2.0 * dimension)
    yield NORM_CV.at(name, variation, null, mean_norm=mean, unit=is_unit, **evidence)


def _distances(codebook: "Weight", *, evidence: dict[str, Any]) -> Iterator[Measurement | Skip]:
    name, (codes, dimension) = codebook.site.name, codebook.matrix.shape
    if codes > _COMPARED_CODES:
        yield skip(name, f"distances: {codes} codes > {_COMPARED_CODES}")
        return
    nearest = kernels.neighbours.nearest_distances(codebook.matrix)
    median = kernels.neighbours.median_pair_distance(codebook.matrix)
    # at most, not below: where most codes are equal the median is 0
    on_another = nearest <= _DUPLICATE * median
    count = int(on_another.sum())
    first = [int(code) for code in on_another.nonzero().flatten()[:8]]
    yield DUPLICATE_CODE_SHARE.at(
        name, count / codes, 0.0, duplicates=count, median_distance=median, first=first, **evidence
    )
    ratio = float(nearest.median()) / median if median > 0.0 else 0.0
    null = kernels.neighbours.neighbour_ratio_null(codes, dimension)
    yield NEIGHBOUR_RATIO.at(name, ratio, null, median_distance=median, **evidence)


def _unused(name: str, usage: "Weight", *, evidence: dict[str, Any]) -> Measurement | Skip:
    counts = usage.tensor.reshape(-1).double().clamp_min(0.0)
    mean = float(counts.mean())
    if mean == 0.0:
        return skip(name, "unused_code_share: no code was counted yet")
    unused = int((counts < _UNUSED * mean).sum())
    return UNUSED_CODE_SHARE.at(name, unused / counts.numel(), unused=unused, mean_count=mean, **evidence)
