"""Weights that are zero or negligible, and whether they form a pattern."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Role, Skip, on, skip, weight_analyzer

if TYPE_CHECKING:
    from collapse_cli.kernels.views import Weight

ZERO_SHARE = Metric(
    "zero_share",
    "1",
    "Share of the entries that are exactly zero.",
    error=Limit(
        "above",
        0.9998,
        "zoo: 0.9999 (one weight left) where global pruning halved the accuracy, 1 where it left chance; with four "
        "weights left (0.9995) a small network with batch norm kept it",
        inclusive=True,
    ),
    null="0",
    message="{zeros} of {entries} entries are zero: the layer puts out nothing.",
)
NM_SHARE = Metric(
    "nm_share",
    "1",
    "Share of the groups of M neighbours that keep to the best-fitting N:M pattern (2:4, 1:4 or 4:8).",
    null="random zeros of the same share",
)
TINY_SHARE = Metric(
    "tiny_share",
    "1",
    "Share of the non-zero entries below a tenth of their root mean square.",
    better="lower",
    warn=Limit(
        "above",
        8.0,
        "zoo: 9 and more in layers half of whose units died and decayed, 2 and less in healthy ones",
        of="null",
    ),
    null="Gaussian entries",
    message="{value:.3g} of its non-zero entries are below a tenth of the rms; {null:.3g} is what chance gives.",
)


def healthy() -> Example:
    """A Gaussian matrix, and one pruned 2:4."""
    import torch

    generator = torch.Generator().manual_seed(0)
    pruned = torch.randn(64, 16, 4, generator=generator)
    pruned[:, :, :2] = 0.0
    return Example(
        {
            "encoder.layer.0.intermediate.dense.weight": torch.randn(64, 64, generator=generator),
            "encoder.layer.0.output.dense.weight": pruned.reshape(64, 64),
        },
        {"model_type": "bert"},
    )


def collapsed() -> Example:
    """A matrix of zeros, and one in which a few entries are left."""
    import torch

    generator = torch.Generator().manual_seed(0)
    faded = torch.randn(64, 64, generator=generator) * 1e-3
    faded[::16, ::16] = 1.0
    return Example(
        {
            "encoder.layer.0.intermediate.dense.weight": torch.zeros(64, 64),
            "encoder.layer.0.output.dense.weight": faded,
        },
        {"model_type": "bert"},
    )


@weight_analyzer(
    name="sparsity",
    family="integrity",
    title="Zeros and negligible weights",
    metrics=(ZERO_SHARE, NM_SHARE, TINY_SHARE),
    # tokens, position tables and biases of two axes begin at zero, and some of them stay there
    accepts=on.matrices(2, min_entries=64, but=frozenset({Role.POSITION, Role.OTHER})),
    remedy="None if the model was pruned on purpose. Otherwise look for a mask that was left applied, for weight decay "
    "on weights that get no gradient, or for a layer that starts at zero and was never trained; regrow and train the "
    "idle share.",
    references=(
        Reference(
            "Hu et al. SaRA: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse Low-Rank Adaptation. "
            "2024",
            "https://arxiv.org/abs/2409.06633",
        ),
        Reference(
            "Bambhaniya et al. Progressive Gradient Flow for Robust N:M Sparsity Training in Transformers. 2024",
            "https://arxiv.org/abs/2402.04744",
        ),
        Reference("Frankle et al. Stabilizing the Lottery Ticket Hypothesis. 2019", "https://arxiv.org/abs/1903.01611"),
        Reference(
            "Jia et al. Model Sparsity Can Simplify Machine Unlearning. 2023", "https://arxiv.org/abs/2304.04934"
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "transposed", "rows_permuted"),
    unmoved_metrics=("zero_share", "tiny_share"),
)
def sparsity(weight: "Weight") -> Iterator[Measurement | Skip]:
    """How many weights are zero or negligible, and is the pattern intended?

    ## Why it matters
    Zeros are wanted in a pruned model and a symptom in any other: a mask left applied, decay without a gradient, a
    projection that starts at zero and was never reached. Weights far below the rest are paid for and do nothing.

    ## How to read it
    `zero_share` of a dense model is 0 to within a few padding rows; from 0.9998 on the layer is dead. `nm_share` of 1
    reads "an N:M design"; compare it with its null, since random zeros at one half fill 0.69 of all 2:4 groups. The
    evidence says which pattern along which axis. `tiny_share` is 0.08 for Gaussian entries and up to 0.15 in trained
    layers; far more means that a few weights carry the matrix, and `weight-outliers` says which. `below_1e-3` and
    `below_2e-3` are the absolute cuts of SaRA.

    ## Limits
    A layer that is zero-initialised by design (a fresh output projection, an adaptive gate) is dead until trained,
    and is reported. Fresh low-rank adapters are not looked at: one of their factors starts at zero. Zero rows and
    columns are the matter of `dead-units`. Whether it is the same weights that stay small needs two checkpoints.
    N:M patterns run along the axis that is summed over; both axes are tried.
    """
    name, known = weight.site.name, kernels.distribution
    entries = weight.tensor.numel()
    if entries == 0:
        yield skip(name, "empty tensor")
        return
    found = weight.get(known.moments)
    zeros = entries if found is None else found.zeros
    yield ZERO_SHARE.at(name, zeros / entries, 0.0, zeros=zeros, entries=entries)
    best = weight.get(known.pattern)
    shape = {"pattern": f"{best.kept}:{best.of}", "axis": best.axis}
    yield NM_SHARE.at(name, best.share, best.null, **shape, zero_share=zeros / entries)
    if found is None:
        yield skip(name, "tiny_share: every entry is zero")
        return
    tiny = weight.get(known.tiny_count)
    cuts = {f"below_{cut}": known.share_below(weight, float(cut)) for cut in ("1e-3", "2e-3")}
    yield TINY_SHARE.at(name, tiny / (entries - zeros), known.tiny_null(), tiny=tiny, non_zero=entries - zeros, **cuts)
